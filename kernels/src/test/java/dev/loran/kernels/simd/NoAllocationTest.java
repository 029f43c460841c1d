package dev.loran.kernels.simd;

import static java.util.Objects.requireNonNull;
import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.assumeFalse;

import com.sun.management.ThreadMXBean;
import dev.loran.engine.backend.AttentionKernels;
import dev.loran.engine.backend.AttentionKernels.Problem;
import dev.loran.engine.backend.AttentionKernels.RopeTables;
import dev.loran.engine.backend.AttentionKernels.Scoring;
import dev.loran.engine.backend.AttentionKernels.Sizes;
import dev.loran.engine.backend.AttentionKernels.Slopes;
import dev.loran.engine.backend.BinaryFn;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.DropoutMask;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.LinearKernels;
import dev.loran.engine.backend.LinearKernels.LowRankUpdate;
import dev.loran.engine.backend.LinearKernels.Projected;
import dev.loran.engine.backend.LossKernels.Labels;
import dev.loran.engine.backend.Matrix;
import dev.loran.engine.backend.NormKernels.Statistics;
import dev.loran.engine.backend.OptimizerKernels.AdamWStep;
import dev.loran.engine.backend.Scratch;
import dev.loran.engine.backend.UnaryFn;
import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.lang.management.ManagementFactory;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.TreeMap;
import java.util.stream.Stream;
import jdk.incubator.vector.FloatVector;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/// Kernels must not allocate on the Java heap once they are compiled, because C2 then keeps no vector as an object.
/// This must hold even if the JVM has seen vectors stored to other kinds of memory, which is what makes it fall back.
final class NoAllocationTest {
    private static final int ROWS = 48;

    /// Not a multiple of the vector length: the loop and its remainder are in one method, and neither may crowd out the
    /// other.
    private static final int IN = 252;
    private static final int OUT = 96;

    /// Few enough rows that they are read by dot products and not packed.
    private static final int FEW = 3;

    /// Enough rows that the low-rank part of a layer takes its blocks through the frozen weight as well.
    private static final int MANY = 320;

    private static final int RANK = 8;

    /// Keys and queries, in two blocks each.
    private static final int KEYS = 160;

    private static final int HEADS = 2;

    /// Elements of a head.
    private static final int D = 36;

    private static final String IN_BF16 = " in BF16";

    private static final int WARM_UP = 2_000;

    /// The first round that counts. C2 compiles a method that is called once per call only after 5,000 calls, and only
    /// then inlines everything that it will inline.
    private static final int FIRST = 3;

    private static final int ROUNDS = 40;
    private static final int CALLS = 100;

    /// One object for every vector of the output would be 10 MB.
    private static final long BOUND = CALLS * 10_000L;

    /// Products in BF16 consist of many small ones, each described by small records.
    private static final long BOUND_OF_BF16 = CALLS * 40_000L;

    private final ThreadMXBean thread = (ThreadMXBean) ManagementFactory.getThreadMXBean();

    static Stream<String> kernels() {
        try (Cases cases = new Cases()) {
            return cases.all.keySet().stream().toList().stream();
        }
    }

    /// The run with narrow vectors is for machines that have wider ones; on others it would only repeat the normal run.
    @BeforeAll
    static void notTwice() throws IOException {
        Path processor = Path.of("/proc/cpuinfo");
        boolean narrow = Integer.getInteger("loran.test.vectorBits") != null;
        assumeFalse(
                narrow
                        && Files.exists(processor)
                        && !Files.readString(processor).contains("avx512f"),
                "this processor has no vectors wider than those of the other execution");
    }

    @ParameterizedTest
    @MethodSource("kernels")
    void allocatesNothing(String kernel) {
        try (Cases cases = new Cases()) {
            long bound = kernel.endsWith(IN_BF16) ? BOUND_OF_BF16 : BOUND;
            assertThat(allocated(requireNonNull(cases.all.get(kernel)), bound)).isLessThan(bound);
        }
    }

