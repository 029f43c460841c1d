package dev.loran.kernels.simd;

import static dev.loran.kernels.simd.AttentionBlock.HIGH;
import static dev.loran.kernels.simd.AttentionBlock.QUERIES;
import static dev.loran.kernels.simd.vector.Vectors.V;
import static dev.loran.kernels.simd.vector.Vectors.load;
import static dev.loran.kernels.simd.vector.Vectors.splat;
import static dev.loran.kernels.simd.vector.Vectors.store;

import dev.loran.kernels.simd.AttentionBlock.Pass;
import dev.loran.kernels.simd.AttentionBlock.Scratch;
import dev.loran.kernels.simd.vector.VectorMath;
import java.lang.foreign.MemorySegment;
import java.nio.ByteOrder;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.VectorOperators;

/// What happens to the scores of an [AttentionBlock]: they become the weights of the values, by an online softmax, and
/// in backward also the gradients of scores.
final class AttentionSoftmax {
    /// The running maximum before any key has been seen: below every real score, and finite, so that nothing becomes
    /// NaN.
    static final float NONE = -1e30f;

    /// Turns scores into the weights of the values.
    private static final Pass[] FORWARD = {
        (pair, lane) -> pair.hide(pair.w().scores(), lane, Float.NEGATIVE_INFINITY),
        AttentionSoftmax::highest,
        AttentionSoftmax::weights
    };

    /// Turns scores and the gradients of weights into weights and the gradients of scores. Hidden gradients are set to
    /// 0: what was not computed may be anything, and NaN times a weight of 0 is NaN.
    private static final Pass[] BACKWARD = {
        (pair, lane) -> pair.hide(pair.w().scores(), lane, Float.NEGATIVE_INFINITY),
        (pair, lane) -> pair.hide(pair.w().slopes(), lane, 0f),
        AttentionSoftmax::slopes
    };

    /// The same for scores with a soft cap.
    private static final Pass[] CAPPED_BACKWARD = {BACKWARD[0], BACKWARD[1], AttentionSoftmax::cappedSlopes};

    private AttentionSoftmax() {}

    // ---- forward

    static void forward(AttentionBlock pair) {
        cap(pair);
        pair.forLanes(FORWARD);
    }

    /// x ← c · tanh(x / c) for the scores x, if there is a soft cap c.
    private static void cap(AttentionBlock pair) {
        float cap = (float) pair.a().scoring().softCap();
        if (cap == 0) {
            return;
        }
        MemorySegment m = pair.w().m();
        int width = pair.width();
        int count = pair.scored(width - V);
        for (int j = 0; j < count; j++) {
            long row = pair.w().scores() + HIGH * j;
            BinarySimd.mulScalar(m, row, m, row, 1 / cap, width);
            UnarySimd.tanh(m, m, row, width);
            BinarySimd.mulScalar(m, row, m, row, cap, width);
        }
    }

    /// max ← the maximum of max and the scores of one vector of queries; factor ← exp(old max − new max), which
    /// rescales what was summed before.
    private static void highest(AttentionBlock pair, int lane) {
        Scratch w = pair.w();
        MemorySegment m = w.m();
        int count = pair.scored(lane);
        long scores = w.scores() + 4L * lane;
        long max = w.max() + 4L * lane;
        FloatVector before = load(m, max);
        FloatVector even = before;
        FloatVector odd = before;
        // Two maxima, because a single one would have to wait for its own previous result.
        for (int j = 0; j < count - 1; j += 2) {
            FloatVector x = load(m, scores + HIGH * j);
            FloatVector y = load(m, scores + HIGH * j + HIGH);
            even = even.blend(x, x.compare(VectorOperators.GT, even));
            odd = odd.blend(y, y.compare(VectorOperators.GT, odd));
        }
        if (count % 2 == 1) {
            FloatVector x = load(m, scores + HIGH * (count - 1));
            even = even.blend(x, x.compare(VectorOperators.GT, even));
        }
        FloatVector now = even.blend(odd, odd.compare(VectorOperators.GT, even));
        store(m, max, now);
        store(m, w.factor() + 4L * lane, VectorMath.expOfNegative(before.sub(now)));
    }

