package dev.loran.engine.testing;

import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.AttentionKernels.RopeTables;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.BinaryFn;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.DropoutMask;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.HostBuffer;
import dev.loran.engine.backend.LossKernels.Labels;
import dev.loran.engine.backend.Matrix;
import dev.loran.engine.backend.OptimizerKernels;
import dev.loran.engine.backend.OptimizerKernels.AdamWStep;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.backend.Scratch;
import dev.loran.engine.backend.UnaryFn;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.function.Function;
import java.util.stream.DoubleStream;
import java.util.stream.IntStream;
import java.util.stream.Stream;

/// A test of a method of [Backend] that no operation calls, or of a guarantee that no operation relies on: optimizer
/// steps, norms, conversions, strides, in-place use. What operations do call is compared by their [OpCase].
///
/// @param name method and circumstance, such as `gemm, rows apart, one A for all`
/// @param run calls the method on fresh arguments and returns what it wrote
public record BackendCase(String name, Function<Memory, List<Buffer>> run) {
    private static final List<DType> FLOATING = List.of(DType.F64, DType.F32, DType.BF16, DType.F16);

    /// Creates arguments: the same numbers on every backend, rounded to the dtype under test.
    public static final class Memory implements AutoCloseable {
        private final Backend backend;
        private final DType dtype;
        private final DType rounding;
        private final Scratch scratch;
        private final Random random;

        Memory(Backend backend, DType dtype, DType rounding, int seed) {
            this.backend = backend;
            this.dtype = dtype;
            this.rounding = rounding;
            this.scratch = new Scratch(backend);
            this.random = new Random(seed);
        }

        public Backend backend() {
            return backend;
        }

        /// Returns `size` elements of NaN.
        public Buffer empty(int size) {
            Buffer b = scratch.allocate(dtype, size);
            backend.fill(b, Double.NaN);
            return b;
        }

        /// Returns `size` elements of NaN, of the dtype used for statistics and losses.
        public Buffer statistics(int size) {
            Buffer b = scratch.allocate(dtype.accumulator(), size);
            backend.fill(b, Double.NaN);
            return b;
        }

        /// Returns `size` draws from N(0, 1).
        public Buffer random(int size) {
            return of(DoubleStream.generate(random::nextGaussian).limit(size).toArray());
        }

        /// Returns `size` draws from U(0.5, 2).
        public Buffer positive(int size) {
            return of(random.doubles(size, 0.5, 2).toArray());
        }

        public Buffer of(double... values) {
            double[] rounded = new double[values.length];
            MemorySegment one = MemorySegment.ofArray(new byte[8]);
            for (int i = 0; i < values.length; i++) {
                HostBuffer.set(one, rounding, 0, values[i]);
                rounded[i] = HostBuffer.get(one, rounding, 0);
            }
            return scratch.hold(backend.of(dtype, rounded));
        }

        public Buffer ints(int... values) {
            return scratch.hold(backend.ofInts(values));
        }

        /// Returns uninitialized memory of another dtype.
        public Buffer other(DType type, int size) {
            return scratch.allocate(type, size);
        }

        @Override
        public void close() {
            scratch.close();
        }
    }

    /// Compares with the reference in every floating-point dtype that `backend` supports; for BF16 and F16 the
    /// reference computes in F64 on rounded inputs.
    ///
    /// @throws AssertionError saying which output differs, and where; or that memory was not released
    public void check(Backend backend) {
        for (DType dtype : FLOATING) {
            if (backend.supports(dtype)) {
                long before = backend.liveBytes();
                compare(backend, dtype);
                if (backend.liveBytes() != before) {
                    throw new AssertionError(name + " on " + backend.name() + ", " + dtype + ": "
                            + (backend.liveBytes() - before) + " bytes were never released");
                }
            }
        }
    }

    private void compare(Backend backend, DType dtype) {
        int seed = name.hashCode();
        try (ReferenceBackend reference = new ReferenceBackend();
                Memory expected = new Memory(reference, DType.F64, dtype, seed);
                Memory actual = new Memory(backend, dtype, dtype, seed)) {
            List<Buffer> e = run.apply(expected);
            List<Buffer> a = run.apply(actual);
            for (int i = 0; i < e.size(); i++) {
                String what = name + " on " + backend.name() + ", " + dtype + ": output " + i;
                Tolerance.of(dtype).check(what, elements(e.get(i)), elements(a.get(i)));
            }
        }
    }

