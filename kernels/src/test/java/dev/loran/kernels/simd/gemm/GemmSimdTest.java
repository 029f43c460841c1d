package dev.loran.kernels.simd.gemm;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.loran.kernels.simd.vector.Parallel;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/// Every product against F64 sums of the same F32 numbers.
final class GemmSimdTest {
    private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT;

    /// The value between the rows and around the matrices, which nothing may change.
    private static final float GUARD = -12345.5f;

    private final Arena arena = Arena.ofShared();
    private final Parallel parallel = new Parallel(2);

    @AfterEach
    void free() {
        parallel.close();
        arena.close();
    }

    /// A matrix of `rows` x `cols` in memory, with `gap` guard elements after each row and `lead` before the first.
    private record Stored(MemorySegment memory, int rows, int cols, int gap, int lead) {
        int ld() {
            return cols + gap;
        }

        long offset() {
            return 4L * lead;
        }

        long at(int i, int j) {
            return offset() + 4L * ((long) i * ld() + j);
        }

        float get(int i, int j) {
            return memory.get(FLOAT, at(i, j));
        }
    }

    private Stored stored(int rows, int cols, int gap, int lead) {
        long size = lead + (long) rows * (cols + gap) + 3;
        Stored matrix = new Stored(arena.allocate(4 * size, 64), rows, cols, gap, lead);
        for (long i = 0; i < size; i++) {
            matrix.memory.setAtIndex(FLOAT, i, GUARD);
        }
        return matrix;
    }

    private Stored random(Random random, int rows, int cols, int gap, int lead) {
        Stored matrix = stored(rows, cols, gap, lead);
        for (int i = 0; i < rows; i++) {
            for (int j = 0; j < cols; j++) {
                matrix.memory.set(FLOAT, matrix.at(i, j), (float) random.nextGaussian());
            }
        }
        return matrix;
    }

    private static void assertGuards(Stored matrix) {
        long end = matrix.lead + (long) matrix.rows * matrix.ld();
        long changed = -1;
        for (long i = 0; i < matrix.memory.byteSize() / 4; i++) {
            boolean inside = i >= matrix.lead && i < end && (i - matrix.lead) % matrix.ld() < matrix.cols;
            if (!inside && matrix.memory.getAtIndex(FLOAT, i) != GUARD) {
                changed = i;
            }
        }
        assertThat(changed).as("element beside the matrix that was written").isEqualTo(-1);
    }

    /// Random operands of one product, the result in F64, and the error allowed in F32.
    private final class Case {
        final int m;
        final int n;
        final int k;
        final boolean transA;
        final boolean transB;
        final Stored a;
        final Stored b;
        final Stored c;

        Case(Random random, int m, int n, int k, boolean transA, boolean transB, int gap) {
            this.m = m;
            this.n = n;
            this.k = k;
            this.transA = transA;
            this.transB = transB;
            a = random(random, transA ? k : m, transA ? m : k, gap, gap);
            b = random(random, transB ? n : k, transB ? k : n, 2 * gap, 3 * gap);
            c = random(random, m, n, 3 * gap, 2 * gap);
        }

        void run(Parallel pool, float alpha, float beta) {
            Operand left = new Operand(a.memory, a.offset(), a.ld(), transA, m, k);
            Operand right = new Operand(b.memory, b.offset(), b.ld(), transB, k, n);
            GemmSimd.gemm(pool, new Operand(c.memory, c.offset(), c.ld(), false, m, n), left, right, alpha, beta);
        }

        double[] expected(double alpha, double beta) {
            double[] sums = new double[m * n];
            for (int i = 0; i < m; i++) {
                for (int j = 0; j < n; j++) {
                    double sum = 0;
                    for (int p = 0; p < k; p++) {
                        sum += (double) (transA ? a.get(p, i) : a.get(i, p)) * (transB ? b.get(j, p) : b.get(p, j));
                    }
                    sums[i * n + j] = alpha * sum + (beta == 0 ? 0 : beta * c.get(i, j));
                }
            }
            return sums;
        }

        void check(float alpha, float beta) {
            double[] expected = expected(alpha, beta);
            run(parallel, alpha, beta);
            assertResult(expected, alpha);
        }

