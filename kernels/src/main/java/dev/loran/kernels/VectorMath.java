package dev.loran.kernels;

import static dev.loran.kernels.Vectors.splat;

import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.IntVector;
import jdk.incubator.vector.VectorMask;
import jdk.incubator.vector.VectorOperators;

/// Elementary functions of a vector of floats: range reduction, then a polynomial of our own (minimax by Remez'
/// exchange algorithm, coefficients rounded to F32). Errors are the largest found against double precision over the whole
/// range, subnormal arguments included; infinities and NaN give what [Math] gives.
///
/// Only multiplication, addition, comparison and division of whole vectors are used, so an element has the same bits in
/// whatever lane and on whatever width it is computed. The caller's loop must inline these methods: they are short for
/// that reason.
final class VectorMath {
    // Some constants are whole vectors. A broadcast costs C2 some hundred nodes of its graph; where a loop outgrows the
    // limit of nodes, the rest is called, not inlined, with every vector in an object. But a constant is loaded in
    // every round of the loop, which C2 does not move out: the shortest functions broadcast.

    static final FloatVector ONE = splat(1f);
    static final FloatVector ZERO = splat(0f);
    private static final FloatVector MINUS_HALF = splat(-0.5f);

    /// ln 2 = LN2_HIGH + LN2_LOW to about 48 bits.
    private static final float LN2_HIGH = 0.6931472f;

    private static final float LN2_LOW = -1.9046542e-9f;
    private static final float LOG2_E = 1.442695f;

    /// 1.5 · 2²³: adding it leaves the nearest integer in the low bits of the sum.
    private static final float ROUNDER = 12582912f;

    private static final int ROUNDER_BITS = 0x4B400000;
    private static final int SQRT_HALF_BITS = 0x3F3504F3;

    private static final FloatVector LOG_1 = splat(0.06746639f);
    private static final FloatVector LOG_2 = splat(-0.116756506f);
    private static final FloatVector LOG_3 = splat(0.11888162f);
    private static final FloatVector LOG_4 = splat(-0.12405589f);
    private static final FloatVector LOG_5 = splat(0.14219552f);
    private static final FloatVector LOG_6 = splat(-0.16667996f);
    private static final FloatVector LOG_7 = splat(0.2000212f);
    private static final FloatVector LOG_8 = splat(-0.2500001f);
    private static final FloatVector LOG_9 = splat(0.33333313f);
    private static final FloatVector TANH_1 = splat(-0.0057049873f);
    private static final FloatVector TANH_2 = splat(0.020639088f);
    private static final FloatVector TANH_3 = splat(-0.053739715f);
    private static final FloatVector TANH_4 = splat(0.13331442f);
    private static final FloatVector TANH_5 = splat(-0.3333328f);
    private static final FloatVector CDF_1 = splat(0.3f);
    private static final FloatVector CDF_2 = splat(-0.020623451f);
    private static final FloatVector CDF_3 = splat(0.11243552f);
    private static final FloatVector CDF_4 = splat(-0.2282134f);
    private static final FloatVector CDF_5 = splat(0.19178428f);
    private static final FloatVector CDF_6 = splat(-0.079423286f);
    private static final FloatVector CDF_7 = splat(0.09615673f);
    private static final FloatVector CDF_8 = splat(0.07838968f);
    private static final FloatVector CDF_9 = splat(0.110235415f);
    private static final FloatVector CDF_10 = splat(0.11957181f);
    private static final FloatVector CDF_11 = splat(0.11968669f);

    private VectorMath() {}

    /// eˣ to 1 ulp: x = n · ln 2 + r with |r| ≤ ln 2 / 2, eʳ of degree 6, times 2ⁿ in two steps so that neither
    /// overflows early.
    static FloatVector exp(FloatVector x) {
        FloatVector t = x.lanewise(VectorOperators.FMA, LOG2_E, ROUNDER);
        FloatVector e = expOfRest(x, t.sub(ROUNDER));
        IntVector power = t.reinterpretAsInts().sub(ROUNDER_BITS);
        IntVector half = power.lanewise(VectorOperators.ASHR, 1);
        FloatVector y = e.mul(powerOfTwo(half)).mul(powerOfTwo(power.sub(half)));
        return y.blend(0f, x.compare(VectorOperators.LT, -103.98f))
                .blend(Float.POSITIVE_INFINITY, x.compare(VectorOperators.GT, 88.72284f));
    }

    /// eˣ for x ≤ 0, to 1 ulp where the result is normal and 0 where it is not: one step less, and no infinity.
    static FloatVector expOfNegative(FloatVector x) {
        FloatVector t = x.lanewise(VectorOperators.FMA, LOG2_E, ROUNDER);
        FloatVector e = expOfRest(x, t.sub(ROUNDER));
        // The shift drops what the rounder left in the upper bits.
        return e.mul(powerOfTwo(t.reinterpretAsInts())).blend(ZERO, x.compare(VectorOperators.LT, -87.33654f));
    }

    /// eʳ with r = x − n · ln 2.
    private static FloatVector expOfRest(FloatVector x, FloatVector n) {
        FloatVector r = n.fma(splat(-LN2_LOW), n.fma(splat(-LN2_HIGH), x));
        FloatVector q = r.lanewise(VectorOperators.FMA, 0.0013814467f, 0.008368781f);
        q = q.fma(r, splat(0.041668393f));
        q = q.fma(r, splat(0.1666652f));
        q = q.fma(r, splat(0.49999994f));
        return r.mul(r).fma(q, r).add(ONE);
    }

