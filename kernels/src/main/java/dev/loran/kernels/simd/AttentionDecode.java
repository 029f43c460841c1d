package dev.loran.kernels.simd;

import static dev.loran.kernels.simd.vector.Vectors.V;
import static dev.loran.kernels.simd.vector.Vectors.bound;
import static dev.loran.kernels.simd.vector.Vectors.get;
import static dev.loran.kernels.simd.vector.Vectors.load;
import static dev.loran.kernels.simd.vector.Vectors.set;
import static dev.loran.kernels.simd.vector.Vectors.splat;
import static dev.loran.kernels.simd.vector.Vectors.store;

import dev.loran.kernels.simd.AttentionSimd.Inputs;
import dev.loran.kernels.simd.vector.Parallel;
import dev.loran.kernels.simd.vector.VectorMath;
import dev.loran.kernels.simd.vector.Workspace.Slot;
import java.lang.foreign.MemorySegment;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.VectorOperators;

/// Attention with one query per head, as in generation: every key and value is used once, so the work consists in
/// reading them. Lanes are elements of a head, nothing is packed, and a key is used by all query heads that share it
/// while it is still in a cache.
final class AttentionDecode {
    private AttentionDecode() {}

    /// Computes out (batch, 1, heads, d) and lse (batch, heads, 1). A task is one key head of one row of the batch.
    static void forward(Parallel parallel, MemorySegment out, MemorySegment lse, Inputs a) {
        parallel.parallelFor(a.batch() * a.kvHeads(), task -> {
            int b = task / a.kvHeads();
            int kvHead = task % a.kvHeads();
            MemorySegment m = parallel.workspace().segment(Slot.ATTENTION, 4L * a.group() * a.keys());
            MemorySegment prefixK = a.prefixK();
            if (prefixK != null) {
                scores(m, prefixK, a.prefixKey(b, 0, kvHead), a, b, kvHead, 0, a.p());
            }
            scores(m, a.k(), a.key(b, 0, kvHead), a, b, kvHead, a.p(), a.s());
            for (int i = 0; i < a.group(); i++) {
                finish(out, lse, m, 4L * i * a.keys(), a, b, kvHead, kvHead * a.group() + i);
            }
        });
    }

    /// m (group, keys) ← the scores of `count` keys stored at `at`, the first of which has index `from`.
    private static void scores(
            MemorySegment m, MemorySegment k, long at, Inputs a, int b, int kvHead, int from, int count) {
        for (int j = 0; j < count; j++) {
            boolean hidden = hides(a, b, from + j);
            for (int i = 0; i < a.group(); i++) {
                long q = a.query(b, 0, kvHead * a.group() + i);
                float score = hidden
                        ? Float.NEGATIVE_INFINITY
                        : a.scale() * ReductionSimd.dot(a.q(), q, k, at + j * a.keyStride(), a.d());
                set(m, 4 * ((long) i * a.keys() + from + j), score);
            }
        }
    }

    /// Whether the mask, the window or the text of the query, which stands at the last key, hides a key.
    private static boolean hides(Inputs a, int b, int key) {
        int last = a.keys() - 1;
        return a.hides(b, key)
                || a.scoring().window() > 0 && last - key >= a.scoring().window()
                || a.scoring().packed() && key >= a.p() && a.text(b, key) != a.text(b, last);
    }

    /// x ← c · tanh(x / c) for a row of scores, of which −∞ remains.
    private static void cap(MemorySegment m, long row, int count, float c) {
        int j = 0;
        for (; j < bound(count); j += V) {
            FloatVector x = load(m, row + 4L * j);
            FloatVector y = VectorMath.tanh(x.mul(1 / c)).mul(c);
            store(m, row + 4L * j, y.blend(x, x.compare(VectorOperators.EQ, Float.NEGATIVE_INFINITY)));
        }
        for (; j < count; j++) {
            float x = get(m, row + 4L * j);
            set(m, row + 4L * j, x == Float.NEGATIVE_INFINITY ? x : (float) (c * Math.tanh(x / c)));
        }
    }

    /// Computes the weighted sum of the values for one query head, and its lse; zeros if it sees no key.
    private static void finish(
            MemorySegment out, MemorySegment lse, MemorySegment m, long row, Inputs a, int b, int kvHead, int h) {
        long to = a.query(b, 0, h);
        if (a.scoring().softCap() > 0) {
            cap(m, row, a.keys(), (float) a.scoring().softCap());
        }
        float max = ReductionSimd.max(m, row, a.keys());
        if (max == Float.NEGATIVE_INFINITY) {
            CopySimd.fill(out, to, a.d(), 0f);
            set(lse, a.statistics(b, 0, h), AttentionSoftmax.NONE);
            return;
        }
        float sum = SoftmaxSimd.expInto(m, m, row, a.keys(), max);
        BinarySimd.mulScalar(m, row, m, row, 1 / sum, a.keys());
        set(lse, a.statistics(b, 0, h), (float) (max + Math.log(sum)));
        CopySimd.fill(out, to, a.d(), 0f);
        MemorySegment prefixV = a.prefixV();
        if (prefixV != null) {
            addValues(out, to, m, row, prefixV, a.prefixKey(b, 0, kvHead), a, a.p());
        }
        addValues(out, to, m, row + 4L * a.p(), a.v(), a.key(b, 0, kvHead), a, a.s());
    }

    /// out (d) += Σ over `count` rows of v of weight · row.
    private static void addValues(
            MemorySegment out,
            long to,
            MemorySegment weights,
            long row,
            MemorySegment v,
            long at,
            Inputs a,
            int count) {
        long stride = a.keyStride();
        int d = a.d();
        int c = 0;
        for (; c <= d - 4 * V; c += 4 * V) {
            addFour(out, to + 4L * c, weights, row, v, at + 4L * c, stride, count);
        }
        for (; c < bound(d); c += V) {
            addOne(out, to + 4L * c, weights, row, v, at + 4L * c, stride, count);
        }
        for (; c < d; c++) {
            float sum = get(out, to + 4L * c);
            for (int j = 0; j < count; j++) {
                sum = Math.fma(get(weights, row + 4L * j), get(v, at + j * stride + 4L * c), sum);
            }
            set(out, to + 4L * c, sum);
        }
    }

    private static void addFour(
            MemorySegment out,
            long to,
            MemorySegment weights,
            long row,
            MemorySegment v,
            long at,
            long stride,
            int count) {
        FloatVector s0 = load(out, to);
        FloatVector s1 = load(out, to + 4L * V);
        FloatVector s2 = load(out, to + 8L * V);
        FloatVector s3 = load(out, to + 12L * V);
        for (int j = 0; j < count; j++) {
            FloatVector weight = splat(weights, row + 4L * j);
            long x = at + j * stride;
            s0 = weight.fma(load(v, x), s0);
            s1 = weight.fma(load(v, x + 4L * V), s1);
            s2 = weight.fma(load(v, x + 8L * V), s2);
            s3 = weight.fma(load(v, x + 12L * V), s3);
        }
        store(out, to, s0);
        store(out, to + 4L * V, s1);
        store(out, to + 8L * V, s2);
        store(out, to + 12L * V, s3);
    }

    private static void addOne(
            MemorySegment out,
            long to,
            MemorySegment weights,
            long row,
            MemorySegment v,
            long at,
            long stride,
            int count) {
        FloatVector sum = load(out, to);
        for (int j = 0; j < count; j++) {
            sum = splat(weights, row + 4L * j).fma(load(v, at + j * stride), sum);
        }
        store(out, to, sum);
    }
}