    /// Returns the bytes that `CALLS` calls allocate once C2 has compiled them, which takes longer on a busy machine:
    /// the minimum over many rounds, up to the first that allocates practically nothing.
    private long allocated(Runnable kernel, long bound) {
        long least = Long.MAX_VALUE;
        for (int round = 0; round < ROUNDS && least >= bound; round++) {
            for (int i = 0; i < WARM_UP; i++) {
                MemorySegment heap = MemorySegment.ofArray(new byte[FloatVector.SPECIES_PREFERRED.vectorByteSize()]);
                FloatVector.broadcast(FloatVector.SPECIES_PREFERRED, i)
                        .intoMemorySegment(heap, 0, ByteOrder.nativeOrder());
                kernel.run();
            }
            long before = thread.getCurrentThreadAllocatedBytes();
            for (int i = 0; i < CALLS; i++) {
                kernel.run();
            }
            if (round >= FIRST - 1) {
                least = Math.min(least, thread.getCurrentThreadAllocatedBytes() - before);
            }
        }
        return least;
    }

    /// Every kernel of [SimdBackend], with arguments of about 12,000 elements, and again in BF16 if it takes BF16
    /// operands.
    private static final class Cases implements AutoCloseable {
        final Map<String, Runnable> all = new TreeMap<>();
        private final SimdBackend backend = new SimdBackend(1);
        private final SimdBackend bf16 = new SimdBackend(1, DType.BF16);
        private final Scratch scratch = new Scratch(backend);
        private final Scratch scratch16 = new Scratch(bf16);
        private final Buffer a = normal(ROWS * IN);
        private final Buffer b = normal(ROWS * IN);
        private final Buffer c = normal(ROWS * IN);
        private final Buffer row = normal(IN);
        private final Buffer y = scratch.like(a);
        private final Buffer z = scratch.like(a);
        private final Buffer mean = scratch.allocate(DType.F32, ROWS);
        private final Buffer rstd = scratch.allocate(DType.F32, ROWS);
        private final Statistics kept = new Statistics(mean, rstd);
        private final Matrix rows = new Matrix(a, ROWS, IN);
        private final Buffer one = backend.of(DType.F32, 1);
        private final Buffer labels = scratch.allocate(DType.I32, ROWS);
        private final DropoutMask mask = new DropoutMask(0.1, 1, 2, scratch.hold(backend.ofInts(7)));

        Cases() {
            scratch.hold(one);
            backend.fill(labels, 5);
            backend.norm().layerNorm(y, kept, rows, row, row, 1e-5);
            memory();
            elements();
            sums();
            norms();
            losses();
            products("", backend, scratch);
            products(IN_BF16, bf16, scratch16);
            lowRank("", backend, scratch);
            lowRank(IN_BF16, bf16, scratch16);
            attention("", backend, scratch);
            attention(IN_BF16, bf16, scratch16);
            Sizes wide = new Sizes(1, ROWS, ROWS, 0, 1, 1, IN);
            Problem problem = new Problem(a, b, c, null, null, null, wide, true, 0.1);
            all.put("attention of a wide head", () -> backend.attention().attention(y, mean, problem));
            optimizers();
        }

        private void memory() {
            Buffer half = scratch.allocate(DType.BF16, ROWS * IN);
            Buffer ids = scratch.allocate(DType.I32, ROWS);
            backend.fill(ids, 1);
            Buffer prepared = scratch.hold(backend.prepare(a, ROWS, IN));
            all.put("fill", () -> backend.fill(y, 2));
            all.put("copy", () -> backend.copy(y, IN, a, IN, ROWS, IN - 1, false));
            all.put("copy onto", () -> backend.copy(y, IN, a, IN, ROWS, IN - 1, true));
            all.put("cast to BF16", () -> backend.cast(half, a));
            all.put("cast from BF16", () -> backend.cast(y, half));
            all.put("permute", () -> backend.permute(y, a, new int[] {ROWS, IN}, new int[] {1, 0}));
            all.put("gatherRows", () -> backend.gatherRows(y, a, ids, ROWS, IN));
            all.put("gatherRows of a frozen table", () -> backend.gatherRows(y, prepared, ids, ROWS, IN));
            all.put("scatterAddRows", () -> backend.scatterAddRows(y, a, ids, ROWS, ROWS, IN));
        }

