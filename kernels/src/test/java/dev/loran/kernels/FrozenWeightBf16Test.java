package dev.loran.kernels;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import dev.loran.engine.Buffer;
import dev.loran.engine.DType;
import dev.loran.engine.HostBuffer;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Named;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;

/// Products with a weight packed as BF16, against sums in F64 of the rounded operands, with every kind of tiles: those in
/// machine code natively where the processor has the instructions, and always as [Interpreter] runs their bytes.
final class FrozenWeightBf16Test {
    private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT;

    private static final int[][] SHAPES = {
        {1, 7, 33}, {2, 50, 70}, {8, 48, 16}, {33, 49, 130}, {65, 130, 1}, {3, 129, 600}, {32, 32, 32}, {17, 17, 65}
    };

    /// More than one block of k: for what is not interpreted.
    private static final int[][] LARGE = {{130, 2100, 127}, {70, 127, 2050}};

    private final Arena arena = Arena.ofShared();
    private final Parallel parallel = new Parallel(2);
    private final Random random = new Random(33);

    static List<Named<Bf16Tiles>> tiles() {
        List<Named<Bf16Tiles>> all = new ArrayList<>();
        all.add(Named.of("widened", new WidenedTiles()));
        all.add(Named.of("AVX512-BF16, interpreted", new InterpretedTiles.Avx512()));
        all.add(Named.of("AMX, interpreted", new InterpretedTiles.Amx()));
        if (Avx512Tiles.obstacle() == null) {
            all.add(Named.of("AVX512-BF16", new Avx512Tiles()));
        }
        if (AmxTiles.obstacle() == null) {
            all.add(Named.of("AMX", new AmxTiles()));
        }
        return all;
    }

    private static int[][] shapes(Bf16Tiles tiles) {
        return tiles instanceof InterpretedTiles
                ? SHAPES
                : Stream.concat(Stream.of(SHAPES), Stream.of(LARGE)).toArray(int[][]::new);
    }

    @AfterEach
    void free() {
        parallel.close();
        arena.close();
    }

    private MemorySegment normal(long n) {
        MemorySegment x = arena.allocate(4 * n, 64);
        for (long i = 0; i < n; i++) {
            x.setAtIndex(FLOAT, i, (float) random.nextGaussian());
        }
        return x;
    }

    private static double rounded(MemorySegment x, long i) {
        return Float.intBitsToFloat(HostBuffer.toBf16(x.getAtIndex(FLOAT, i)) << 16);
    }

    private FrozenWeight pack(MemorySegment w, int out, int in, Bf16Tiles tiles) {
        // Dirty memory: what is padded must be written too.
        return new FrozenWeight(
                parallel, w, out, in, bytes -> arena.allocate(bytes, 64).fill((byte) 0x7f), tiles);
    }

    /// Sum of |terms| times this bounds the error of a sum in F32 whose order we do not prescribe.
    private static double bound(int k) {
        return 1e-6 * (4 + k);
    }

    @ParameterizedTest
    @MethodSource("tiles")
    void linear(Bf16Tiles tiles) {
        for (int[] s : shapes(tiles)) {
            int m = s[0];
            int out = s[1];
            int in = s[2];
            MemorySegment w = normal((long) out * in);
            MemorySegment x = normal(1 + m * (in + 2L));
            MemorySegment bias = normal(out + 1L);
            FrozenWeight packed = pack(w, out, in, tiles);
            for (float beta : new float[] {0, 1, -0.5f}) {
                for (boolean biased : new boolean[] {false, true}) {
                    MemorySegment y = normal(m * (out + 3L));
                    float[] before = y.toArray(FLOAT);
                    packed.linear(parallel, y, 0, out + 3, x, 4, in + 2, biased ? bias : null, 4, m, beta);
                    for (int i = 0; i < m; i++) {
                        for (int j = 0; j < out; j++) {
                            double expected =
                                    beta * before[i * (out + 3) + j] + (biased ? bias.getAtIndex(FLOAT, 1 + j) : 0);
                            for (int p = 0; p < in; p++) {
                                expected += rounded(x, 1 + i * (in + 2L) + p) * rounded(w, (long) j * in + p);
                            }
                            assertThat((double) y.getAtIndex(FLOAT, i * (out + 3L) + j))
                                    .isCloseTo(expected, within(bound(in)));
                        }
                        for (int j = out; j < out + 3; j++) {
                            assertThat(y.getAtIndex(FLOAT, i * (out + 3L) + j))
                                    .as("beside y")
                                    .isEqualTo(before[i * (out + 3) + j]);
                        }
                    }
                }
            }
        }
    }

