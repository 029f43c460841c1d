package dev.loran.kernels.simd.vector;

import static dev.loran.kernels.simd.vector.Vectors.splat;

import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.IntVector;
import jdk.incubator.vector.VectorMask;
import jdk.incubator.vector.VectorOperators;

/// Elementary functions on vectors of floats: range reduction, followed by our own polynomials (minimax by Remez'
/// exchange algorithm, coefficients rounded to F32). The errors stated are the largest found against double precision
/// over the whole range, including subnormal arguments; infinities and NaN give what [Math] gives.
///
/// Only multiplication, addition, comparison and division of whole vectors are used, so an element has the same bits in
/// every lane and for every vector width. The caller's loop must inline these methods, which is why they are short.
public final class VectorMath {
    // Some constants are whole vectors. A broadcast costs C2 on the order of a hundred nodes of its graph; if a loop
    // exceeds the node limit, the rest is called instead of inlined, with every vector in an object. However, C2 does
    // not hoist the load of a constant out of the loop, so the shortest functions broadcast.

    public static final FloatVector ONE = splat(1f);
    public static final FloatVector ZERO = splat(0f);
    private static final FloatVector MINUS_HALF = splat(-0.5f);

    /// ln 2 = LN2_HIGH + LN2_LOW, to about 48 bits.
    private static final float LN2_HIGH = 0.6931472f;

    private static final float LN2_LOW = -1.9046542e-9f;

    /// log₂ e = LOG2_E + LOG2_E_LOW, to about the same precision.
    private static final float LOG2_E = 1.442695f;

    private static final float LOG2_E_LOW = 1.925963e-8f;

    /// 1.5 · 2²³: adding it leaves the nearest integer in the low bits of the sum.
    private static final float ROUNDER = 12582912f;

    /// The same plus the exponent bias: shifting the low bits of the sum into the exponent field gives 2ⁿ.
    private static final float BIASED_ROUNDER = ROUNDER + 127;

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

    private VectorMath() {}

    /// eˣ to 1 ulp: x = n · ln 2 + r with |r| ≤ ln 2 / 2, and eʳ by a polynomial of degree 6, multiplied by 2ⁿ in two
    /// steps so that neither overflows prematurely.
    public static FloatVector exp(FloatVector x) {
        FloatVector t = x.lanewise(VectorOperators.FMA, LOG2_E, ROUNDER);
        FloatVector e = expOfRest(x, t.sub(ROUNDER));
        IntVector power = t.reinterpretAsInts().sub(ROUNDER_BITS);
        IntVector half = power.lanewise(VectorOperators.ASHR, 1);
        FloatVector y = e.mul(powerOfTwo(half)).mul(powerOfTwo(power.sub(half)));
        return y.blend(0f, x.compare(VectorOperators.LT, -103.98f))
                .blend(Float.POSITIVE_INFINITY, x.compare(VectorOperators.GT, 88.72284f));
    }