    /// Replaces scores by exp(score − max) for the queries of one vector, and adds their sum to `total`, which is first
    /// rescaled by the factor.
    private static void weights(AttentionBlock pair, int lane) {
        Scratch w = pair.w();
        MemorySegment m = w.m();
        int count = pair.scored(lane);
        long scores = w.scores() + 4L * lane;
        long total = w.total() + 4L * lane;
        FloatVector now = load(m, w.max() + 4L * lane);
        FloatVector sum = load(m, total).mul(load(m, w.factor() + 4L * lane));
        for (int j = 0; j < count; j++) {
            FloatVector e = VectorMath.expOfNegative(load(m, scores + HIGH * j).sub(now));
            store(m, scores + HIGH * j, e);
            sum = sum.add(e);
        }
        store(m, total, sum);
    }

    /// factor ← 1 / total, max ← max + log(total), which is the lse; 0 and NONE for a query that saw no key.
    static void finish(MemorySegment m, long factor, long max, long total) {
        for (int lane = 0; lane < QUERIES; lane += V) {
            FloatVector sum = load(m, total + 4L * lane);
            var nothing = sum.compare(VectorOperators.EQ, 0f);
            store(m, factor + 4L * lane, splat(1f).div(sum).blend(0f, nothing));
            FloatVector lse = load(m, max + 4L * lane).add(VectorMath.log(sum));
            // Not through one of our own methods: with the logarithm, this method has become too large for C2 to inline
            // another.
            lse.blend(NONE, nothing).intoMemorySegment(m, max + 4L * lane, ByteOrder.nativeOrder());
        }
    }

    // ---- backward

    static void backward(AttentionBlock pair) {
        cap(pair);
        pair.forLanes(pair.a().scoring().softCap() == 0 ? BACKWARD : CAPPED_BACKWARD);
    }

    /// scores ← P = exp(scores − lse) and dP ← dS = P · (dP − D), for the queries of one vector.
    private static void slopes(AttentionBlock pair, int lane) {
        Scratch w = pair.w();
        MemorySegment m = w.m();
        int count = pair.scored(lane);
        long scores = w.scores() + 4L * lane;
        long dP = w.slopes() + 4L * lane;
        FloatVector norm = load(m, w.max() + 4L * lane);
        FloatVector mean = load(m, w.total() + 4L * lane);
        for (int j = 0; j < count; j++) {
            FloatVector p = VectorMath.expOfNegative(load(m, scores + HIGH * j).sub(norm));
            store(m, scores + HIGH * j, p);
            store(m, dP + HIGH * j, load(m, dP + HIGH * j).sub(mean).mul(p));
        }
    }

    /// As [#slopes], for scores with a soft cap c, by whose derivative, 1 − (score / c)², dS is multiplied.
    private static void cappedSlopes(AttentionBlock pair, int lane) {
        Scratch w = pair.w();
        MemorySegment m = w.m();
        int count = pair.scored(lane);
        long scores = w.scores() + 4L * lane;
        long dP = w.slopes() + 4L * lane;
        FloatVector norm = load(m, w.max() + 4L * lane);
        FloatVector mean = load(m, w.total() + 4L * lane);
        float inverse = (float) (1 / pair.a().scoring().softCap());
        for (int j = 0; j < count; j++) {
            FloatVector x = load(m, scores + HIGH * j);
            FloatVector p = VectorMath.expOfNegative(x.sub(norm));
            // A hidden score is −∞, where the derivative is 0.
            FloatVector part = x.mul(inverse).max(-1f);
            store(m, scores + HIGH * j, p);
            FloatVector slope = splat(1f).sub(part.mul(part));
            store(m, dP + HIGH * j, load(m, dP + HIGH * j).sub(mean).mul(p).mul(slope));
        }
    }
}
