package dev.loran.kernels.simd;

import static dev.loran.kernels.simd.vector.Vectors.V;
import static dev.loran.kernels.simd.vector.Vectors.bound;
import static dev.loran.kernels.simd.vector.Vectors.get;
import static dev.loran.kernels.simd.vector.Vectors.getInt;
import static dev.loran.kernels.simd.vector.Vectors.load;
import static dev.loran.kernels.simd.vector.Vectors.set;
import static dev.loran.kernels.simd.vector.Vectors.splat;

import dev.loran.kernels.simd.vector.Parallel;
import dev.loran.kernels.simd.vector.Vectors;
import dev.loran.kernels.simd.vector.Workspace.Slot;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.VectorOperators;

/// Sums and maxima. A sum is split into blocks according to the shape alone. Within a block it is accumulated in
/// vectors; beyond that, in double precision (along a row) or block by block (down the columns). The bits are therefore
/// the same for every number of threads, and the error does not grow with the length as it would in one long chain.
final class ReductionSimd {
    /// Rows summed in one vector before that is added to the total.
    private static final int COLUMN_BLOCK = 64;

    /// Columns summed by one task: four 512-bit vectors.
    private static final int STRIP = 64;

    private ReductionSimd() {}

    /// y (outer, inner) ← Σ over n of x (outer, n, inner) (or +=).
    static void sum(
            Parallel parallel, MemorySegment y, MemorySegment x, int outer, int n, int inner, boolean accumulate) {
        if (inner == 1) {
            sumRows(parallel, y, x, outer, n, accumulate);
        } else {
            int strips = Math.ceilDiv(inner, STRIP);
            parallel.parallelFor(outer * strips, task -> {
                int o = task / strips;
                int from = task % strips * STRIP;
                sumStrip(
                        y,
                        4 * ((long) o * inner + from),
                        x,
                        4 * ((long) o * n * inner + from),
                        n,
                        inner,
                        Math.min(STRIP, inner - from),
                        accumulate);
            });
        }
    }

    private static void sumRows(
            Parallel parallel, MemorySegment y, MemorySegment x, int rows, int n, boolean accumulate) {
        if (rows == 1 && n > Vectors.CHUNK) {
            putSum(y, total(parallel, x, n), accumulate);
            return;
        }
        Vectors.forRows(parallel, rows, n, (from, to) -> {
            for (int i = from; i < to; i++) {
                double sum = 0;
                for (int j = 0; j < n; j += Vectors.CHUNK) {
                    sum += sum(x, 4 * ((long) i * n + j), Math.min(Vectors.CHUNK, n - j));
                }
                set(y, 4L * i, (float) (accumulate ? get(y, 4L * i) + sum : sum));
            }
        });
    }

    /// y (1) ← Σ x² over arrays of `sizes` floats: the sum of each is computed as in [#total], and they are added in
    /// F32.
    static void sumOfSquares(Parallel parallel, MemorySegment y, MemorySegment[] xs, long[] sizes) {
        long chunks = 0;
        for (long n : sizes) {
            chunks += Math.ceilDiv(n, (long) Vectors.CHUNK);
        }
        MemorySegment partial = parallel.workspace().segment(Slot.PARTIAL, 8L * chunks);
        Vectors.forChunks(
                parallel,
                sizes,
                (chunk, array, at, size) ->
                        partial.setAtIndex(ValueLayout.JAVA_DOUBLE, chunk, sumOfSquares(xs[array], at, size)));
        float all = 0;
        int chunk = 0;
        for (long n : sizes) {
            double sum = 0;
            for (long at = 0; at < n; at += Vectors.CHUNK) {
                sum += partial.getAtIndex(ValueLayout.JAVA_DOUBLE, chunk++);
            }
            all = (float) (all + sum);
        }
        set(y, 0, all);
    }

    private static void putSum(MemorySegment y, double sum, boolean accumulate) {
        set(y, 0, (float) (accumulate ? get(y, 0) + sum : sum));
    }

    /// Σ x over flat memory: one partial sum per chunk, which are then added in order.
    private static double total(Parallel parallel, MemorySegment x, long n) {
        int chunks = Math.toIntExact(Math.ceilDiv(n, (long) Vectors.CHUNK));
        MemorySegment partial = parallel.workspace().segment(Slot.PARTIAL, 8L * chunks);
        Vectors.forChunks(parallel, n, (at, size) -> {
            partial.setAtIndex(ValueLayout.JAVA_DOUBLE, at / (4L * Vectors.CHUNK), sum(x, at, size));
        });
        double sum = 0;
        for (int i = 0; i < chunks; i++) {
            sum += partial.getAtIndex(ValueLayout.JAVA_DOUBLE, i);
        }
        return sum;
    }

