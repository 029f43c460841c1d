package dev.loran.kernels.simd;

import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.DropoutMask;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.LinearKernels;
import dev.loran.engine.backend.LinearKernels.LowRankUpdate;
import dev.loran.engine.backend.LinearKernels.Projected;
import dev.loran.engine.backend.Matrix;
import dev.loran.kernels.simd.gemm.Bf16Tiles;
import dev.loran.kernels.simd.gemm.FrozenWeight;
import dev.loran.kernels.simd.gemm.FrozenWeightTest;
import dev.loran.kernels.simd.gemm.InterpretedTiles;
import dev.loran.kernels.simd.gemm.Operand;
import dev.loran.kernels.simd.vector.Parallel;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Named;
import org.junit.jupiter.api.TestInstance;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.MethodSource;

/// The linear layer with LoRA against the composed version in double precision, at sizes of several blocks.
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
class LoraLinearSimdTest {
    private KernelCheck check;

    @BeforeAll
    void open() {
        check = new KernelCheck();
    }

    @AfterAll
    void close() {
        check.close();
    }

    @ParameterizedTest
    @CsvSource({
        "1, 1, 1, 1, true, false",
        "7, 33, 5, 1, true, true",
        "33, 7, 33, 3, false, true",
        "65, 64, 48, 8, true, false",
        "70, 130, 65, 16, false, false",
        "300, 100, 64, 16, true, true",
        // Enough rows, for one thread and for two, for tasks to take their blocks through the frozen weight as well;
        // sums in several blocks.
        "700, 100, 64, 16, true, true",
        "600, 2100, 33, 3, false, false",
    })
    void agreesWithComposed(int n, int in, int out, int r, boolean dropout, boolean accumulate) {
        check.agree("loraLinear", m -> {
            Buffer x = m.in((long) n * in);
            Buffer w = m.prepared(m.in((long) out * in, 1 / Math.sqrt(in), 0), out, in);
            Buffer bias = accumulate ? m.in(out) : null;
            Buffer a = m.in((long) r * in, 1 / Math.sqrt(in), 0);
            Buffer b = m.in((long) out * r);
            Buffer dy = m.in((long) n * out);
            DropoutMask mask = dropout ? new DropoutMask(0.3, 77, 5, m.ints(9)) : null;
            Buffer t = m.out("t", (long) n * r);
            Matrix xs = new Matrix(x, n, in);
            Matrix ws = new Matrix(w, out, in);
            Matrix dys = new Matrix(dy, n, out);
            LowRankUpdate update =
                    new LowRankUpdate(new Matrix(t, n, r), new Matrix(a, r, in), new Matrix(b, out, r), 1.5, mask);
            LinearKernels linear = m.backend().linear();
            linear.loraLinear(new Matrix(m.out("y", (long) n * out), n, out), xs, ws, bias, update);
            Gradient dx = new Gradient(m.out("dx", (long) n * in, accumulate), accumulate);
            Gradient da = new Gradient(m.out("da", (long) r * in, accumulate), accumulate);
            Gradient db = new Gradient(m.out("db", (long) out * r, accumulate), accumulate);
            linear.loraLinearBackward(dx, da, db, dys, xs, ws, update);
            da = new Gradient(m.out("da alone", (long) r * in), false);
            linear.loraLinearBackward(null, da, null, dys, xs, ws, update);
            dx = new Gradient(m.out("dx alone", (long) n * in), false);
            linear.loraLinearBackward(dx, null, null, dys, xs, ws, update);
        });
    }

    /// Layers of one input, with and without a low-rank part, packed or not, with few rows and with many.
    @ParameterizedTest
    @CsvSource({"7, 33, true", "700, 100, true", "700, 100, false", "600, 2100, true"})
    void projectionsAgreeWithLayersOfTheirOwn(int n, int in, boolean packed) {
        int[] outs = {48, 65, 7};
        check.agree("projections", m -> {
            Buffer x = m.in((long) n * in);
            Buffer counter = m.ints(9);
            List<Projected> layers = new ArrayList<>();
            for (int i = 0; i < outs.length; i++) {
                int out = outs[i];
                int r = 3 + i;
                Buffer w = m.in((long) out * in, 1 / Math.sqrt(in), 0);
                LowRankUpdate update = i == 2
                        ? null
                        : new LowRankUpdate(
                                new Matrix(m.out("t " + i, (long) n * r), n, r),
                                new Matrix(m.in((long) r * in, 1 / Math.sqrt(in), 0), r, in),
                                new Matrix(m.in((long) out * r), out, r),
                                1.5,
                                i == 0 ? new DropoutMask(0.3, 77, 5, counter) : null);
                Matrix y = new Matrix(m.out("y " + i, (long) n * out), n, out);
                Matrix weight = new Matrix(packed || i == 1 ? m.prepared(w, out, in) : w, out, in);
                layers.add(new Projected(y, weight, i == 1 ? null : m.in(out), update));
            }
            m.backend().linear().projections(layers, new Matrix(x, n, in));
        });
    }

