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
import java.util.Random;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/// Products with a weight packed as BF16, against sums in F64 of the rounded operands.
final class PackedBf16Test {
    private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT;

    private static final int[][] SHAPES = {
        {1, 7, 33}, {8, 48, 16}, {33, 48, 130}, {65, 130, 1}, {3, 129, 600}, {130, 2100, 127}, {70, 127, 2050}
    };

    private final Arena arena = Arena.ofShared();
    private final Parallel parallel = new Parallel(2);
    private final Random random = new Random(33);

    @BeforeEach
    void needsTheInstructions() {
        String obstacle = GemmBf16.obstacle();
        assumeTrue(obstacle == null, () -> "not on this machine: " + obstacle);
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

    private PackedBf16 pack(MemorySegment w, int out, int in) {
        return new PackedBf16(parallel, w, out, in, bytes -> arena.allocate(bytes, 64));
    }

    /// Sum of |terms| times this bounds the error of a sum in F32 whose order we do not prescribe.
    private static double bound(int k) {
        return 1e-6 * (4 + k);
    }

    @Test
    void linear() {
        for (int[] s : SHAPES) {
            int m = s[0];
            int out = s[1];
            int in = s[2];
            MemorySegment w = normal((long) out * in);
            MemorySegment x = normal(1 + m * (in + 2L));
            MemorySegment bias = normal(out + 1L);
            PackedBf16 packed = pack(w, out, in);
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

    @Test
    void linearBackward() {
        for (int[] s : SHAPES) {
            int m = s[0];
            int out = s[1];
            int in = s[2];
            MemorySegment w = normal((long) out * in);
            MemorySegment dy = normal(m * (out + 1L));
            PackedBf16 packed = pack(w, out, in);
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

    @Test
    void roundsToNearestEvenInMachineCodeAsInJava() {
        int n = 16 * 400 + 5;
        MemorySegment x = arena.allocate(4L * n, 64);
        MemorySegment y = arena.allocate(2L * n, 64);
        for (int i = 0; i < n; i++) {
            int bits = random.nextInt();
            // Ties, infinities and NaNs among them; subnormals the instruction takes for zero.
            bits = i % 5 == 0 ? bits & 0xffff0000 | 0x8000 : i % 97 == 0 ? bits | 0x7f800000 : bits;
            boolean subnormal = (bits & 0x7f800000) == 0;
            x.setAtIndex(ValueLayout.JAVA_INT, i, subnormal ? bits & 0x80000000 : bits);
        }
        GemmBf16.round(y, 0, x, 0, n);
        for (int i = 0; i < n; i++) {
            assertThat(y.getAtIndex(ValueLayout.JAVA_SHORT, i))
                    .as("bits %08x", x.getAtIndex(ValueLayout.JAVA_INT, i))
                    .isEqualTo(HostBuffer.toBf16(x.getAtIndex(FLOAT, i)));
        }
    }

    @Test
    void unpackGivesTheRoundedWeightBack() {
        for (int[] s : SHAPES) {
            int out = s[1];
            int in = s[2];
            MemorySegment w = normal((long) out * in);
            MemorySegment back = arena.allocate(4L * out * (in + 1), 64).fill((byte) 5);
            pack(w, out, in).unpack(parallel, back, 0, in + 1);
            for (int i = 0; i < out; i++) {
                for (int j = 0; j < in; j++) {
                    assertThat((double) back.getAtIndex(FLOAT, i * (in + 1L) + j))
                            .isEqualTo(rounded(w, (long) i * in + j));
                }
                assertThat(back.getAtIndex(ValueLayout.JAVA_INT, i * (in + 1L) + in))
                        .isEqualTo(0x05050505);
            }
        }
    }

    @Test
    void theSameBitsForEveryNumberOfThreads() {
        int m = 70;
        int out = 530;
        int in = 2060;
        MemorySegment w = normal((long) out * in);
        MemorySegment x = normal((long) m * in);
        PackedBf16 packed = pack(w, out, in);
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