    @ParameterizedTest
    @MethodSource("tiles")
    void linearBackward(Bf16Tiles tiles) {
        for (int[] s : shapes(tiles)) {
            int m = s[0];
            int out = s[1];
            int in = s[2];
            MemorySegment w = normal((long) out * in);
            MemorySegment dy = normal(m * (out + 1L));
            FrozenWeight packed = pack(w, out, in, tiles);
            for (float beta : new float[] {0, 1, 0.5f}) {
                MemorySegment dx = normal(m * (in + 2L));
                float[] before = dx.toArray(FLOAT);
                packed.linearBackward(parallel, dx, 0, in + 2, dy, 0, out + 1, m, beta);
                for (int i = 0; i < m; i++) {
                    for (int j = 0; j < in; j++) {
                        double expected = beta * before[i * (in + 2) + j];
                        for (int p = 0; p < out; p++) {
                            expected += rounded(dy, i * (out + 1L) + p) * rounded(w, (long) p * in + j);
                        }
                        assertThat((double) dx.getAtIndex(FLOAT, i * (in + 2L) + j))
                                .isCloseTo(expected, within(bound(out)));
                    }
                    assertThat(dx.getAtIndex(FLOAT, i * (in + 2L) + in)).isEqualTo(before[i * (in + 2) + in]);
                }
            }
        }
    }

    /// Both operands in all orientations, and rows of memory beside C left alone.
    @ParameterizedTest
    @MethodSource("tiles")
    void product(Bf16Tiles tiles) {
        for (int[] s : shapes(tiles)) {
            for (int orientation = 0; orientation < 4; orientation++) {
                product(tiles, s[0], s[1], s[2], (orientation & 1) != 0, (orientation & 2) != 0);
            }
        }
    }

    private void product(Bf16Tiles tiles, int m, int n, int k, boolean transA, boolean transB) {
        int lda = (transA ? m : k) + 1;
        int ldb = (transB ? k : n) + 2;
        int ldc = n + 3;
        MemorySegment a = normal((transA ? k : m) * (long) lda);
        MemorySegment b = normal((transB ? n : k) * (long) ldb);
        MemorySegment bias = normal(n);
        for (float beta : new float[] {0, 1, -0.5f}) {
            MemorySegment c = normal(m * (long) ldc);
            float[] before = c.toArray(FLOAT);
            GemmSimd.Matrix row = beta == 1 ? null : new GemmSimd.Matrix(bias, 0, n, false);
            GemmBf16.product(
                    parallel,
                    tiles,
                    new GemmSimd.Matrix(c, 0, ldc, false),
                    new GemmSimd.Matrix(a, 0, lda, transA),
                    new GemmSimd.Matrix(b, 0, ldb, transB),
                    m,
                    n,
                    k,
                    beta,
                    row);
            for (int i = 0; i < m; i++) {
                for (int j = 0; j < n; j++) {
                    double expected = beta * before[i * ldc + j] + (row == null ? 0 : bias.getAtIndex(FLOAT, j));
                    for (int p = 0; p < k; p++) {
                        long left = transA ? p * (long) lda + i : i * (long) lda + p;
                        long right = transB ? j * (long) ldb + p : p * (long) ldb + j;
                        expected += rounded(a, left) * rounded(b, right);
                    }
                    double is = c.getAtIndex(FLOAT, i * (long) ldc + j);
                    // Millions of elements: an assertion is made of the wrong ones only.
                    if (!(Math.abs(is - expected) <= bound(k))) {
                        assertThat(is)
                                .as("%d x %d x %d, a %s, b %s, (%d, %d)", m, n, k, transA, transB, i, j)
                                .isCloseTo(expected, within(bound(k)));
                    }
                }
                for (int j = n; j < ldc; j++) {
                    assertThat(c.getAtIndex(FLOAT, i * (long) ldc + j)).isEqualTo(before[i * ldc + j]);
                }
            }
        }
    }