    static List<Arguments> roundedProblems() {
        // n, in, out, r, dropout
        int[][] small = {{1, 1, 1, 1, 1}, {33, 7, 33, 3, 0}, {65, 64, 48, 8, 1}, {70, 130, 65, 16, 1}};
        int[][] large = {{300, 100, 64, 16, 0}, {1100, 384, 200, 12, 1}};
        List<Arguments> all = new ArrayList<>();
        for (Named<Bf16Tiles> tiles : FrozenWeightTest.tiles()) {
            boolean interpreted = tiles.getPayload() instanceof InterpretedTiles;
            Stream.concat(Stream.of(small), interpreted ? Stream.empty() : Stream.of(large))
                    .forEach(s -> all.add(Arguments.of(tiles, s)));
        }
        return all;
    }

    /// With every kind of tiles, against the F32 kernel: the difference must be no larger than rounding to 8 bits
    /// explains.
    @ParameterizedTest
    @MethodSource("roundedProblems")
    void operandsOfBf16GiveNearlyTheSame(Bf16Tiles tiles, int[] s) {
        int n = s[0];
        int in = s[1];
        int out = s[2];
        int r = s[3];
        Random random = new Random(23);
        try (Parallel parallel = new Parallel(2);
                SimdBackend backend = new SimdBackend(1);
                Arena arena = Arena.ofShared()) {
            Buffer step = backend.wrap(DType.I32, arena.allocateFrom(ValueLayout.JAVA_INT, 9), () -> {});
            DropoutMask mask = s[4] == 0 ? null : new DropoutMask(0.3, 77, 5, step);
            MemorySegment x = AttentionSimdTest.normal(arena, random, (long) n * in);
            MemorySegment a = AttentionSimdTest.normal(arena, random, (long) r * in);
            MemorySegment b = AttentionSimdTest.normal(arena, random, (long) r * out);
            MemorySegment w = AttentionSimdTest.normal(arena, random, (long) out * in);
            MemorySegment dy = AttentionSimdTest.normal(arena, random, (long) n * out);
            MemorySegment before = AttentionSimdTest.normal(arena, random, Math.max(n, out) * (long) Math.max(in, r));
            List<MemorySegment> exact = new ArrayList<>();
            for (Bf16Tiles of : new Bf16Tiles[] {null, tiles}) {
                MemorySegment y = arena.allocate(4L * n * out, 64);
                MemorySegment t = arena.allocate(4L * n * r, 64);
                MemorySegment dx = arena.allocate(4L * n * in, 64).copyFrom(before.asSlice(0, 4L * n * in));
                MemorySegment da = arena.allocate(4L * r * in, 64);
                MemorySegment db = arena.allocate(4L * out * r, 64).copyFrom(before.asSlice(0, 4L * out * r));
                Operand xs = Operand.dense(x, 0, n, in);
                LowRankUpdate update = new LowRankUpdate(
                        new Matrix(backend.wrap(DType.F32, t, () -> {}), n, r),
                        new Matrix(backend.wrap(DType.F32, a, () -> {}), r, in),
                        new Matrix(backend.wrap(DType.F32, b, () -> {}), out, r),
                        1.5,
                        mask);
                FrozenWeight frozen = new FrozenWeight(parallel, w, out, in, bytes -> arena.allocate(bytes, 64), of);
                LoraLinearSimd.Layer layer =
                        new LoraLinearSimd.Layer(Operand.dense(y, 0, n, out), frozen.forward(), null, update);
                LoraLinearSimd.forward(parallel, of, List.of(layer), xs);
                Gradient dX = new Gradient(backend.wrap(DType.F32, dx, () -> {}), true);
                Gradient dA = new Gradient(backend.wrap(DType.F32, da, () -> {}), false);
                Gradient dB = new Gradient(backend.wrap(DType.F32, db, () -> {}), true);
                new LoraLinearSimd.Backward(parallel, of, Operand.dense(dy, 0, n, out), xs, update)
                        .run(frozen.backward(parallel), dX, dA, dB);
                List<MemorySegment> results = List.of(y, t, dx, da, db);
                if (of == null) {
                    exact.addAll(results);
                } else {
                    for (int i = 0; i < results.size(); i++) {
                        AttentionSimdTest.near("result " + i, results.get(i), exact.get(i));
                    }
                }
            }
        }
    }
}
