package dev.loran.kernels.simd.gemm;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.HostBuffer;
import dev.loran.engine.backend.Matrix;
import dev.loran.kernels.simd.KernelCheck;
import dev.loran.kernels.simd.SimdBackend;
import dev.loran.kernels.simd.machine.Interpreter;
import dev.loran.kernels.simd.vector.Parallel;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Named;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;

/// Products with a packed weight against sums in F64: in F32, and rounded to BF16 with every kind of tiles. Tiles in
/// machine code run natively if the processor has the instructions, and always in [Interpreter].
public final class FrozenWeightTest {
    private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT;

    private static final int[][] SHAPES = {
        {1, 7, 33}, {2, 50, 70}, {8, 48, 16}, {33, 49, 130}, {65, 130, 1}, {3, 129, 600}, {32, 32, 32}, {17, 17, 65}
    };

    /// More than one block of k; too large to interpret.
    private static final int[][] LARGE = {{130, 2100, 127}, {70, 127, 2050}, {130, 1100, 127}, {4, 600, 1200}};

    private final Arena arena = Arena.ofShared();
    private final Parallel parallel = new Parallel(2);
    private final Random random = new Random(33);

    /// As [#tiles], plus null for F32.
    static List<Arguments> kinds() {
        List<Arguments> all = new ArrayList<>();
        all.add(Arguments.of(Named.of("F32", null)));
        tiles().forEach(t -> all.add(Arguments.of(t)));
        return all;
    }