    /// A trainable weight's three products: rounded where all sizes are 16 or more, exact where one is less.
    @ParameterizedTest
    @ValueSource(ints = {15, 16, 33})
    void aBackendOfBf16OperandsRoundsTheProductsOfTrainableWeights(int out) {
        int n = 35;
        int in = 17;
        try (SimdBackend backend = new SimdBackend(2, DType.BF16)) {
            MemorySegment w = normal((long) out * in);
            MemorySegment x = normal((long) n * in);
            MemorySegment dy = normal((long) n * out);
            MemorySegment bias = normal(out);
            boolean rounds = out >= 16;
            Buffer y = backend.allocate(DType.F32, (long) n * out);
            Buffer dx = backend.allocate(DType.F32, (long) n * in);
            Buffer dw = backend.allocate(DType.F32, (long) out * in);
            List<Buffer> inputs = Stream.of(x, w, dy, bias)
                    .map(s -> backend.wrap(DType.F32, s, () -> {}))
                    .toList();
            backend.linear(y, inputs.get(0), inputs.get(1), inputs.get(3), n, in, out);
            backend.linearBackwardInput(dx, inputs.get(2), inputs.get(1), n, in, out, false);
            backend.linearBackwardWeight(dw, inputs.get(2), inputs.get(0), n, in, out, false);
            for (int i = 0; i < n; i++) {
                for (int j = 0; j < out; j++) {
                    double expected = bias.getAtIndex(FLOAT, j);
                    for (int p = 0; p < in; p++) {
                        expected += value(x, (long) i * in + p, rounds) * value(w, (long) j * in + p, rounds);
                    }
                    assertThat(HostBuffer.segment(y).getAtIndex(FLOAT, (long) i * out + j))
                            .isCloseTo((float) expected, within((float) bound(in)));
                }
                for (int p = 0; p < in; p++) {
                    double expected = 0;
                    for (int j = 0; j < out; j++) {
                        expected += value(dy, (long) i * out + j, rounds) * value(w, (long) j * in + p, rounds);
                    }
                    assertThat(HostBuffer.segment(dx).getAtIndex(FLOAT, (long) i * in + p))
                            .isCloseTo((float) expected, within((float) bound(out)));
                }
            }
            for (int j = 0; j < out; j++) {
                for (int p = 0; p < in; p++) {
                    double expected = 0;
                    for (int i = 0; i < n; i++) {
                        expected += value(dy, (long) i * out + j, rounds) * value(x, (long) i * in + p, rounds);
                    }
                    assertThat(HostBuffer.segment(dw).getAtIndex(FLOAT, (long) j * in + p))
                            .isCloseTo((float) expected, within((float) bound(n)));
                }
            }
            Stream.of(inputs, List.of(y, dx, dw)).flatMap(List::stream).forEach(Buffer::release);
        }
    }

    private static double value(MemorySegment x, long i, boolean rounds) {
        return rounds ? rounded(x, i) : x.getAtIndex(FLOAT, i);
    }

    private interface Rounding {
        void round(MemorySegment y, long yOff, MemorySegment x, long xOff, int n);
    }

    /// Five rows of a matrix, so that strides matter.
    private static Rounding rows(Bf16Tiles tiles) {
        return (y, yOff, x, xOff, n) -> tiles.round(y, yOff, 2L * n / 5, x, xOff, 4L * n / 5, 5, n / 5);
    }