    private static FloatVector powerOfTwo(IntVector n) {
        return n.add(127).lanewise(VectorOperators.LSHL, 23).reinterpretAsFloats();
    }

    /// ln x to 1 ulp: x = 2ᵉ · (1 + f) with 1 + f in [√½, √2), ln(1 + f) of degree 11.
    static FloatVector log(FloatVector x) {
        VectorMask<Float> tiny = x.compare(VectorOperators.LT, Float.MIN_NORMAL);
        IntVector bits = x.blend(x.mul(8388608f), tiny).reinterpretAsInts();
        IntVector power = bits.sub(SQRT_HALF_BITS).lanewise(VectorOperators.ASHR, 23);
        FloatVector f = bits.sub(power.lanewise(VectorOperators.LSHL, 23))
                .reinterpretAsFloats()
                .sub(1f);
        FloatVector e = ((FloatVector) power.castShape(Vectors.F, 0));
        e = e.blend(e.sub(23f), tiny);
        FloatVector p = f.fma(LOG_1, LOG_2);
        p = p.fma(f, LOG_3);
        p = p.fma(f, LOG_4);
        p = p.fma(f, LOG_5);
        p = p.fma(f, LOG_6);
        p = p.fma(f, LOG_7);
        p = p.fma(f, LOG_8);
        p = p.fma(f, LOG_9);
        FloatVector square = f.mul(f);
        FloatVector y = e.fma(splat(LN2_LOW), p.mul(f).mul(square));
        y = e.fma(splat(LN2_HIGH), square.fma(MINUS_HALF, y).add(f));
        return y.blend(x, x.compare(VectorOperators.LT, Float.POSITIVE_INFINITY).not())
                .blend(Float.NaN, x.compare(VectorOperators.LT, ZERO))
                .blend(Float.NEGATIVE_INFINITY, x.compare(VectorOperators.EQ, 0f));
    }

    /// tanh x to 1.5 ulp: an odd polynomial of degree 11 below 0.625, 1 − 2e / (1 + e) with e = e⁻²ˣ above.
    static FloatVector tanh(FloatVector x) {
        FloatVector a = x.abs();
        FloatVector square = x.mul(x);
        FloatVector p = square.fma(TANH_1, TANH_2);
        p = p.fma(square, TANH_3);
        p = p.fma(square, TANH_4);
        p = p.fma(square, TANH_5);
        FloatVector small = square.mul(p).fma(x, x);
        FloatVector e = expOfNegative(a.add(a).neg());
        FloatVector large = ONE.sub(e.add(e).div(e.add(ONE)));
        large = large.blend(large.neg(), x.compare(VectorOperators.LT, ZERO));
        return large.blend(small, a.compare(VectorOperators.LT, 0.625f));
    }

    /// σ(x) = 1 / (1 + e⁻ˣ) to 2.5 ulp.
    static FloatVector sigmoid(FloatVector x) {
        return sigmoid(x, expOfMinusAbs(x));
    }

    /// σ(x) given `e` = [#expOfMinusAbs] of x, in whose terms small values keep their digits. The same e serves σ(−x).
    static FloatVector sigmoid(FloatVector x, FloatVector e) {
        return ONE.blend(e, x.compare(VectorOperators.LT, ZERO)).div(e.add(ONE));
    }

    /// e^−|x|
    static FloatVector expOfMinusAbs(FloatVector x) {
        return expOfNegative(x.abs().neg());
    }

    /// e^(−z² / 2) to 1.5 ulp: the square is taken exactly, as a high and a low part, for a rounded one would cost z² / 2
    /// ulp.
    static FloatVector gaussian(FloatVector z) {
        FloatVector high = z.mul(z);
        FloatVector low = z.fma(z, high.neg());
        FloatVector e = expOfNegative(high.mul(MINUS_HALF));
        return e.fma(low.mul(MINUS_HALF), e);
    }

    /// Φ(x), the distribution function of the standard normal, to 6 ulp (relative, in the lower tail too), given
    /// `gaussian` = [#gaussian] of `z` = [#clampedAbs] of x. The upper tail is Q(z) = gaussian(z) · w · S(w) with
    /// w = 1 / (1 + 0.3z) and S of degree 9.
    static FloatVector normalCdf(FloatVector x, FloatVector z, FloatVector gaussian) {
        FloatVector w = ONE.div(z.fma(CDF_1, ONE));
        FloatVector s = w.fma(CDF_2, CDF_3);
        s = s.fma(w, CDF_4);
        s = s.fma(w, CDF_5);
        s = s.fma(w, CDF_6);
        s = s.fma(w, CDF_7);
        s = s.fma(w, CDF_8);
        s = s.fma(w, CDF_9);
        s = s.fma(w, CDF_10);
        s = s.fma(w, CDF_11);
        FloatVector q = gaussian.mul(w.mul(s));
        return ONE.sub(q).blend(q, x.compare(VectorOperators.LT, ZERO));
    }

    /// min(|x|, 32), beyond which [#gaussian] is 0 anyway.
    static FloatVector clampedAbs(FloatVector x) {
        FloatVector a = x.abs();
        return a.blend(32f, a.compare(VectorOperators.GT, 32f));
    }
}