    private static double[] elements(Buffer b) {
        try (Tensor t = Tensor.own(Shape.of(Math.toIntExact(b.size())), b.retain())) {
            return t.toDoubles();
        }
    }

    @Override
    public String toString() {
        return name;
    }

    // ---- the cases

    /// Every guarantee of [Backend] and its families that the cases of [OpCases] leave out.
    public static List<BackendCase> all() {
        return Stream.of(copies(), elements(), sums(), rows(), losses(), optimizers())
                .flatMap(List::stream)
                .toList();
    }

    private static List<BackendCase> copies() {
        return List.of(
                new BackendCase("copy, rows apart", m -> copy(m, m.random(5 * 40), m.random(5 * 50), false)),
                new BackendCase("copy, rows apart, added", m -> copy(m, m.random(5 * 40), m.random(5 * 50), true)),
                new BackendCase(
                        "copy, integers",
                        m -> copy(
                                m,
                                m.ints(new int[5 * 40]),
                                m.ints(new Random(1).ints(250).toArray()),
                                false)),
                new BackendCase("cast, to F32 and back", m -> {
                    Buffer y = m.other(DType.F32, 100);
                    Buffer z = m.empty(100);
                    m.backend().cast(y, m.random(100));
                    m.backend().cast(z, y);
                    return List.of(y, z);
                }),
                new BackendCase("cast, halves are rounded to even", BackendCase::halves),
                new BackendCase("cast, from integers", m -> {
                    Buffer y = m.empty(3);
                    m.backend().cast(y, m.ints(0, 1, -7));
                    return List.of(y);
                }));
    }

    private static List<BackendCase> elements() {
        return List.of(
                new BackendCase("unary, in place", m -> {
                    Buffer x = m.random(33);
                    m.backend().unary(UnaryFn.GELU, x, x);
                    return List.of(x);
                }),
                new BackendCase("unaryBackward, in place", m -> {
                    Buffer dy = m.random(33);
                    m.backend().unaryBackward(UnaryFn.SILU, dy, dy, m.random(33), false);
                    return List.of(dy);
                }),
                new BackendCase("binary, in place of a", m -> binary(m, true)),
                new BackendCase("binary, in place of b", m -> binary(m, false)),
                new BackendCase("axpby", m -> axpby(m, m.random(100), m.random(100), 0.5, -2)),
                new BackendCase("axpby, nothing kept", m -> axpby(m, m.empty(100), m.random(100), 0.5, 0)),
                new BackendCase("axpby, in place", m -> {
                    Buffer x = m.random(7);
                    return axpby(m, x, x, 0.25, 0);
                }),
                new BackendCase("fill", m -> {
                    Buffer y = m.empty(33);
                    m.backend().fill(y, -1.5);
                    return List.of(y);
                }));
    }

    private static List<BackendCase> sums() {
        return List.of(
                new BackendCase("sum, added", m -> sum(m, m.random(3 * 5), m.random(3 * 33 * 5), 3, 33, 5, true)),
                new BackendCase("sum, of nothing", m -> sum(m, m.empty(6), m.random(0), 2, 0, 3, false)),
                new BackendCase("rowMax", m -> {
                    Buffer y = m.empty(7);
                    Buffer x = m.random(7 * 33);
                    m.backend().axpby(x, x, -1, 0);
                    m.backend().rowMax(y, x, 7, 33);
                    return List.of(y);
                }),
                new BackendCase("gemm, rows apart, one A for all", BackendCase::strided),
                new BackendCase("gemm, nothing to multiply", m -> {
                    Buffer c = m.random(7 * 5);
                    Buffer none = m.random(0);
                    m.backend().gemm(new Matrix(c, 7, 5), new Matrix(none, 7, 0), new Matrix(none, 0, 5), 1, 0.5);
                    return List.of(c);
                }));
    }