        private void elements() {
            int[] shape = {ROWS, IN};
            int[] dense = {IN, 1};
            for (BinaryFn fn : BinaryFn.values()) {
                all.put(fn + "", () -> backend.binary(fn, y, a, b, shape, dense, dense));
                all.put(fn + " of a row", () -> backend.binary(fn, y, a, row, shape, dense, new int[] {0, 1}));
                all.put(fn + " of a column", () -> backend.binary(fn, y, a, mean, shape, dense, new int[] {1, 0}));
                all.put(fn + " to a column", () -> backend.binary(fn, y, mean, a, shape, new int[] {1, 0}, dense));
            }
            for (UnaryFn fn : UnaryFn.values()) {
                all.put(fn + "", () -> backend.unary(fn, y, a));
                all.put(fn + " backward", () -> backend.unaryBackward(fn, y, b, a, false));
            }
            all.put("SILU backward onto", () -> backend.unaryBackward(UnaryFn.SILU, y, b, a, true));
            all.put("axpby", () -> backend.axpby(y, a, 0.5, 0.5));
            all.put("dropout", () -> backend.dropout(y, a, ROWS, IN, mask, false));
            all.put("dropout onto", () -> backend.dropout(y, a, ROWS, IN, mask, true));
            all.put("gated", () -> backend.activation().gated(UnaryFn.SILU, y, a, b));
            all.put(
                    "gatedBackward",
                    () -> backend.activation()
                            .gatedBackward(UnaryFn.SILU, new Gradient(y, false), new Gradient(z, false), c, a, b));
            RopeTables tables = new RopeTables(b, c, ROWS, D);
            all.put("rope", () -> backend.attention().rope(y, a, tables, 1, IN / D, 1));
        }

        private void sums() {
            all.put("sum of rows", () -> backend.sum(mean, a, ROWS, IN, 1, false));
            all.put("sum of columns", () -> backend.sum(row, a, 1, ROWS, IN, false));
            all.put("sum of few columns", () -> backend.sum(y, a, ROWS, IN / FEW, FEW, false));
            all.put("rowMax", () -> backend.rowMax(mean, a, ROWS, IN));
            all.put("countValid", () -> backend.countValid(one, labels, ROWS, -100));
            all.put("sumOfSquares", () -> backend.optimizer().sumOfSquares(one, List.of(a, b)));
        }

        private void norms() {
            all.put("layerNorm", () -> backend.norm().layerNorm(y, kept, rows, row, row, 1e-5));
            all.put("addLayerNorm", () -> backend.norm().addLayerNorm(y, z, kept, rows, b, row, row, 1e-5));
            all.put("layerNormBackward", () -> layerNormBackward(false));
            all.put("layerNormBackward onto", () -> layerNormBackward(true));
            all.put("rmsNorm", () -> backend.norm().rmsNorm(y, rstd, rows, row, 1e-5));
            all.put("addRmsNorm", () -> backend.norm().addRmsNorm(y, z, rstd, rows, b, row, 1e-5));
            Gradient ontoX = new Gradient(y, true);
            Gradient ontoWeight = new Gradient(row, true);
            all.put("rmsNormBackward", () -> backend.norm().rmsNormBackward(ontoX, ontoWeight, b, rows, rstd, row));
        }

        private void layerNormBackward(boolean onto) {
            Gradient dx = new Gradient(y, onto);
            backend.norm().layerNormBackward(dx, new Gradient(row, onto), null, b, rows, kept, row);
        }

        private void losses() {
            all.put("softmax", () -> backend.attention().softmax(y, rows));
            all.put("softmaxBackward", () -> softmaxBackward(false));
            all.put("softmaxBackward onto", () -> softmaxBackward(true));
            Labels valid = new Labels(labels, -100);
            all.put("crossEntropy", () -> backend.loss().crossEntropy(mean, rstd, rows, valid));
            all.put(
                    "crossEntropyBackward",
                    () -> backend.loss().crossEntropyBackward(new Gradient(y, false), one, rows, rstd, valid));
        }