        void assertResult(double[] expected, float alpha) {
            // The magnitudes of the products add up to about 0.6 k, and F32 rounds to 2^-24 of each sum.
            double tolerance = 1e-6 * (1 + Math.abs(alpha) * k);
            double worst = 0;
            String where = "";
            for (int i = 0; i < m; i++) {
                for (int j = 0; j < n; j++) {
                    double error = Math.abs(c.get(i, j) - expected[i * n + j]);
                    if (!(error <= worst)) {
                        worst = error;
                        where = "(" + i + ", " + j + ") is " + c.get(i, j) + ", not " + expected[i * n + j];
                    }
                }
            }
            assertThat(worst)
                    .as("%d x %d x %d, transA %s, transB %s: %s", m, n, k, transA, transB, where)
                    .isLessThanOrEqualTo(tolerance);
            assertGuards(c);
        }
    }

    @ParameterizedTest
    @CsvSource({"false,false", "false,true", "true,false", "true,true"})
    void allSizesAndTransposes(boolean transA, boolean transB) {
        Random random = new Random(7);
        int[] sizes = {1, 7, 33, 65, 127, 130};
        for (int m : sizes) {
            for (int n : sizes) {
                for (int k : sizes) {
                    new Case(random, m, n, k, transA, transB, (m + n) % 3).check(1, 0);
                }
            }
        }
    }

    @ParameterizedTest
    @CsvSource({"false,false", "false,true", "true,false", "true,true"})
    void alphaAndBeta(boolean transA, boolean transB) {
        Random random = new Random(8);
        int[][] shapes = {{3, 50, 70}, {50, 3, 70}, {16, 100, 600}, {40, 100, 30}, {70, 51, 1100}, {5, 5, 2100}};
        for (int[] s : shapes) {
            for (float alpha : new float[] {1, -0.5f, 0}) {
                for (float beta : new float[] {0, 1, 0.25f}) {
                    new Case(random, s[0], s[1], s[2], transA, transB, 1).check(alpha, beta);
                }
            }
        }
    }

    @Test
    void randomShapes() {
        for (int seed = 0; seed < 60; seed++) {
            Random random = new Random(seed);
            int m = 1 + random.nextInt(200);
            int n = 1 + random.nextInt(200);
            int k = random.nextInt(700);
            float alpha = random.nextInt(3) - 1;
            float beta = random.nextInt(3) * 0.5f;
            new Case(random, m, n, k, random.nextBoolean(), random.nextBoolean(), random.nextInt(6)).check(alpha, beta);
        }
    }

    /// Shapes for every path: dot products, B in place, chunks of k, several pieces of B, and the general path.
    private static final int[][] PATHS = {
        {2, 300, 500}, {300, 3, 500}, {17, 1000, 300}, {16, 40, 9000}, {20, 20, 5000}, {200, 300, 700}, {33, 1080, 4120}
    };

    @Test
    void everyPath() {
        Random random = new Random(9);
        for (int[] s : PATHS) {
            for (int trans = 0; trans < 4; trans++) {
                new Case(random, s[0], s[1], s[2], trans % 2 == 1, trans / 2 == 1, 2).check(1, 1);
            }
        }
    }

    @Test
    void theSameBitsForEveryNumberOfThreads() {
        for (int[] s : PATHS) {
            for (int trans = 0; trans < 4; trans++) {
                List<float[]> results = new ArrayList<>();
                for (int threads : new int[] {1, 2, 4}) {
                    Case one = new Case(new Random(10), s[0], s[1], s[2], trans % 2 == 1, trans / 2 == 1, 1);
                    try (Parallel pool = new Parallel(threads)) {
                        one.run(pool, 0.5f, 0.25f);
                    }
                    results.add(one.c.memory.toArray(FLOAT));
                }
                assertThat(results.get(1)).isEqualTo(results.get(0));
                assertThat(results.get(2)).isEqualTo(results.get(0));
            }
        }
    }

    @Test
    void whatCHeldVanishesWithBetaZero() {
        for (int[] s : PATHS) {
            for (float alpha : new float[] {1, 0.5f, 0}) {
                Case one = new Case(new Random(11), s[0], s[1], s[2], false, false, 1);
                double[] expected = one.expected(alpha, 0);
                for (int i = 0; i < one.m; i++) {
                    for (int j = 0; j < one.n; j++) {
                        one.c.memory.set(FLOAT, one.c.at(i, j), Float.NaN);
                    }
                }
                one.run(parallel, alpha, 0);
                one.assertResult(expected, alpha);
            }
        }
    }

    @Test
    void notANumberPassesThrough() {
        for (int[] s : PATHS) {
            Case one = new Case(new Random(12), s[0], s[1], s[2], false, false, 0);
            one.a.memory.set(FLOAT, one.a.at(1, one.k / 2), Float.NaN);
            one.run(parallel, 1, 0);
            assertThat(one.c.get(1, one.n - 1)).isNaN();
            assertThat(one.c.get(0, one.n - 1)).isNotNaN();
        }
    }