    private static List<BackendCase> rows() {
        return List.of(
                new BackendCase("dropout, in place and added", m -> {
                    DropoutMask mask = new DropoutMask(0.25, -99L, 1, m.ints(41));
                    Buffer x = m.random(7 * 33);
                    Buffer y = m.random(7 * 33);
                    m.backend().dropout(y, x, 7, 33, mask, true);
                    m.backend().dropout(x, x, 7, 33, mask, false);
                    return List.of(x, y);
                }),
                new BackendCase("softmax, in place", m -> {
                    Buffer x = m.random(7 * 33);
                    m.backend().attention().softmax(x, new Matrix(x, 7, 33));
                    return List.of(x);
                }),
                new BackendCase("rope, in place", m -> {
                    Buffer x = m.random(2 * 3 * 2 * 8);
                    RopeTables tables = new RopeTables(m.random(3 * 4), m.random(3 * 4), 3, 8);
                    m.backend().attention().rope(x, x, tables, 2, 2, -1);
                    return List.of(x);
                }));
    }

    private static List<BackendCase> losses() {
        return List.of(
                new BackendCase("crossEntropyBackward, in place", m -> {
                    Buffer x = m.random(3 * 7);
                    Labels labels = new Labels(m.ints(6, -100, 0), -100);
                    Matrix logits = new Matrix(x, 3, 7);
                    Buffer lse = m.statistics(3);
                    Buffer g = m.statistics(1);
                    m.backend().fill(g, 0.5);
                    m.backend().loss().crossEntropy(m.statistics(3), lse, logits, labels);
                    m.backend().loss().crossEntropyBackward(new Gradient(x, false), g, logits, lse, labels);
                    return List.of(x);
                }),
                new BackendCase("countValid, inverseOfValid", m -> {
                    Buffer count = m.empty(1);
                    Buffer inverse = m.empty(1);
                    Buffer none = m.empty(1);
                    Buffer ids = m.ints(3, -100, 0, 5, -100);
                    m.backend().countValid(count, ids, 5, -100);
                    m.backend().loss().inverseOfValid(inverse, new Labels(ids, -100));
                    m.backend().loss().inverseOfValid(none, new Labels(m.ints(-1, -1), -1));
                    return List.of(count, inverse, none);
                }),
                new BackendCase("linearCrossEntropy, no rows", m -> {
                    Buffer loss = m.statistics(1);
                    Buffer dw = m.empty(5 * 3);
                    Matrix none = new Matrix(m.random(0), 0, 3);
                    Matrix w = new Matrix(m.random(15), 5, 3);
                    m.backend().loss().linearCrossEntropy(loss, m.empty(0), dw, none, w, new Labels(m.ints(), -100), 0);
                    return List.of(loss, dw);
                }),
                new BackendCase("scaleBy", m -> {
                    Buffer y = m.random(33);
                    m.backend().scaleBy(y, m.of(-3), 33);
                    return List.of(y);
                }));
    }

    private static List<BackendCase> optimizers() {
        return List.of(
                new BackendCase("sumOfSquares, clipScale", BackendCase::clip),
                new BackendCase("adamW, three steps", m -> adamW(m, false, 1000)),
                new BackendCase("adamW, scaled gradients", m -> adamW(m, true, 33, 0, 9000, 1, 64)),
                new BackendCase(
                        "adamW, more tensors than one launch takes",
                        m -> adamW(m, true, IntStream.range(0, 170).toArray())),
                new BackendCase("importance", m -> importance(m, 33, false)),
                new BackendCase("importance, scaled gradient", m -> importance(m, 1000, true)),
                new BackendCase("sgd", m -> sgd(m, 33, false, false)),
                new BackendCase("sgd, momentum, scaled gradient", m -> sgd(m, 1000, true, true)));
    }

    private static List<Buffer> copy(Memory m, Buffer y, Buffer x, boolean accumulate) {
        m.backend().copy(y, 40, x, 50, 5, 33, accumulate);
        return List.of(y);
    }

    /// Values halfway between two BF16 or two F16 numbers, of both parities, and NaN bits, which must stay NaN.
    /// Compared as F32, which holds both exactly.
    private static List<Buffer> halves(Memory m) {
        Buffer x = m.other(DType.F32, 6);
        m.backend().cast(x, m.ints(257, 259, 2049, 2051, -257, 65504));
        Buffer bf16 = m.other(DType.BF16, 6);
        Buffer f16 = m.other(DType.F16, 6);
        Buffer y = m.other(DType.F32, 6);
        Buffer z = m.other(DType.F32, 6);
        m.backend().cast(bf16, x);
        m.backend().cast(f16, x);
        m.backend().cast(y, bf16);
        m.backend().cast(z, f16);
        return List.of(y, z);
    }

