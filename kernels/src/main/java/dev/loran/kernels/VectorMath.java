package dev.loran.kernels;

import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.IntVector;
import jdk.incubator.vector.VectorMask;
import jdk.incubator.vector.VectorOperators;

/// Elementary functions of a vector of floats: range reduction, then a polynomial of our own (minimax by Remez'
/// exchange algorithm, coefficients rounded to F32). Errors are the largest found against double precision over the whole
/// range, subnormal results included; infinities and NaN give what [Math] gives.
///
/// Only multiplication, addition, comparison and division of whole vectors are used, so an element has the same bits in
/// whatever lane and on whatever width it is computed. The caller's loop must inline these methods: they are short for
/// that reason.
final class VectorMath {
    private static final float LOG2_E = 1.442695f;
    /// ln 2 = LN2_HIGH + LN2_LOW to about 48 bits.
    private static final float LN2_HIGH = 0.6931472f;

    private static final float LN2_LOW = -1.9046542e-9f;
    /// 1.5 · 2²³: adding it leaves the nearest integer in the low bits of the sum.
    private static final float ROUNDER = 12582912f;

    private static final int ROUNDER_BITS = 0x4B400000;
    private static final int SQRT_HALF_BITS = 0x3F3504F3;

    private VectorMath() {}

    /// eˣ to 1 ulp: x = n · ln 2 + r with |r| ≤ ln 2 / 2, eʳ of degree 6, times 2ⁿ in two steps so that neither
    /// overflows early.
    static FloatVector exp(FloatVector x) {
        FloatVector t = x.lanewise(VectorOperators.FMA, LOG2_E, ROUNDER);
        FloatVector n = t.sub(ROUNDER);
        FloatVector r = fma(n, -LN2_LOW, fma(n, -LN2_HIGH, x));
        FloatVector q = fma(r, 0.0013814467f, 0.008368781f);
        q = fma(q, r, 0.041668393f);
        q = fma(q, r, 0.1666652f);
        q = fma(q, r, 0.49999994f);
        FloatVector e = r.mul(r).lanewise(VectorOperators.FMA, q, r).add(1f);
        IntVector power = t.reinterpretAsInts().sub(ROUNDER_BITS);
        IntVector half = power.lanewise(VectorOperators.ASHR, 1);
        FloatVector y = e.mul(powerOfTwo(half)).mul(powerOfTwo(power.sub(half)));
        return y.blend(0f, x.compare(VectorOperators.LT, -103.98f))
                .blend(Float.POSITIVE_INFINITY, x.compare(VectorOperators.GT, 88.72284f));
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
        FloatVector p = fma(f, 0.06746639f, -0.116756506f);
        p = fma(p, f, 0.11888162f);
        p = fma(p, f, -0.12405589f);
        p = fma(p, f, 0.14219552f);
        p = fma(p, f, -0.16667996f);
        p = fma(p, f, 0.2000212f);
        p = fma(p, f, -0.2500001f);
        p = fma(p, f, 0.33333313f);
        FloatVector square = f.mul(f);
        FloatVector y = fma(e, LN2_LOW, p.mul(f).mul(square));
        y = fma(e, LN2_HIGH, fma(square, -0.5f, y).add(f));
        return y.blend(x, x.compare(VectorOperators.LT, Float.POSITIVE_INFINITY).not())
                .blend(Float.NaN, x.compare(VectorOperators.LT, 0f))
                .blend(Float.NEGATIVE_INFINITY, x.compare(VectorOperators.EQ, 0f));
    }

    /// tanh x to 1.5 ulp: an odd polynomial of degree 11 below 0.625, 1 − 2 / (e²ˣ + 1) above.
    static FloatVector tanh(FloatVector x) {
        FloatVector a = x.abs();
        FloatVector square = x.mul(x);
        FloatVector p = fma(square, -0.0057049873f, 0.020639088f);
        p = fma(p, square, -0.053739715f);
        p = fma(p, square, 0.13331442f);
        p = fma(p, square, -0.3333328f);
        FloatVector small = square.mul(p).lanewise(VectorOperators.FMA, x, x);
        FloatVector large =
                Vectors.splat(1f).sub(Vectors.splat(2f).div(exp(a.add(a)).add(1f)));
        large = large.blend(large.neg(), x.compare(VectorOperators.LT, 0f));
        return large.blend(small, a.compare(VectorOperators.LT, 0.625f));
    }

    /// σ(x) = 1 / (1 + e⁻ˣ) to 2.5 ulp.
    static FloatVector sigmoid(FloatVector x) {
        return sigmoid(x, expOfMinusAbs(x));
    }

    /// σ(x) given `e` = [#expOfMinusAbs] of x, in whose terms small values keep their digits. The same e serves σ(−x).
    static FloatVector sigmoid(FloatVector x, FloatVector e) {
        return Vectors.splat(1f).blend(e, x.compare(VectorOperators.LT, 0f)).div(e.add(1f));
    }

    /// e^−|x|
    static FloatVector expOfMinusAbs(FloatVector x) {
        return exp(x.abs().neg());
    }

    /// e^(−z² / 2) to 1.5 ulp: the square is taken exactly, as a high and a low part, for a rounded one would cost z² / 2
    /// ulp.
    static FloatVector gaussian(FloatVector z) {
        FloatVector high = z.mul(z);
        FloatVector low = z.lanewise(VectorOperators.FMA, z, high.neg());
        FloatVector e = exp(high.mul(-0.5f));
        return e.lanewise(VectorOperators.FMA, low.mul(-0.5f), e);
    }

    /// Φ(x), the distribution function of the standard normal, to 6 ulp (relative, in the lower tail too), given
    /// `gaussian` = [#gaussian] of `z` = [#clampedAbs] of x. The upper tail is Q(z) = gaussian(z) · w · S(w) with
    /// w = 1 / (1 + 0.3z) and S of degree 9.
    static FloatVector normalCdf(FloatVector x, FloatVector z, FloatVector gaussian) {
        FloatVector w = Vectors.splat(1f).div(fma(z, 0.3f, 1f));
        FloatVector s = fma(w, -0.020623451f, 0.11243552f);
        s = fma(s, w, -0.2282134f);
        s = fma(s, w, 0.19178428f);
        s = fma(s, w, -0.079423286f);
        s = fma(s, w, 0.09615673f);
        s = fma(s, w, 0.07838968f);
        s = fma(s, w, 0.110235415f);
        s = fma(s, w, 0.11957181f);
        s = fma(s, w, 0.11968669f);
        FloatVector q = gaussian.mul(w.mul(s));
        return Vectors.splat(1f).sub(q).blend(q, x.compare(VectorOperators.LT, 0f));
    }

    /// min(|x|, 32), beyond which [#gaussian] is 0 anyway.
    static FloatVector clampedAbs(FloatVector x) {
        FloatVector a = x.abs();
        return a.blend(32f, a.compare(VectorOperators.GT, 32f));
    }

    private static FloatVector fma(FloatVector a, float b, float c) {
        return a.lanewise(VectorOperators.FMA, b, c);
    }

    private static FloatVector fma(FloatVector a, float b, FloatVector c) {
        return a.lanewise(VectorOperators.FMA, Vectors.splat(b), c);
    }

    private static FloatVector fma(FloatVector a, FloatVector b, float c) {
        return a.lanewise(VectorOperators.FMA, b, Vectors.splat(c));
    }
}