    @Test
    void batches() {
        Random random = new Random(13);
        for (int[] s : new int[][] {{5, 33, 40, 65}, {3, 300, 200, 100}, {4, 1, 64, 17}}) {
            int batch = s[0];
            int m = s[1];
            int n = s[2];
            int k = s[3];
            Stored a = random(random, batch * m, k, 0, 0);
            Stored b = random(random, k, n, 0, 0);
            Stored c = stored(batch * m + 2 * (batch - 1), n, 0, 0);
            long[] strides = {(m + 2L) * n, (long) m * k, 0};
            Operand left = Operand.dense(a.memory, 0, m, k);
            Operand right = Operand.dense(b.memory, 0, k, n);
            GemmSimd.gemmBatched(parallel, batch, Operand.dense(c.memory, 0, m, n), left, right, strides, 1, 0);
            for (int q = 0; q < batch; q++) {
                for (int i = 0; i < m; i++) {
                    for (int j = 0; j < n; j++) {
                        double sum = 0;
                        for (int p = 0; p < k; p++) {
                            sum += (double) a.get(q * m + i, p) * b.get(p, j);
                        }
                        assertThat((double) c.get(q * (m + 2) + i, j)).isCloseTo(sum, within(1e-4));
                    }
                }
                for (int i = m; q < batch - 1 && i < m + 2; i++) {
                    assertThat(c.get(q * (m + 2) + i, n - 1))
                            .as("row between the matrices")
                            .isEqualTo(GUARD);
                }
            }
        }
    }

    @Test
    void insideATaskTheProductIsTheSame() {
        int[] s = {130, 127, 300};
        Case alone = new Case(new Random(14), s[0], s[1], s[2], false, true, 0);
        alone.run(parallel, 1, 0);
        Case[] inside = new Case[3];
        for (int i = 0; i < inside.length; i++) {
            inside[i] = new Case(new Random(14), s[0], s[1], s[2], false, true, 0);
        }
        parallel.parallelFor(inside.length, i -> inside[i].run(parallel, 1, 0));
        for (Case one : inside) {
            assertThat(one.c.memory.toArray(FLOAT)).isEqualTo(alone.c.memory.toArray(FLOAT));
        }
    }

    @Test
    void badArgumentsAreNamed() {
        MemorySegment ten = arena.allocate(40);
        Operand two = Operand.dense(ten, 0, 2, 2);
        assertThatThrownBy(() -> GemmSimd.gemm(
                        parallel,
                        Operand.dense(ten, 0, 2, 4),
                        new Operand(ten, 0, 3, false, 2, 4),
                        Operand.dense(ten, 0, 4, 4),
                        1,
                        0))
                .hasMessage("gemm: a is (2, 4) but its leading dimension is 3; it must be at least the row");
        Operand three = Operand.dense(ten, 0, 3, 3);
        assertThatThrownBy(() -> GemmSimd.gemm(parallel, three, three, Operand.dense(ten, 8, 3, 3), 1, 0))
                .hasMessage("gemm: b (3, 3) at byte 8 ends at byte 44 but its memory has 40");
        Operand onHeap = Operand.dense(MemorySegment.ofArray(new float[4]), 0, 2, 2);
        assertThatThrownBy(() -> GemmSimd.gemm(parallel, two, onHeap, two, 1, 0))
                .hasMessage("gemm: a is on the Java heap; copy it to native memory");
        assertThatThrownBy(() -> GemmSimd.gemm(parallel, Operand.dense(ten, 0, -1, 2), two, two, 1, 0))
                .hasMessage("gemm: c is (-1, 2), a size is negative");
        assertThatThrownBy(() -> GemmSimd.gemmBatched(parallel, -3, two, two, two, new long[3], 1, 0))
                .hasMessage("gemm: batch must not be negative but is -3");
    }

    @Test
    void nothingIsAllocatedAfterWarmUp() {
        try (Parallel alone = new Parallel(1)) {
            new Case(new Random(15), 100, 130, 700, true, false, 0).run(alone, 1, 0);
            long before = alone.workspace().allocatedBytes();
            assertThat(before).isPositive();
            new Case(new Random(15), 100, 130, 700, true, false, 0).run(alone, 1, 1);
            new Case(new Random(15), 70, 120, 600, false, true, 0).run(alone, 0.5f, 0);
            assertThat(alone.workspace().allocatedBytes()).isEqualTo(before);
        }
    }
}
