package dev.loran.kernels;

import static dev.loran.kernels.Vectors.V;
import static dev.loran.kernels.Vectors.bound;
import static dev.loran.kernels.Vectors.get;
import static dev.loran.kernels.Vectors.getInt;
import static dev.loran.kernels.Vectors.load;
import static dev.loran.kernels.Vectors.set;
import static dev.loran.kernels.Vectors.splat;
import static dev.loran.kernels.Vectors.store;

import dev.loran.engine.BackendException;
import java.lang.foreign.MemorySegment;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.VectorOperators;

/// Softmax of rows, and the cross-entropy of rows of logits.
final class SoftmaxSimd {
    /// Elements of a row of logits that are added up at a time.
    private static final int BLOCK = 1024;

    /// What an element may exceed that which all are compared with: e²⁰ a thousand times is far from overflow.
    private static final float MARGIN = 20;

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
        // The vectors' exponential once more would make C2's graph too large.
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
            if (accumulate) {
                store(dx, a, load(dx, a).add(d));
            } else {
                store(dx, a, d);
            }
        }
        for (; i < n; i++) {
            long a = at + 4L * i;
            float d = (get(dy, a) - dot) * get(y, a);
            set(dx, a, accumulate ? get(dx, a) + d : d);
        }
    }

    /// losses (n) ← lse less the logit of the label, 0 where the label is `ignore`; lse (n) = log Σ exp of each row of
    /// logits (n, v).
    static void crossEntropy(
            Parallel parallel,
            MemorySegment losses,
            MemorySegment lse,
            MemorySegment logits,
            MemorySegment labels,
            int n,
            int v,
            int ignore) {
        Vectors.forRows(parallel, n, v, (from, to) -> {
            float[] found = parallel.workspace().tile();
            for (int i = from; i < to; i++) {
                long at = 4L * i * v;
                double logSum = logSumExp(logits, at, v, found);
                set(lse, 4L * i, (float) logSum);
                int label = getInt(labels, 4L * i);
                if (label == ignore) {
                    set(losses, 4L * i, 0f);
                } else if (label < 0 || label >= v) {
                    throw new BackendException("crossEntropy: label " + label + " does not lie in [0, " + v + ")");
                } else {
                    set(losses, 4L * i, (float) (logSum - get(logits, at + 4L * label)));
                }
            }
        });
    }

    /// log Σ exp(x) of a row = m + log Σ exp(x − m), where m need only be near the largest element: it is that of the first
    /// block, and while a block is added up its own is found. Only a block that holds a much larger one is met again.
    private static double logSumExp(MemorySegment x, long at, int n, float[] found) {
        float m = ReductionSimd.max(x, at, Math.min(BLOCK, n));
        double sum = 0;
        for (int from = 0; from < n; ) {
            long block = at + 4L * from;
            int size = Math.min(BLOCK, n - from);
            float more = sumExp(x, block, size, m, found);
            if (found[0] > m + MARGIN) {
                float largest = ReductionSimd.max(x, block, size);
                // Of -Infinity alone nothing has been added up yet, and all of it was no number.
                sum = m == Float.NEGATIVE_INFINITY ? 0 : sum * Math.exp((double) m - largest);
                m = largest;
            } else {
                sum += more;
                from += BLOCK;
            }
        }
        return m + Math.log(sum);
    }

    /// Σ exp(x − m); the largest x that is a number goes to `found`.
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

    /// dLogits ← g · (exp(logits − lse) − onehot(label)), zero rows where the label is `ignore` (or +=). dLogits may be
    /// logits when not accumulating.
    static void crossEntropyBackward(
            Parallel parallel,
            MemorySegment dLogits,
            MemorySegment g,
            MemorySegment logits,
            MemorySegment lse,
            MemorySegment labels,
            int n,
            int v,
            int ignore,
            boolean accumulate) {
        float factor = get(g, 0);
        Vectors.forRows(parallel, n, v, (from, to) -> {
            for (int i = from; i < to; i++) {
                long at = 4L * i * v;
                int label = getInt(labels, 4L * i);
                if (label != ignore) {
                    probabilities(dLogits, logits, at, v, get(lse, 4L * i), factor, accumulate);
                    set(dLogits, at + 4L * label, get(dLogits, at + 4L * label) - factor);
                } else if (!accumulate) {
                    CopySimd.fill(dLogits, at, v, 0f);
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
            if (accumulate) {
                store(y, a, load(y, a).add(p));
            } else {
                store(y, a, p);
            }
        }
        for (; i < n; i++) {
            long a = at + 4L * i;
            float p = VectorMath.expOfNegative(splat(x, a).sub(lse)).lane(0) * factor;
            set(y, a, accumulate ? get(y, a) + p : p);
        }
    }
}