    public static List<Named<Bf16Tiles>> tiles() {
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

    private static int[][] shapes(@Nullable Bf16Tiles tiles) {
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

    private FrozenWeight pack(MemorySegment w, int out, int in, @Nullable Bf16Tiles tiles) {
        // Dirty memory, because padding must be written too.
        return new FrozenWeight(
                parallel, w, out, in, bytes -> arena.allocate(bytes, 64).fill((byte) 0x7f), tiles);
    }

    /// The sum of |terms| times this bounds the error of an F32 sum in unspecified order.
    private static double bound(int k) {
        return 1e-6 * (4 + k);
    }

    @ParameterizedTest
    @MethodSource("kinds")
    void linear(@Nullable Bf16Tiles tiles) {
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
                    Operand from = new Operand(x, 4, in + 2, false, m, in);
                    Operand row = biased ? Operand.dense(bias, 4, 1, out) : null;
                    packed.linear(parallel, new Operand(y, 0, out + 3, false, m, out), from, row, beta);
                    for (int i = 0; i < m; i++) {
                        for (int j = 0; j < out; j++) {
                            double expected =
                                    beta * before[i * (out + 3) + j] + (biased ? bias.getAtIndex(FLOAT, 1 + j) : 0);
                            for (int p = 0; p < in; p++) {
                                expected += left(x, 1 + i * (in + 2L) + p, tiles) * value(w, (long) j * in + p, tiles);
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
    @MethodSource("kinds")
    void linearBackward(@Nullable Bf16Tiles tiles) {
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
                Operand to = new Operand(dx, 0, in + 2, false, m, in);
                packed.linearBackward(parallel, to, new Operand(dy, 0, out + 1, false, m, out), beta);
                for (int i = 0; i < m; i++) {
                    for (int j = 0; j < in; j++) {
                        double expected = beta * before[i * (in + 2) + j];
                        for (int p = 0; p < out; p++) {
                            expected += left(dy, i * (out + 1L) + p, tiles) * value(w, (long) p * in + j, tiles);
                        }
                        assertThat((double) dx.getAtIndex(FLOAT, i * (in + 2L) + j))
                                .isCloseTo(expected, within(bound(out)));
                    }
                    assertThat(dx.getAtIndex(FLOAT, i * (in + 2L) + in)).isEqualTo(before[i * (in + 2) + in]);
                }
            }
        }
    }

    /// Both operands in all orientations; memory around the rows of C must not change.
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
            Operand row = beta == 1 ? null : Operand.dense(bias, 0, 1, n);
            GemmBf16.product(
                    parallel,
                    tiles,
                    new Operand(c, 0, ldc, false, m, n),
                    new Operand(a, 0, lda, transA, m, k),
                    new Operand(b, 0, ldb, transB, k, n),
                    beta,
                    row);
            for (int i = 0; i < m; i++) {
                for (int j = 0; j < n; j++) {
                    double expected = beta * before[i * ldc + j] + (row == null ? 0 : bias.getAtIndex(FLOAT, j));
                    for (int p = 0; p < k; p++) {
                        long left = transA ? p * (long) lda + i : i * (long) lda + p;
                        long right = transB ? j * (long) ldb + p : p * (long) ldb + j;
                        expected += left(a, left, tiles) * rounded(b, right);
                    }
                    double is = c.getAtIndex(FLOAT, i * (long) ldc + j);
                    // There are millions of elements, so an assertion object is created only for wrong ones.
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

    /// The three products of a trainable weight: rounded if all sizes are at least 16 and the processor multiplies BF16,
    /// or else exact.
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
            boolean rounds = out >= 16 && GemmBf16.productTiles() != null;
            Buffer y = backend.allocate(DType.F32, (long) n * out);
            Buffer dx = backend.allocate(DType.F32, (long) n * in);
            Buffer dw = backend.allocate(DType.F32, (long) out * in);
            List<Buffer> inputs = Stream.of(x, w, dy, bias)
                    .map(s -> backend.wrap(DType.F32, s, () -> {}))
                    .toList();
            Matrix xs = new Matrix(inputs.get(0), n, in);
            Matrix ws = new Matrix(inputs.get(1), out, in);
            Matrix dys = new Matrix(inputs.get(2), n, out);
            backend.linear().linear(dys.in(y), xs, ws, inputs.get(3));
            backend.linear().linearBackwardInput(new Gradient(dx, false), dys, ws);
            backend.linear().linearBackwardWeight(new Gradient(dw, false), dys, xs);
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

    /// What the tiles make of an element of the left-hand side.
    private static double left(MemorySegment x, long i, @Nullable Bf16Tiles tiles) {
        return value(x, i, tiles != null && tiles.rounds());
    }

    private static double value(MemorySegment x, long i, @Nullable Bf16Tiles tiles) {
        return value(x, i, tiles != null);
    }

    private static double value(MemorySegment x, long i, boolean rounds) {
        return rounds ? rounded(x, i) : x.getAtIndex(FLOAT, i);
    }

    private interface Rounding {
        void round(MemorySegment y, long yOff, MemorySegment x, long xOff, int n);
    }

    /// Splits the range into five rows of a matrix, so that strides matter.
    private static Rounding rows(Bf16Tiles tiles) {
        return (y, yOff, x, xOff, n) -> tiles.round(y, yOff, 2L * n / 5, x, xOff, 4L * n / 5, 5, n / 5);
    }

    private void roundsToNearestEven(Rounding rounding, boolean keepsSubnormals, int bytesOfResult) {
        int n = 5 * (16 * 80 + 3);
        MemorySegment x = arena.allocate(4L * n, 64);
        MemorySegment y = arena.allocate((long) bytesOfResult * n, 64);
        for (int i = 0; i < n; i++) {
            int bits = random.nextInt();
            // Ties, infinities and NaNs included.
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

    /// Both storage orders of the operand must give the same panels.
    @ParameterizedTest
    @MethodSource("tiles")
    void packsRowsAsColumns(Bf16Tiles tiles) {
        for (int[] s : shapes(tiles)) {
            int k = s[2];
            int n = s[1];
            MemorySegment w = normal((long) k * n);
            MemorySegment turned = arena.allocate(4L * k * n, 64);
            GemmPacking.transpose(turned, 0, k, w, 0, n, k, n);
            Bf16Panels rows = panels(k, n, tiles).pack(parallel, Operand.dense(w, 0, k, n));
            Bf16Panels columns = panels(k, n, tiles)
                    .pack(parallel, Operand.dense(turned, 0, n, k).t());
            assertThat(rows.memory().mismatch(columns.memory())).isEqualTo(-1);
            assertThat(columns.memory().toArray(ValueLayout.JAVA_SHORT)).contains(HostBuffer.toBf16(w.get(FLOAT, 0)));
        }
    }

    private Bf16Panels panels(int k, int n, Bf16Tiles tiles) {
        return new Bf16Panels(arena.allocate(Bf16Panels.bytes(k, n, tiles), 64).fill((byte) 0x7f), 0, k, n, tiles);
    }

    /// The loop that measures the roof must end, and count what it does: two operations per half of a lane, or per half
    /// of a tile's lane.
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

    /// The interpreter is checked against what this machine can do: the same tile, natively and interpreted.
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
        Operand from = Operand.dense(x, 0, m, in);
        Operand to = Operand.dense(here, 0, m, out);
        pack(w, out, in, new Avx512Tiles()).linear(parallel, Operand.dense(there, 0, m, out), from, null, 0);
        pack(w, out, in, new InterpretedTiles.Avx512()).linear(parallel, to, from, null, 0);
        assertThat(here.toArray(FLOAT)).isEqualTo(there.toArray(FLOAT));
    }

    @Test
    void aDisagreementIsSeen() {
        assertThat(GemmBf16.disagreement(new InterpretedTiles.Amx(), new WidenedTiles()))
                .isNull();
        assertThat(GemmBf16.disagreement(new InterpretedTiles.Wrong(), new WidenedTiles()))
                .startsWith("their product of two small matrices is wrong: ");
    }

    /// From the panels of the forward product, and from those of the backward product once they exist.
    @ParameterizedTest
    @MethodSource("kinds")
    void unpackGivesTheRoundedWeightBack(@Nullable Bf16Tiles tiles) {
        for (int[] s : shapes(tiles)) {
            int out = s[1];
            int in = s[2];
            MemorySegment w = normal((long) out * in);
            FrozenWeight packed = pack(w, out, in, tiles);
            checkUnpacked(packed, w, out, in, tiles != null);
            backwardOfOneRow(packed, out, in);
            checkUnpacked(packed, w, out, in, tiles != null);
        }
    }

    /// Creates the other set of panels.
    private void backwardOfOneRow(FrozenWeight packed, int out, int in) {
        packed.linearBackward(parallel, Operand.dense(normal(in), 0, 1, in), Operand.dense(normal(out), 0, 1, out), 0);
    }

    private void checkUnpacked(FrozenWeight packed, MemorySegment w, int out, int in, boolean rounds) {
        MemorySegment back = arena.allocate(4L * out * (in + 1), 64).fill((byte) 5);
        packed.unpack(parallel, back, 0, in + 1);
        for (int i = 0; i < out; i++) {
            for (int j = 0; j < in; j++) {
                assertThat((double) back.getAtIndex(FLOAT, i * (in + 1L) + j))
                        .isEqualTo(value(w, (long) i * in + j, rounds));
            }
            assertThat(back.getAtIndex(ValueLayout.JAVA_INT, i * (in + 1L) + in))
                    .isEqualTo(0x05050505);
        }
    }

    @ParameterizedTest
    @MethodSource("kinds")
    void theSameBitsForEveryNumberOfThreads(@Nullable Bf16Tiles tiles) {
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
                packed.linear(some, Operand.dense(y, 0, m, out), Operand.dense(x, 0, m, in), null, 0);
            }
            float[] bits = y.toArray(FLOAT);
            assertThat(bits).as("%d threads", threads).isEqualTo(expected == null ? bits : expected);
            expected = bits;
        }
    }

    /// A backend created for BF16 rounds the weights it prepares.
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

    // ---- in F32 only

    @Test
    void rowsFromEitherSetOfPanels() {
        for (int[] s : shapes(null)) {
            int out = s[1];
            int in = s[2];
            MemorySegment w = normal((long) out * in);
            FrozenWeight packed = pack(w, out, in, null);
            for (boolean backward : new boolean[] {false, true}) {
                if (backward) {
                    backwardOfOneRow(packed, out, in);
                }
                for (int j : new int[] {0, out / 2, out - 1}) {
                    MemorySegment row = normal(in + 2L);
                    float[] before = row.toArray(FLOAT);
                    packed.row(row, 4, j);
                    assertThat(row.asSlice(4, 4L * in).mismatch(w.asSlice(4L * j * in, 4L * in)))
                            .as("row %d of %d x %d, backward panels %s", j, out, in, backward)
                            .isEqualTo(-1);
                    assertThat(row.getAtIndex(FLOAT, 0)).isEqualTo(before[0]);
                    assertThat(row.getAtIndex(FLOAT, in + 1L)).isEqualTo(before[in + 1]);
                }
            }
        }
    }

    @Test
    void unpackGivesEveryBitBack() {
        for (int[] s : shapes(null)) {
            int out = s[1];
            int in = s[2];
            MemorySegment w = arena.allocate(4L * out * in, 64);
            for (long i = 0; i < (long) out * in; i++) {
                // Any bits, including NaNs with a payload, subnormals and -0.
                w.setAtIndex(
                        ValueLayout.JAVA_INT,
                        i,
                        random.nextInt(8) == 0 ? 0x7f800001 + random.nextInt(99) : random.nextInt());
            }
            MemorySegment back = arena.allocate(4L * out * (in + 1), 64).fill((byte) 5);
            pack(w, out, in, null).unpack(parallel, back, 0, in + 1);
            for (int i = 0; i < out; i++) {
                for (int j = 0; j < in; j++) {
                    assertThat(back.getAtIndex(ValueLayout.JAVA_INT, i * (in + 1L) + j))
                            .isEqualTo(w.getAtIndex(ValueLayout.JAVA_INT, (long) i * in + j));
                }
                assertThat(back.getAtIndex(ValueLayout.JAVA_INT, i * (in + 1L) + in))
                        .isEqualTo(0x05050505);
            }
        }
    }

    @Test
    void theSameBitsAsTheProductWithThePlainWeightAndForEveryNumberOfThreads() {
        int m = 70;
        int out = 530;
        int in = 1030;
        MemorySegment w = normal((long) out * in);
        MemorySegment x = normal((long) m * in);
        MemorySegment plain = arena.allocate(4L * m * out, 64);
        Operand from = Operand.dense(x, 0, m, in);
        GemmSimd.gemm(
                parallel,
                Operand.dense(plain, 0, m, out),
                from,
                Operand.dense(w, 0, out, in).t(),
                1,
                0);
        FrozenWeight packed = pack(w, out, in, null);
        for (int threads : new int[] {1, 2, 4}) {
            MemorySegment y = arena.allocate(4L * m * out, 64);
            try (Parallel pool = new Parallel(threads)) {
                packed.linear(pool, Operand.dense(y, 0, m, out), from, null, 0);
            }
            assertThat(y.mismatch(plain)).as("%d threads", threads).isEqualTo(-1);
        }
    }

    @Test
    void emptySizes() {
        MemorySegment nothing = arena.allocate(4, 64);
        MemorySegment bias = normal(5);
        MemorySegment y = normal(15);
        pack(nothing, 5, 0, null)
                .linear(
                        parallel,
                        Operand.dense(y, 0, 3, 5),
                        Operand.dense(nothing, 0, 3, 0),
                        Operand.dense(bias, 0, 1, 5),
                        0);
        for (int i = 0; i < 15; i++) {
            assertThat(y.getAtIndex(FLOAT, i)).isEqualTo(bias.getAtIndex(FLOAT, i % 5));
        }
        pack(bias, 1, 5, null)
                .linear(parallel, Operand.dense(nothing, 0, 0, 1), Operand.dense(nothing, 0, 0, 5), null, 0);
    }

    @Test
    void badArgumentsAreNamed() {
        MemorySegment ten = normal(10);
        assertThatThrownBy(() -> pack(ten, 3, 4, null))
                .hasMessage("frozenWeight: w (3, 4) at byte 0 ends at byte 48 but its memory has 40");
        FrozenWeight packed = pack(ten, 2, 5, null);
        assertThatThrownBy(() -> packed.linear(
                        parallel, Operand.dense(ten, 0, 2, 2), new Operand(ten, 0, 4, false, 2, 5), null, 0))
                .hasMessage("linear: x is (2, 5) but its leading dimension is 4; it must be at least the row");
        assertThatThrownBy(() -> packed.linear(
                        parallel,
                        Operand.dense(ten, 0, 2, 2),
                        Operand.dense(ten, 0, 2, 5),
                        Operand.dense(ten, 36, 1, 2),
                        0))
                .hasMessage("linear: bias (1, 2) at byte 36 ends at byte 44 but its memory has 40");
        assertThatThrownBy(() ->
                        packed.linearBackward(parallel, Operand.dense(ten, 0, 3, 5), Operand.dense(ten, 0, 3, 2), 0))
                .hasMessage("linearBackward: dx (3, 5) at byte 0 ends at byte 60 but its memory has 40");
    }
}
