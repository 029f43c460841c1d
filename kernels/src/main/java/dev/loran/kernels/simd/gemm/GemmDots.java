package dev.loran.kernels.simd.gemm;

import static dev.loran.kernels.simd.gemm.GemmTiles.S;
import static dev.loran.kernels.simd.gemm.GemmTiles.V;

import dev.loran.kernels.simd.vector.Parallel;
import dev.loran.kernels.simd.vector.Workspace;
import dev.loran.kernels.simd.vector.Workspace.Slot;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.VectorSpecies;

/// Products of up to 4 rows with the rows of a large matrix, both along k: each element is a dot product, vectors run
/// along k, and the large matrix is read once, in place. This is memory-bound, not compute-bound.
public final class GemmDots {
    /// Rows of the small and of the large side in one tile: 8 sums, 4 vectors of one side and 1 of the other fit in 16
    /// registers.
    private static final int FEW = 2;

    private static final int MANY = 4;
    private static final int SUMS = FEW * MANY;

    /// Number of rows of the large matrix per task.
    private static final int TASK_ROWS = 64;

    private static final long VB = S.vectorByteSize();

    /// The widest vector species whose length divides the 8 sums.
    private static final VectorSpecies<Float> L = V >= SUMS ? FloatVector.SPECIES_256 : FloatVector.SPECIES_128;

    private static final ByteOrder ORDER = ByteOrder.nativeOrder();
    private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT_UNALIGNED;

    private GemmDots() {}

    /// c ← alpha · few · many + beta · c, or the transpose of the result if `swapped`; few is (m, k) with m <= 4.
    ///
    /// @param few in any layout; copied if its rows do not run along k
    /// @param many (k, n), transposed in memory, so its columns run along k
    public static void multiply(
            Parallel parallel, Operand c, boolean swapped, Operand few, Operand many, float alpha, float beta) {
        Operand a = few.transposed() ? turned(parallel.workspace(), few) : few;
        Operand to = swapped ? c.t() : c;
        int n = many.cols();
        parallel.parallelFor(Math.ceilDiv(n, TASK_ROWS), task -> {
            MemorySegment tile = parallel.workspace().segment(Slot.TILE, 2 * SUMS * VB);
            float[] sums = parallel.workspace().tile();
            int end = Math.min(n, (task + 1) * TASK_ROWS);
            for (int j = task * TASK_ROWS; j < end; j += MANY) {
                int columns = Math.min(MANY, end - j);
                long bo = many.offset() + 4L * j * many.ld();
                for (int i = 0; i < a.rows(); i += FEW) {
                    int rows = Math.min(FEW, a.rows() - i);
                    dots(
                            sums,
                            a.memory(),
                            a.at(i, 0),
                            4L * a.ld(),
                            rows,
                            many.memory(),
                            bo,
                            4L * many.ld(),
                            columns,
                            a.cols());
                    MemorySegment.copy(sums, 0, tile, FLOAT, 0, SUMS * V);
                    addLanes(tile);
                    for (int s = 0; s < SUMS; s++) {
                        if (s / MANY < rows && s % MANY < columns) {
                            put(to, i + s / MANY, j + s % MANY, tile.get(FLOAT, 4L * s), a, many, alpha, beta);
                        }
                    }
                }
            }
        });
    }

    /// Writes element (i, j) of c, given the sum over the whole vectors of k.
    private static void put(Operand c, int i, int j, float vectors, Operand a, Operand many, float alpha, float beta) {
        float sum = vectors + tail(a.memory(), a.at(i, 0), many.memory(), many.at(0, j), a.cols());
        long to = c.at(i, j);
        float before = beta == 0f ? 0f : beta * c.memory().get(FLOAT, to);
        c.memory().set(FLOAT, to, Math.fma(alpha, sum, before));
    }

    private static Operand turned(Workspace workspace, Operand x) {
        MemorySegment copy = workspace.segment(Slot.PANELS, 4L * x.rows() * x.cols());
        GemmPacking.transpose(copy, 0, x.cols(), x.memory(), x.offset(), x.ld(), x.cols(), x.rows());
        return Operand.dense(copy, 0, x.rows(), x.cols());
    }

    /// sums (8, V): the products of 2 rows of a and 4 of b, summed over whole vectors, separately for each lane.
    /// Missing rows repeat the last one. The result goes to an array, because eight stores to memory would make C2's
    /// graph too large.
    private static void dots(
            float[] sums,
            MemorySegment a,
            long a0,
            long lda,
            int rows,
            MemorySegment b,
            long b0,
            long ldb,
            int columns,
            int k) {
        long a1 = a0 + (rows - 1) * lda;
        long b1 = b0 + Math.min(1, columns - 1) * ldb;
        long b2 = b0 + Math.min(2, columns - 1) * ldb;
        long b3 = b0 + Math.min(3, columns - 1) * ldb;
        FloatVector zero = FloatVector.zero(S);
        FloatVector c00 = zero, c01 = zero, c02 = zero, c03 = zero;
        FloatVector c10 = zero, c11 = zero, c12 = zero, c13 = zero;
        int whole = k - k % V;
        for (int p = 0; p <= whole - V; p += V) {
            FloatVector x = FloatVector.fromMemorySegment(S, a, a0 + p * 4L, ORDER);
            FloatVector y = FloatVector.fromMemorySegment(S, a, a1 + p * 4L, ORDER);
            FloatVector z = FloatVector.fromMemorySegment(S, b, b0 + p * 4L, ORDER);
            c00 = x.fma(z, c00);
            c10 = y.fma(z, c10);
            z = FloatVector.fromMemorySegment(S, b, b1 + p * 4L, ORDER);
            c01 = x.fma(z, c01);
            c11 = y.fma(z, c11);
            z = FloatVector.fromMemorySegment(S, b, b2 + p * 4L, ORDER);
            c02 = x.fma(z, c02);
            c12 = y.fma(z, c12);
            z = FloatVector.fromMemorySegment(S, b, b3 + p * 4L, ORDER);
            c03 = x.fma(z, c03);
            c13 = y.fma(z, c13);
        }
        c00.intoArray(sums, 0);
        c01.intoArray(sums, V);
        c02.intoArray(sums, 2 * V);
        c03.intoArray(sums, 3 * V);
        c10.intoArray(sums, 4 * V);
        c11.intoArray(sums, 5 * V);
        c12.intoArray(sums, 6 * V);
        c13.intoArray(sums, 7 * V);
    }

    /// The first 8 elements of tile ← the sums of the lanes of its 8 vectors, always in the same order; that of
    /// `reduceLanes` is unspecified.
    private static void addLanes(MemorySegment tile) {
        long turned = SUMS * VB;
        GemmPacking.transpose(tile, turned, SUMS, tile, 0, V, SUMS, V);
        for (int s = 0; s < SUMS; s += L.length()) {
            FloatVector sum = FloatVector.zero(L);
            for (int lane = 0; lane < V; lane++) {
                sum = sum.add(FloatVector.fromMemorySegment(L, tile, turned + 4L * (lane * SUMS + s), ORDER));
            }
            sum.intoMemorySegment(tile, 4L * s, ORDER);
        }
    }

    /// The elements of k beyond the last whole vector.
    private static float tail(MemorySegment a, long ao, MemorySegment b, long bo, int k) {
        float sum = 0f;
        for (int p = k - k % V; p < k; p++) {
            sum = Math.fma(a.get(FLOAT, ao + 4L * p), b.get(FLOAT, bo + 4L * p), sum);
        }
        return sum;
    }
}