    /// Σ of `n` floats: four independent vectors hide the latency of addition.
    static float sum(MemorySegment x, long xo, int n) {
        FloatVector s0 = splat(0f);
        FloatVector s1 = s0;
        FloatVector s2 = s0;
        FloatVector s3 = s0;
        int i = 0;
        for (; i <= n - 4 * V; i += 4 * V) {
            long at = xo + 4L * i;
            s0 = s0.add(load(x, at));
            s1 = s1.add(load(x, at + 4L * V));
            s2 = s2.add(load(x, at + 8L * V));
            s3 = s3.add(load(x, at + 12L * V));
        }
        for (; i < bound(n); i += V) {
            s0 = s0.add(load(x, xo + 4L * i));
        }
        float sum = Vectors.sum(s0.add(s1).add(s2.add(s3)));
        for (; i < n; i++) {
            sum += get(x, xo + 4L * i);
        }
        return sum;
    }

    /// Σ x² of `n` floats.
    static float sumOfSquares(MemorySegment x, long xo, int n) {
        return dot(x, xo, x, xo, n);
    }

    /// Σ x · y of `n` floats.
    static float dot(MemorySegment x, long xo, MemorySegment y, long yo, int n) {
        FloatVector s0 = splat(0f);
        FloatVector s1 = s0;
        FloatVector s2 = s0;
        FloatVector s3 = s0;
        int i = 0;
        for (; i <= n - 4 * V; i += 4 * V) {
            long xa = xo + 4L * i;
            long ya = yo + 4L * i;
            s0 = load(x, xa).fma(load(y, ya), s0);
            s1 = load(x, xa + 4L * V).fma(load(y, ya + 4L * V), s1);
            s2 = load(x, xa + 8L * V).fma(load(y, ya + 8L * V), s2);
            s3 = load(x, xa + 12L * V).fma(load(y, ya + 12L * V), s3);
        }
        for (; i < bound(n); i += V) {
            s0 = load(x, xo + 4L * i).fma(load(y, yo + 4L * i), s0);
        }
        float sum = Vectors.sum(s0.add(s1).add(s2.add(s3)));
        for (; i < n; i++) {
            sum = Math.fma(get(x, xo + 4L * i), get(y, yo + 4L * i), sum);
        }
        return sum;
    }

    /// y (cols) ← Σ over the rows of x (or +=), which are `stride` elements apart.
    private static void sumStrip(
            MemorySegment y, long yo, MemorySegment x, long xo, int rows, int stride, int cols, boolean accumulate) {
        int j = 0;
        for (; j < bound(cols); j += V) {
            FloatVector sum = splat(0f);
            for (int r = 0; r < rows; r += COLUMN_BLOCK) {
                sum = sum.add(
                        sumColumns(x, xo + 4 * ((long) r * stride + j), Math.min(COLUMN_BLOCK, rows - r), stride));
            }
            Vectors.put(y, yo + 4L * j, sum, accumulate);
        }
        for (; j < cols; j++) {
            double sum = 0;
            for (int r = 0; r < rows; r++) {
                sum += get(x, xo + 4 * ((long) r * stride + j));
            }
            set(y, yo + 4L * j, (float) (accumulate ? get(y, yo + 4L * j) + sum : sum));
        }
    }

    private static FloatVector sumColumns(MemorySegment x, long xo, int rows, int stride) {
        FloatVector sum = splat(0f);
        for (int r = 0; r < rows; r++) {
            sum = sum.add(load(x, xo + 4L * r * stride));
        }
        return sum;
    }

    /// y (rows) ← max over the columns of x (rows, cols).
    static void rowMax(Parallel parallel, MemorySegment y, MemorySegment x, int rows, int cols) {
        Vectors.forRows(parallel, rows, cols, (from, to) -> {
            for (int i = from; i < to; i++) {
                set(y, 4L * i, max(x, 4L * i * cols, cols));
            }
        });
    }

    /// The largest of `n` floats; NaN if any of them is NaN.
    static float max(MemorySegment x, long xo, int n) {
        FloatVector m0 = splat(Float.NEGATIVE_INFINITY);
        FloatVector m1 = m0;
        int i = 0;
        for (; i <= n - 2 * V; i += 2 * V) {
            m0 = m0.max(load(x, xo + 4L * i));
            m1 = m1.max(load(x, xo + 4L * i + 4L * V));
        }
        for (; i < bound(n); i += V) {
            m0 = m0.max(load(x, xo + 4L * i));
        }
        float max = m0.max(m1).reduceLanes(VectorOperators.MAX);
        for (; i < n; i++) {
            max = Math.max(max, get(x, xo + 4L * i));
        }
        return max;
    }

    /// y (1) ← the number of entries of `ids` (n) that are not `ignore`.
    static void countValid(MemorySegment y, MemorySegment ids, int n, int ignore) {
        int count = 0;
        for (int i = 0; i < n; i++) {
            count += getInt(ids, 4L * i) != ignore ? 1 : 0;
        }
        set(y, 0, count);
    }
}