        private void softmaxBackward(boolean onto) {
            backend.attention().softmaxBackward(new Gradient(y, onto), b, rows);
        }

        private void products(String operands, SimdBackend backend, Scratch scratch) {
            Buffer x = normal(backend, scratch, ROWS * IN);
            Buffer w = normal(backend, scratch, OUT * IN);
            Buffer dw = scratch.like(w);
            Buffer bias = normal(backend, scratch, OUT);
            Buffer out = normal(backend, scratch, ROWS * OUT);
            Buffer dx = scratch.like(x);
            Buffer frozen = scratch.hold(backend.prepare(w, OUT, IN));
            Map<String, Runnable> products = new TreeMap<>();
            LinearKernels linear = backend.linear();
            Matrix xs = new Matrix(x, ROWS, IN);
            Matrix ws = new Matrix(w, OUT, IN);
            Matrix packed = ws.in(frozen);
            Matrix ys = new Matrix(out, ROWS, OUT);
            Matrix fewXs = new Matrix(x, FEW, IN);
            Matrix fewYs = new Matrix(out, FEW, OUT);
            Gradient dX = new Gradient(dx, false);
            Gradient ontoX = new Gradient(dx, true);
            Gradient ontoW = new Gradient(dw, true);
            products.put("linear", () -> linear.linear(ys, xs, ws, bias));
            products.put("linear of few rows", () -> linear.linear(fewYs, fewXs, ws, bias));
            products.put(
                    "linear of one row", () -> linear.linear(new Matrix(out, 1, OUT), new Matrix(x, 1, IN), ws, null));
            products.put("linearBackwardInput", () -> linear.linearBackwardInput(dX, ys, ws));
            products.put("linearBackwardWeight", () -> linear.linearBackwardWeight(ontoW, ys, xs));
            products.put("frozen linear", () -> linear.linear(ys, xs, packed, bias));
            products.put("frozen linear of few rows", () -> linear.linear(fewYs, fewXs, packed, null));
            products.put("frozen backward", () -> linear.linearBackwardInput(ontoX, ys, packed));
            products.put("frozen backward of few rows", () -> linear.linearBackwardInput(dX, fewYs, packed));
            products.forEach((name, product) -> all.put(name + operands, product));
        }

        /// Low-rank layers whose weight is trainable, or frozen and part of the same pass.
        private void lowRank(String operands, SimdBackend backend, Scratch scratch) {
            Buffer x = normal(backend, scratch, MANY * D);
            Buffer w = normal(backend, scratch, D * D);
            Buffer frozen = scratch.hold(backend.prepare(w, D, D));
            Buffer down = normal(backend, scratch, RANK * D);
            Buffer up = normal(backend, scratch, D * RANK);
            Buffer t = scratch.allocate(DType.F32, MANY * RANK);
            Buffer out = normal(backend, scratch, MANY * D + 1);
            Buffer dx = scratch.like(x);
            Buffer dDown = scratch.like(down);
            Buffer dUp = scratch.like(up);
            DropoutMask mask = new DropoutMask(0.1, 1, 2, scratch.hold(backend.ofInts(7)));
            Matrix xs = new Matrix(x, MANY, D);
            Matrix ys = new Matrix(out, MANY, D);
            LowRankUpdate update = new LowRankUpdate(
                    new Matrix(t, MANY, RANK), new Matrix(down, RANK, D), new Matrix(up, D, RANK), 2, mask);
            LinearKernels linear = backend.linear();
            Projected one = new Projected(ys, new Matrix(frozen, D, D), null, update);
            Projected other = new Projected(xs.in(dx), new Matrix(frozen, D, D), null, null);
            all.put("projections" + operands, () -> linear.projections(List.of(one, other), xs));
            Gradient dX = new Gradient(dx, false);
            Gradient dA = new Gradient(dDown, true);
            Gradient dB = new Gradient(dUp, true);
            for (Buffer b : List.of(w, frozen)) {
                String name = b == w ? "" : "frozen ";
                Matrix weight = new Matrix(b, D, D);
                all.put(name + "loraLinear" + operands, () -> linear.loraLinear(ys, xs, weight, null, update));
                all.put(
                        name + "loraLinearBackward" + operands,
                        () -> linear.loraLinearBackward(dX, dA, dB, ys, xs, weight, update));
            }
        }