    /// eˣ for x ≤ 88, to 1.2 ulp if the result is normal, and 0 if it is not. It takes two steps fewer than [#exp]: x ·
    /// log₂ e = n + r with |r| ≤ ½, 2ʳ by a polynomial of degree 6, and n comes out of the rounding as the exponent of
    /// 2ⁿ.
    public static FloatVector expOfNegative(FloatVector x) {
        FloatVector t = x.lanewise(VectorOperators.FMA, LOG2_E, BIASED_ROUNDER);
        FloatVector r = x.fma(
                splat(LOG2_E_LOW), x.fma(splat(LOG2_E), splat(BIASED_ROUNDER).sub(t)));
        FloatVector p = r.fma(splat(1.5353362e-4f), splat(1.3398875e-3f));
        p = p.fma(r, splat(9.618437e-3f));
        p = p.fma(r, splat(5.5503324e-2f));
        p = p.fma(r, splat(2.4022648e-1f));
        p = p.fma(r, splat(6.931472e-1f));
        FloatVector power =
                t.reinterpretAsInts().lanewise(VectorOperators.LSHL, 23).reinterpretAsFloats();
        return p.fma(r, ONE).mul(power).blend(ZERO, x.compare(VectorOperators.LT, -87.33654f));
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

    /// ln x to 1 ulp: x = 2ᵉ · (1 + f) with 1 + f in [√½, √2), and ln(1 + f) by a polynomial of degree 11.
    public static FloatVector log(FloatVector x) {
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
    public static FloatVector tanh(FloatVector x) {
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

    /// σ(x) = 1 / (1 + e⁻ˣ) to 2.5 ulp, through e = e^−|x|, in terms of which small values keep their precision.
    public static FloatVector sigmoid(FloatVector x) {
        FloatVector e = expOfMinusAbs(x);
        return ONE.blend(e, x.compare(VectorOperators.LT, ZERO)).div(e.add(ONE));
    }

    /// e^−|x|
    public static FloatVector expOfMinusAbs(FloatVector x) {
        return expOfNegative(x.abs().neg());
    }

    /// Φ(x), the standard normal distribution function, as ½ + x · P(x²) / Q(x²) with P and Q of degree 5, to 1.4e-7
    /// (1.3 ulp of 1) at every x, though not relative to a small Φ; exactly 0 and 1 beyond ±5.5.
    public static FloatVector normalCdf(FloatVector x) {
        FloatVector s = x.mul(x);
        FloatVector p = s.fma(splat(2.2749369e-08f), splat(6.3521297e-06f));
        p = p.fma(s, splat(0.00016882665f));
        p = p.fma(s, splat(0.004677267f));
        p = p.fma(s, splat(0.033852737f));
        p = p.fma(s, splat(0.39894223f));
        FloatVector q = s.fma(splat(1.1975048e-06f), splat(7.364785e-05f));
        q = q.fma(s, splat(0.0018844503f));
        q = q.fma(s, splat(0.028645925f));
        q = q.fma(s, splat(0.25152215f));
        return step(x, p, q.fma(s, ONE), 5.5f);
    }

    /// Φ(x) + x · φ(x), the derivative of x · Φ(x), in the same way with degrees 7 and 6, to 2.5e-7 (2.1 ulp of 1);
    /// exactly 0 and 1 beyond ±6.
    public static FloatVector geluSlope(FloatVector x) {
        FloatVector s = x.mul(x);
        FloatVector p = s.fma(splat(-2.8880329e-11f), splat(1.3003096e-08f));
        p = p.fma(s, splat(1.1219394e-06f));
        p = p.fma(s, splat(3.202716e-05f));
        p = p.fma(s, splat(0.00028522577f));
        p = p.fma(s, splat(0.013569007f));
        p = p.fma(s, splat(-0.018037923f));
        p = p.fma(s, splat(0.7978845f));
        FloatVector q = s.fma(splat(3.6363787e-07f), splat(1.0812258e-05f));
        q = q.fma(s, splat(0.00025860657f));
        q = q.fma(s, splat(0.0041502244f));
        q = q.fma(s, splat(0.045582853f));
        q = q.fma(s, splat(0.31072566f));
        return step(x, p, q.fma(s, ONE), 6f);
    }

    /// ½(1 + tanh(√(2/π)(x + 0.044715x³))), which replaces Φ in the tanh form of GELU, in the same way with degrees 4
    /// and 5, to 1.9e-7 (1.6 ulp of 1); exactly 0 and 1 beyond ±5.
    public static FloatVector tanhCdf(FloatVector x) {
        FloatVector s = x.mul(x);
        FloatVector p = s.fma(splat(4.511359e-06f), splat(0.00016492217f));
        p = p.fma(s, splat(0.0036890504f));
        p = p.fma(s, splat(0.03681748f));
        p = p.fma(s, splat(0.39894202f));
        FloatVector q = s.fma(splat(4.3797718e-07f), splat(7.2806375e-05f));
        q = q.fma(s, splat(0.0014358638f));
        q = q.fma(s, splat(0.027192129f));
        q = q.fma(s, splat(0.25977564f));
        return step(x, p, q.fma(s, ONE), 5f);
    }

    /// The derivative of x · [#tanhCdf], in the same way with degrees 6 and 6, to 2.5e-7 (2.1 ulp of 1); exactly 0 and
    /// 1 beyond ±5.5.
    public static FloatVector geluTanhSlope(FloatVector x) {
        FloatVector s = x.mul(x);
        FloatVector p = s.fma(splat(1.3999352e-08f), splat(2.0486273e-06f));
        p = p.fma(s, splat(1.3819214e-05f));
        p = p.fma(s, splat(0.0005410038f));
        p = p.fma(s, splat(0.010691103f));
        p = p.fma(s, splat(-0.0006261914f));
        p = p.fma(s, splat(0.79788435f));
        FloatVector q = s.fma(splat(5.7670104e-07f), splat(1.126388e-05f));
        q = q.fma(s, splat(0.00024995062f));
        q = q.fma(s, splat(0.003789104f));
        q = q.fma(s, splat(0.048641924f));
        q = q.fma(s, splat(0.33419564f));
        return step(x, p, q.fma(s, ONE), 5.5f);
    }

    /// ½ + x · p / q if |x| is at most `end`, else 0 or 1: a function that goes from 0 to 1 and is odd about ½.
    private static FloatVector step(FloatVector x, FloatVector p, FloatVector q, float end) {
        FloatVector inside = x.mul(p).div(q).add(0.5f);
        return inside.blend(ZERO, x.compare(VectorOperators.LT, -end)).blend(ONE, x.compare(VectorOperators.GT, end));
    }
}