    private void roundsToNearestEven(Rounding rounding, boolean keepsSubnormals, int bytesOfResult) {
        int n = 5 * (16 * 80 + 3);
        MemorySegment x = arena.allocate(4L * n, 64);
        MemorySegment y = arena.allocate((long) bytesOfResult * n, 64);
        for (int i = 0; i < n; i++) {
            int bits = random.nextInt();
            // Ties, infinities and NaNs among them.
            bits = i % 5 == 0 ? bits & 0xffff0000 | 0x8000 : i % 97 == 0 ? bits | 0x7f800000 : bits;
            boolean subnormal = (bits & 0x7f800000) == 0;
            x.setAtIndex(ValueLayout.JAVA_INT, i, subnormal && !keepsSubnormals ? bits & 0x80000000 : bits);
        }
        rounding.round(y, 0, x, 0, n);
        for (int i = 0; i < n; i++) {
            int result = bytesOfResult == 2
                    ? y.getAtIndex(ValueLayout.JAVA_SHORT, i) << 16
                    : y.getAtIndex(ValueLayout.JAVA_INT, i);
            assertThat(result)
                    .as("bits %08x", x.getAtIndex(ValueLayout.JAVA_INT, i))
                    .isEqualTo(HostBuffer.toBf16(x.getAtIndex(FLOAT, i)) << 16);
        }
    }

    @Test
    void roundsToNearestEvenInVectorsAsInJava() {
        roundsToNearestEven(Bf16Panels::round, true, 2);
        roundsToNearestEven(Bf16Panels::roundInF32, true, 4);
    }

    @Test
    void roundsToNearestEvenInMachineCodeAsInJava() {
        roundsToNearestEven(rows(new InterpretedTiles.Avx512()), false, 2);
        String obstacle = Avx512Tiles.obstacle();
        assumeTrue(obstacle == null, () -> "natively not on this machine: " + obstacle);
        roundsToNearestEven(rows(new Avx512Tiles()), false, 2);
    }

    /// Both orders of the operand give the same panels.
    @ParameterizedTest
    @MethodSource("tiles")
    void packsRowsAsColumns(Bf16Tiles tiles) {
        for (int[] s : shapes(tiles)) {
            int k = s[2];
            int n = s[1];
            MemorySegment w = normal((long) k * n);
            MemorySegment turned = arena.allocate(4L * k * n, 64);
            GemmPacking.transpose(turned, 0, k, w, 0, n, k, n);
            Bf16Panels rows = panels(k, n, tiles).pack(parallel, new GemmSimd.Matrix(w, 0, n, false));
            Bf16Panels columns = panels(k, n, tiles).pack(parallel, new GemmSimd.Matrix(turned, 0, k, true));
            assertThat(rows.memory().mismatch(columns.memory())).isEqualTo(-1);
            assertThat(columns.memory().toArray(ValueLayout.JAVA_SHORT)).contains(HostBuffer.toBf16(w.get(FLOAT, 0)));
        }
    }

    private Bf16Panels panels(int k, int n, Bf16Tiles tiles) {
        return new Bf16Panels(arena.allocate(Bf16Panels.bytes(k, n, tiles), 64).fill((byte) 0x7f), 0, k, n, tiles);
    }

    /// What the roof is measured by ends, and counts what it does: two operations for each half of a lane, or of a tile's.
    @Test
    void dotsOfRegisters() {
        try (Arena config = Arena.ofConfined()) {
            Interpreter.call(Avx512Tiles.dotLoop(), List.of(), 3);
            MemorySegment tiles = AmxTiles.config(config);
            Interpreter.call(AmxTiles.dotLoop(), List.of(tiles), 3, tiles.address());
        }
        assertThat(new WidenedTiles().dots()).isZero();
        String obstacle = Avx512Tiles.obstacle();
        assumeTrue(obstacle == null, () -> "natively not on this machine: " + obstacle);
        assertThat(new Avx512Tiles().dots()).isPositive().isEqualTo(1_000 * 50_000L * 24 * 16 * 4);
    }