    private static List<Buffer> binary(Memory m, boolean first) {
        Buffer y = m.random(7 * 33);
        Buffer row = m.random(33);
        int[] dense = {33, 1};
        int[] perCol = {0, 1};
        Buffer a = first ? y : row;
        Buffer b = first ? row : y;
        m.backend().binary(BinaryFn.MAX, y, a, b, new int[] {7, 33}, first ? dense : perCol, first ? perCol : dense);
        return List.of(y);
    }

    private static List<Buffer> axpby(Memory m, Buffer y, Buffer x, double alpha, double beta) {
        m.backend().axpby(y, x, alpha, beta);
        return List.of(y);
    }

    private static List<Buffer> sum(Memory m, Buffer y, Buffer x, int outer, int n, int inner, boolean accumulate) {
        m.backend().sum(y, x, outer, n, inner, accumulate);
        return List.of(y);
    }

    /// Two products of (7, 9) by (9, 5), B transposed, with row strides larger than the matrices are wide; what lies
    /// between the rows of C must not change.
    private static List<Buffer> strided(Memory m) {
        Buffer c = m.random(2 * 100);
        Matrix a = new Matrix(m.random(7 * 12), 7, 9, 12, 0, false);
        Matrix b = new Matrix(m.random(2 * 90), 9, 5, 13, 90, true);
        m.backend().gemm(new Matrix(c, 7, 5, 11, 100, false), a, b, 2, 0.5, -1);
        return List.of(c);
    }

    /// A norm above the limit, and one below it.
    private static List<Buffer> clip(Memory m) {
        Buffer square = m.empty(1);
        Buffer norm = m.empty(1);
        Buffer above = m.empty(1);
        Buffer below = m.empty(1);
        m.backend().optimizer().sumOfSquares(square, List.of(m.random(33), m.random(0), m.random(7), m.random(9000)));
        m.backend().optimizer().clipScale(norm, above, square, 0.5);
        m.backend().optimizer().clipScale(square, below, square, 1000);
        return List.of(norm, above, square, below);
    }

    /// Three steps over tensors of `sizes`; a parameter of odd size starts at an address not aligned for vector access.
    private static List<Buffer> adamW(Memory m, boolean scaled, int... sizes) {
        List<Buffer> p = new ArrayList<>();
        List<Buffer> mean = new ArrayList<>();
        List<Buffer> variance = new ArrayList<>();
        for (int n : sizes) {
            p.add(m.random(n + 1).slice(n % 2, n));
            mean.add(m.random(n));
            variance.add(m.positive(n));
        }
        Buffer scale = scaled ? m.of(0.125) : null;
        for (int t = 1; t <= 3; t++) {
            List<Buffer> g = Arrays.stream(sizes).mapToObj(m::random).toList();
            AdamWStep step = new AdamWStep(m.of(0.01 * t), m.ints(t), scale, 0.9, 0.98, 1e-6, 0.05);
            m.backend().optimizer().adamW(p, mean, variance, g, step);
        }
        return Stream.of(p, mean, variance).flatMap(List::stream).toList();
    }

    /// Two steps, the second of which starts from the result of the first.
    private static List<Buffer> importance(Memory m, int n, boolean scaled) {
        Buffer smooth = m.positive(n);
        Buffer spread = m.positive(n);
        for (int i = 0; i < 2; i++) {
            Buffer p = m.random(n);
            Buffer gScale = scaled ? m.of(0.5) : null;
            m.backend().optimizer().importance(smooth, spread, p, m.random(n), gScale, 0.75, 0.875);
        }
        return List.of(smooth, spread);
    }

    private static List<Buffer> sgd(Memory m, int n, boolean momentum, boolean scaled) {
        Buffer p = m.random(n);
        Buffer velocity = m.random(n);
        Buffer gScale = scaled ? m.of(0.5) : null;
        OptimizerKernels optimizer = m.backend().optimizer();
        optimizer.sgd(p, momentum ? velocity : null, m.random(n), m.of(0.1), gScale, 0.9, 0.01);
        return List.of(p, velocity);
    }
}
