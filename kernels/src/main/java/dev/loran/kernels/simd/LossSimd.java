package dev.loran.kernels.simd;

import static dev.loran.kernels.simd.SimdOperations.f32;
import static dev.loran.kernels.simd.SimdOperations.i32;
import static dev.loran.kernels.simd.vector.Vectors.V;
import static dev.loran.kernels.simd.vector.Vectors.bound;
import static dev.loran.kernels.simd.vector.Vectors.get;
import static dev.loran.kernels.simd.vector.Vectors.getInt;
import static dev.loran.kernels.simd.vector.Vectors.load;
import static dev.loran.kernels.simd.vector.Vectors.set;
import static dev.loran.kernels.simd.vector.Vectors.splat;

import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.BackendException;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.LossKernels;
import dev.loran.engine.backend.LossKernels.Labels;
import dev.loran.engine.backend.Matrix;
import dev.loran.kernels.simd.vector.Parallel;
import dev.loran.kernels.simd.vector.VectorMath;
import dev.loran.kernels.simd.vector.Vectors;
import java.lang.foreign.MemorySegment;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.VectorOperators;

/// Cross-entropy over rows of logits.
record LossSimd(Backend backend, Parallel parallel) implements LossKernels {
    /// Number of elements of a row of logits that are summed at a time.
    private static final int BLOCK = 1024;

    /// How far an element may exceed the value m that is subtracted from all: 1024 · e²⁰ is far from overflow.
    private static final float MARGIN = 20;

    @Override
    public void crossEntropy(Buffer losses, Buffer lse, Matrix logits, Labels labels) {
        MemorySegment to = f32(losses);
        MemorySegment sums = f32(lse);
        MemorySegment x = f32(logits.buffer());
        MemorySegment ids = i32(labels.ids());
        int v = logits.cols();
        Vectors.forRows(parallel, logits.rows(), v, (from, end) -> {
            float[] found = parallel.workspace().tile();
            for (int i = from; i < end; i++) {
                long at = 4L * i * v;
                double logSum = logSumExp(x, at, v, found);
                set(sums, 4L * i, (float) logSum);
                int label = getInt(ids, 4L * i);
                if (label == labels.ignore()) {
                    set(to, 4L * i, 0f);
                } else if (label < 0 || label >= v) {
                    throw new BackendException("crossEntropy: label " + label + " does not lie in [0, " + v + ")");
                } else {
                    set(to, 4L * i, (float) (logSum - get(x, at + 4L * label)));
                }
            }
        });
    }

    /// log Σ exp(x) of a row, computed as m + log Σ exp(x − m). Here m need only be close to the largest element: it
    /// starts as the maximum of the first block, and the maximum of each block is found while it is summed. Only a
    /// block that contains a much larger element is processed again.
    private static double logSumExp(MemorySegment x, long at, int n, float[] found) {
        float m = ReductionSimd.max(x, at, Math.min(BLOCK, n));
        double sum = 0;
        for (int from = 0; from < n; ) {
            long block = at + 4L * from;
            int size = Math.min(BLOCK, n - from);
            float more = sumExp(x, block, size, m, found);
            if (found[0] > m + MARGIN) {
                float largest = ReductionSimd.max(x, block, size);
                // If m was -Infinity, nothing has been summed yet, and the sum so far is NaN.
                sum = m == Float.NEGATIVE_INFINITY ? 0 : sum * Math.exp((double) m - largest);
                m = largest;
            } else {
                sum += more;
                from += BLOCK;
            }
        }
        return m + Math.log(sum);
    }

    /// Returns Σ exp(x − m), and stores the largest x that is not NaN in `found`.
    private static float sumExp(MemorySegment x, long at, int n, float m, float[] found) {
        FloatVector lanes = splat(0f);
        FloatVector largest = splat(Float.NEGATIVE_INFINITY);
        int i = 0;
        for (; i < bound(n); i += V) {
            FloatVector v = load(x, at + 4L * i);
            largest = largest.blend(v, v.compare(VectorOperators.GT, largest));
            lanes = lanes.add(VectorMath.expOfNegative(v.sub(m)));
        }
        float sum = Vectors.sum(lanes);
        float max = largest.reduceLanes(VectorOperators.MAX);
        for (; i < n; i++) {
            float v = get(x, at + 4L * i);
            max = Math.max(max, v);
            sum += (float) Math.exp(v - m);
        }
        found[0] = max;
        return sum;
    }

    @Override
    public void crossEntropyBackward(Gradient dLogits, Buffer g, Matrix logits, Buffer lse, Labels labels) {
        MemorySegment to = f32(dLogits.buffer());
        MemorySegment x = f32(logits.buffer());
        MemorySegment sums = f32(lse);
        MemorySegment ids = i32(labels.ids());
        float factor = get(f32(g), 0);
        int v = logits.cols();
        int ignore = labels.ignore();
        boolean accumulate = dLogits.accumulate();
        Vectors.forRows(parallel, logits.rows(), v, (from, end) -> {
            for (int i = from; i < end; i++) {
                long at = 4L * i * v;
                int label = getInt(ids, 4L * i);
                if (label != ignore) {
                    probabilities(to, x, at, v, get(sums, 4L * i), factor, accumulate);
                    set(to, at + 4L * label, get(to, at + 4L * label) - factor);
                } else if (!accumulate) {
                    CopySimd.fill(to, at, v, 0f);
                }
            }
        });
    }

    private static void probabilities(
            MemorySegment y, MemorySegment x, long at, int n, float lse, float factor, boolean accumulate) {
        int i = 0;
        for (; i < bound(n); i += V) {
            long a = at + 4L * i;
            FloatVector p = VectorMath.expOfNegative(load(x, a).sub(lse)).mul(factor);
            Vectors.put(y, a, p, accumulate);
        }
        for (; i < n; i++) {
            long a = at + 4L * i;
            float p = VectorMath.expOfNegative(splat(x, a).sub(lse)).lane(0) * factor;
            set(y, a, accumulate ? get(y, a) + p : p);
        }
    }
}
