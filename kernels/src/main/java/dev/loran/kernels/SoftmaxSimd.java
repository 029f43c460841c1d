package dev.loran.kernels;

import static dev.loran.kernels.Vectors.V;
import static dev.loran.kernels.Vectors.bound;
import static dev.loran.kernels.Vectors.get;
import static dev.loran.kernels.Vectors.getInt;
import static dev.loran.kernels.Vectors.load;
import static dev.loran.kernels.Vectors.set;
import static dev.loran.kernels.Vectors.setFirst;
import static dev.loran.kernels.Vectors.splat;
import static dev.loran.kernels.Vectors.store;

import dev.loran.engine.BackendException;
import java.lang.foreign.MemorySegment;
import jdk.incubator.vector.FloatVector;

/// Softmax of rows, and the cross-entropy of rows of logits.
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
        for (; i < n; i++) {
            FloatVector e = VectorMath.expOfNegative(splat(x, at + 4L * i).sub(max));
            setFirst(y, at + 4L * i, e);
            sum += e.lane(0);
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
            for (int i = from; i < to; i++) {
                long at = 4L * i * v;
                float max = ReductionSimd.max(logits, at, v);
                double logSum = max + Math.log(sumExp(logits, at, v, max));
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

    private static float sumExp(MemorySegment x, long at, int n, float max) {
        FloatVector lanes = splat(0f);
        int i = 0;
        for (; i < bound(n); i += V) {
            lanes = lanes.add(VectorMath.expOfNegative(load(x, at + 4L * i).sub(max)));
        }
        float sum = Vectors.sum(lanes);
        for (; i < n; i++) {
            sum += VectorMath.expOfNegative(splat(x, at + 4L * i).sub(max)).lane(0);
        }
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