        private void attention(String operands, SimdBackend backend, Scratch scratch) {
            int n = KEYS * HEADS * D;
            Buffer q = normal(backend, scratch, n);
            Buffer k = normal(backend, scratch, n + 1);
            Buffer v = normal(backend, scratch, n + 2);
            Buffer dOut = normal(backend, scratch, n + 3);
            Buffer out = scratch.like(q);
            Buffer dq = scratch.like(q);
            Buffer dk = scratch.like(q);
            Buffer dv = scratch.like(q);
            Buffer lse = scratch.allocate(DType.F32, HEADS * KEYS);
            Buffer seen = scratch.allocate(DType.I32, KEYS);
            backend.fill(seen, 1);
            AttentionKernels attention = backend.attention();
            Sizes sizes = new Sizes(1, KEYS, KEYS, 0, HEADS, HEADS, D);
            Problem plain = new Problem(q, k, v, null, null, null, sizes, true, 0.1);
            all.put("attention" + operands, () -> attention.attention(out, lse, plain));
            Problem masked = new Problem(q, k, v, null, null, seen, sizes, false, 0.1);
            all.put("attention with a mask" + operands, () -> attention.attention(out, lse, masked));
            Scoring capped = new Scoring(true, KEYS / 2, 0.1, 2);
            Problem other = new Problem(q, k, v, null, null, seen, sizes, capped);
            all.put("attention with window and soft cap" + operands, () -> attention.attention(out, lse, other));
            Problem packed = new Problem(q, k, v, null, null, seen, sizes, new Scoring(true, 0.1).withPacked(true));
            all.put("attention of packed rows" + operands, () -> attention.attention(out, lse, packed));
            Sizes one = new Sizes(1, 1, KEYS, 0, HEADS, HEADS, D);
            Problem single = new Problem(q, k, v, null, null, null, one, false, 0.1);
            all.put("attention of one query" + operands, () -> attention.attention(out, lse, single));
            Slopes slopes = new Slopes(dq, dk, dv, null, null);
            all.put("attentionBackward" + operands, () -> attention.attentionBackward(slopes, dOut, out, lse, plain));
            all.put(
                    "attentionBackward with window and soft cap" + operands,
                    () -> attention.attentionBackward(slopes, dOut, out, lse, other));
            all.put(
                    "attentionBackward of packed rows" + operands,
                    () -> attention.attentionBackward(slopes, dOut, out, lse, packed));
        }

        private void optimizers() {
            Buffer p = normal(ROWS * IN);
            Buffer m = scratch.like(p);
            Buffer v = scratch.like(p);
            backend.fill(m, 0);
            backend.fill(v, 0);
            Buffer lr = scratch.hold(backend.of(DType.F32, 1e-6));
            Buffer t = scratch.hold(backend.ofInts(3));
            AdamWStep step = new AdamWStep(lr, t, one, 0.9, 0.999, 1e-8, 0.01);
            all.put("adamW", () -> backend.optimizer().adamW(List.of(p), List.of(m), List.of(v), List.of(a), step));
            all.put("sgd", () -> backend.optimizer().sgd(p, null, a, lr, one, 0, 0.01));
            all.put("sgd with momentum", () -> backend.optimizer().sgd(p, m, a, lr, one, 0.9, 0.01));
        }

        private Buffer normal(int n) {
            return normal(backend, scratch, n);
        }

        private static Buffer normal(SimdBackend backend, Scratch scratch, int n) {
            Random random = new Random(n);
            float[] values = new float[n];
            for (int i = 0; i < n; i++) {
                values[i] = (float) random.nextGaussian();
            }
            Buffer x = scratch.allocate(DType.F32, n);
            backend.write(x, MemorySegment.ofArray(values));
            return x;
        }

        @Override
        public void close() {
            scratch.close();
            scratch16.close();
            backend.close();
            bf16.close();
        }
    }
}
