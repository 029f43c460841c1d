package dev.loran.kernels;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Random;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

/// Products with a packed weight, against sums in F64.
final class FrozenWeightTest {
    private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT;

    private final Arena arena = Arena.ofShared();
    private final Parallel parallel = new Parallel(2);
    private final Random random = new Random(21);

    private static final int[][] SHAPES = {
        {1, 7, 33}, {33, 48, 130}, {65, 130, 1}, {3, 129, 600}, {130, 1100, 127}, {4, 600, 1200}
    };

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

    private FrozenWeight pack(MemorySegment w, int out, int in) {
        return new FrozenWeight(parallel, w, out, in, bytes -> arena.allocate(bytes, 64), null);
    }

    /// Σ over p of x[xAt + p · xStep] · w[wAt + p · wStep].
    private static double dot(MemorySegment x, long xAt, MemorySegment w, long wAt, long wStep, int k) {
        double sum = 0;
        for (int p = 0; p < k; p++) {
            sum += (double) x.getAtIndex(FLOAT, xAt + p) * w.getAtIndex(FLOAT, wAt + p * wStep);
        }
        return sum;
    }

    @Test
    void rowsFromEitherSetOfPanels() {
        for (int[] s : SHAPES) {
            int out = s[1];
            int in = s[2];
            MemorySegment w = normal((long) out * in);
            FrozenWeight packed = pack(w, out, in);
            for (boolean backward : new boolean[] {false, true}) {
                if (backward) {
                    packed.linearBackward(parallel, normal(in), 0, in, normal(out), 0, out, 1, 0);
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
    void linear() {
        for (int[] s : SHAPES) {
            int m = s[0];
            int out = s[1];
            int in = s[2];
            MemorySegment w = normal((long) out * in);
            MemorySegment x = normal(1 + m * (in + 2L));
            MemorySegment bias = normal(out + 1L);
            FrozenWeight packed = pack(w, out, in);
            for (float beta : new float[] {0, 1, -0.5f}) {
                for (boolean biased : new boolean[] {false, true}) {
                    MemorySegment y = normal(m * (out + 3L));
                    float[] before = y.toArray(FLOAT);
                    packed.linear(parallel, y, 0, out + 3, x, 4, in + 2, biased ? bias : null, 4, m, beta);
                    for (int i = 0; i < m; i++) {
                        for (int j = 0; j < out; j++) {
                            int at = i * (out + 3) + j;
                            double expected = dot(x, 1 + i * (in + 2L), w, (long) j * in, 1, in)
                                    + beta * before[at]
                                    + (biased ? bias.getAtIndex(FLOAT, 1 + j) : 0);
                            assertThat((double) y.getAtIndex(FLOAT, at)).isCloseTo(expected, within(1e-6 * (4 + in)));
                        }
                        for (int j = out; j < out + 3; j++) {
                            int at = i * (out + 3) + j;
                            assertThat(y.getAtIndex(FLOAT, at)).as("beside y").isEqualTo(before[at]);
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
            FrozenWeight packed = pack(w, out, in);
            w.fill((byte) 0x7f);
            MemorySegment copy = arena.allocate(4L * out * in, 64);
            packed.unpack(parallel, copy, 0, in);
            for (float beta : new float[] {0, 1, 0.5f}) {
                MemorySegment dx = normal(m * (in + 2L));
                float[] before = dx.toArray(FLOAT);
                packed.linearBackward(parallel, dx, 0, in + 2, dy, 0, out + 1, m, beta);
                for (int i = 0; i < m; i++) {
                    for (int j = 0; j < in; j++) {
                        int at = i * (in + 2) + j;
                        double expected = dot(dy, i * (out + 1L), copy, j, in, out) + beta * before[at];
                        assertThat((double) dx.getAtIndex(FLOAT, at)).isCloseTo(expected, within(1e-6 * (4 + out)));
                    }
                    assertThat(dx.getAtIndex(FLOAT, i * (in + 2) + in)).isEqualTo(before[i * (in + 2) + in]);
                }
            }
        }
    }

    @Test
    void unpackGivesEveryBitBack() {
        for (int[] s : SHAPES) {
            int out = s[1];
            int in = s[2];
            MemorySegment w = arena.allocate(4L * out * in, 64);
            for (long i = 0; i < (long) out * in; i++) {
                // Any bits: among them NaNs with a payload, subnormals, -0.
                w.setAtIndex(
                        ValueLayout.JAVA_INT,
                        i,
                        random.nextInt(8) == 0 ? 0x7f800001 + random.nextInt(99) : random.nextInt());
            }
            MemorySegment back = arena.allocate(4L * out * (in + 1), 64).fill((byte) 5);
            pack(w, out, in).unpack(parallel, back, 0, in + 1);
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
        GemmSimd.gemm(parallel, plain, 0, out, x, 0, in, false, w, 0, in, true, m, out, in, 1, 0);
        FrozenWeight packed = pack(w, out, in);
        for (int threads : new int[] {1, 2, 4}) {
            MemorySegment y = arena.allocate(4L * m * out, 64);
            try (Parallel pool = new Parallel(threads)) {
                packed.linear(pool, y, 0, out, x, 0, in, null, 0, m, 0);
            }
            assertThat(y.mismatch(plain)).as("%d threads", threads).isEqualTo(-1);
        }
    }

    @Test
    void emptySizes() {
        MemorySegment nothing = arena.allocate(4, 64);
        MemorySegment bias = normal(5);
        MemorySegment y = normal(15);
        pack(nothing, 5, 0).linear(parallel, y, 0, 5, nothing, 0, 0, bias, 0, 3, 0);
        for (int i = 0; i < 15; i++) {
            assertThat(y.getAtIndex(FLOAT, i)).isEqualTo(bias.getAtIndex(FLOAT, i % 5));
        }
        pack(bias, 1, 5).linear(parallel, nothing, 0, 1, nothing, 0, 5, null, 0, 0, 0);
    }

    @Test
    void badArgumentsAreNamed() {
        MemorySegment ten = normal(10);
        assertThatThrownBy(() -> pack(ten, 3, 4))
                .hasMessage("frozenWeight: w (3, 4) at byte 0 ends at byte 48 but its memory has 40");
        FrozenWeight packed = pack(ten, 2, 5);
        assertThatThrownBy(() -> packed.linear(parallel, ten, 0, 2, ten, 0, 4, null, 0, 2, 0))
                .hasMessage("linear: x is (2, 5) but its leading dimension is 4; it must be at least the row");
        assertThatThrownBy(() -> packed.linear(parallel, ten, 0, 2, ten, 0, 5, ten, 36, 2, 0))
                .hasMessage("linear: bias (1, 2) at byte 36 ends at byte 44 but its memory has 40");
        assertThatThrownBy(() -> packed.linearBackward(parallel, ten, 0, 5, ten, 0, 2, 3, 0))
                .hasMessage("linearBackward: dx (3, 5) at byte 0 ends at byte 60 but its memory has 40");
    }
}