    /// The interpreter is right about what this machine can do: the same tile, natively and interpreted.
    @Test
    void interpretedTilesGiveWhatNativeOnesGive() {
        String obstacle = Avx512Tiles.obstacle();
        assumeTrue(obstacle == null, () -> "not on this machine: " + obstacle);
        int m = 33;
        int out = 70;
        int in = 2 * 129;
        MemorySegment w = normal((long) out * in);
        MemorySegment x = normal((long) m * in);
        MemorySegment there = arena.allocate(4L * m * out, 64);
        MemorySegment here = arena.allocate(4L * m * out, 64);
        pack(w, out, in, new Avx512Tiles()).linear(parallel, there, 0, out, x, 0, in, null, 0, m, 0);
        pack(w, out, in, new InterpretedTiles.Avx512()).linear(parallel, here, 0, out, x, 0, in, null, 0, m, 0);
        assertThat(here.toArray(FLOAT)).isEqualTo(there.toArray(FLOAT));
    }

    @Test
    void aDisagreementIsSeen() {
        assertThat(GemmBf16.disagreement(new InterpretedTiles.Amx(), new WidenedTiles()))
                .isNull();
        assertThat(GemmBf16.disagreement(new InterpretedTiles.Wrong(), new WidenedTiles()))
                .startsWith("their product of two small matrices is wrong: ");
    }

    /// From the panels of the forward product, and from those of the backward one once there are any.
    @ParameterizedTest
    @MethodSource("tiles")
    void unpackGivesTheRoundedWeightBack(Bf16Tiles tiles) {
        for (int[] s : shapes(tiles)) {
            int out = s[1];
            int in = s[2];
            MemorySegment w = normal((long) out * in);
            FrozenWeight packed = pack(w, out, in, tiles);
            checkUnpacked(packed, w, out, in);
            packed.linearBackward(parallel, normal(in), 0, in, normal(out), 0, out, 1, 0);
            checkUnpacked(packed, w, out, in);
        }
    }

    private void checkUnpacked(FrozenWeight packed, MemorySegment w, int out, int in) {
        MemorySegment back = arena.allocate(4L * out * (in + 1), 64).fill((byte) 5);
        packed.unpack(parallel, back, 0, in + 1);
        for (int i = 0; i < out; i++) {
            for (int j = 0; j < in; j++) {
                assertThat((double) back.getAtIndex(FLOAT, i * (in + 1L) + j)).isEqualTo(rounded(w, (long) i * in + j));
            }
            assertThat(back.getAtIndex(ValueLayout.JAVA_INT, i * (in + 1L) + in))
                    .isEqualTo(0x05050505);
        }
    }

    @ParameterizedTest
    @MethodSource("tiles")
    void theSameBitsForEveryNumberOfThreads(Bf16Tiles tiles) {
        boolean small = tiles instanceof InterpretedTiles;
        int m = 70;
        int out = small ? 200 : 530;
        int in = small ? 40 : 2060;
        MemorySegment w = normal((long) out * in);
        MemorySegment x = normal((long) m * in);
        FrozenWeight packed = pack(w, out, in, tiles);
        float[] expected = null;
        for (int threads : new int[] {1, 2, 4}) {
            MemorySegment y = arena.allocate(4L * m * out, 64);
            try (Parallel some = new Parallel(threads)) {
                packed.linear(some, y, 0, out, x, 0, in, null, 0, m, 0);
            }
            float[] bits = y.toArray(FLOAT);
            assertThat(bits).as("%d threads", threads).isEqualTo(expected == null ? bits : expected);
            expected = bits;
        }
    }

    /// A backend asked for BF16 rounds what it prepares.
    @Test
    void aBackendOfBf16OperandsPreparesRoundedWeights() {
        try (SimdBackend backend = new SimdBackend(2, DType.BF16)) {
            double[] values = random.doubles(65 * 33, -1, 1).map(v -> (float) v).toArray();
            Buffer w = backend.of(DType.F32, values);
            Buffer prepared = backend.prepare(w, 65, 33);
            w.release();
            Buffer restored = backend.restore(prepared, 65, 33);
            double[] rounded = KernelCheck.read(restored);
            for (int i = 0; i < values.length; i++) {
                assertThat(rounded[i])
                        .isEqualTo(Float.intBitsToFloat(HostBuffer.toBf16((float) values[i]) << 16))
                        .isCloseTo(values[i], within(0x1p-8 * Math.abs(values[i])));
            }
            prepared.release();
            restored.release();
            assertThat(backend.liveBytes()).isZero();
        }
    }
}
