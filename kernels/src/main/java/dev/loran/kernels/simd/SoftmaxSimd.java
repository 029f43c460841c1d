package dev.loran.kernels.simd;

import static dev.loran.kernels.simd.vector.Vectors.V;
import static dev.loran.kernels.simd.vector.Vectors.bound;
import static dev.loran.kernels.simd.vector.Vectors.get;
import static dev.loran.kernels.simd.vector.Vectors.load;
import static dev.loran.kernels.simd.vector.Vectors.set;
import static dev.loran.kernels.simd.vector.Vectors.splat;
import static dev.loran.kernels.simd.vector.Vectors.store;

import dev.loran.kernels.simd.vector.Parallel;
import dev.loran.kernels.simd.vector.VectorMath;
import dev.loran.kernels.simd.vector.Vectors;
import java.lang.foreign.MemorySegment;
import jdk.incubator.vector.FloatVector;

/// Row-wise softmax.
final class SoftmaxSimd {
    private SoftmaxSimd() {}

    /// y = softmax of each row of x (rows, cols). y may be x.
    static void forward(Parallel parallel, MemorySegment y, MemorySegment x, int rows, int cols) {
        Vectors.forRows(parallel, rows, cols, (from, to) -> {
            for (int i = from; i < to; i++) {
                long at = 4L * i * cols;
                float max = ReductionSimd.max(x, at, cols);
                BinarySimd.mulScalar(y, at, y, at, 1 / expInto(y, x, at, cols, max), cols);
            }
        });
    }

    /// y ← exp(x − max); returns the sum.
    static float expInto(MemorySegment y, MemorySegment x, long at, int n, float max) {
        FloatVector sums = splat(0f);
        int i = 0;
        for (; i < bound(n); i += V) {
            FloatVector e = VectorMath.expOfNegative(load(x, at + 4L * i).sub(max));
            store(y, at + 4L * i, e);
            sums = sums.add(e);
        }
        float sum = Vectors.sum(sums);
        // Using the vector exponential a second time would make C2's graph too large.
        for (; i < n; i++) {
            float e = (float) Math.exp(get(x, at + 4L * i) - max);
            set(y, at + 4L * i, e);
            sum += e;
        }
        return sum;
    }

    /// dx ← y · (dy − Σ cols dy · y) (or +=).
    static void backward(
            Parallel parallel,
            MemorySegment dx,
            MemorySegment dy,
            MemorySegment y,
            int rows,
            int cols,
            boolean accumulate) {
        Vectors.forRows(parallel, rows, cols, (from, to) -> {
            for (int i = from; i < to; i++) {
                long at = 4L * i * cols;
                backwardRow(dx, dy, y, at, cols, ReductionSimd.dot(dy, at, y, at, cols), accumulate);
            }
        });
    }

    private static void backwardRow(
            MemorySegment dx, MemorySegment dy, MemorySegment y, long at, int n, float dot, boolean accumulate) {
        int i = 0;
        for (; i < bound(n); i += V) {
            long a = at + 4L * i;
            FloatVector d = load(dy, a).sub(dot).mul(load(y, a));
            Vectors.put(dx, a, d, accumulate);
        }
        for (; i < n; i++) {
            long a = at + 4L * i;
            float d = (get(dy, a) - dot) * get(y, a);
            set(dx, a, accumulate ? get(dx, a) + d : d);
        }
    }
}
