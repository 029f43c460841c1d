package dev.loran.kernels.simd.vector;

import static org.assertj.core.api.Assertions.assertThat;

import dev.loran.engine.backend.UnaryFn;
import java.util.function.DoubleUnaryOperator;
import java.util.function.UnaryOperator;
import jdk.incubator.vector.FloatVector;
import org.junit.jupiter.api.Test;

/// Every function against double precision, over all exponents and both signs, including subnormal arguments,
/// infinities and NaN.
class VectorMathTest {
    /// A prime, so that samples hit every exponent and follow no pattern of the mantissa.
    private static final int STRIDE = 9973;

    @Test
    void exp() {
        within(1, VectorMath::exp, Math::exp);
    }

    @Test
    void expOfNegative() {
        within(1.2, x -> VectorMath.expOfNegative(x.abs().neg()), x -> Math.exp(-Math.abs(x)));
    }

    @Test
    void log() {
        within(1, VectorMath::log, Math::log);
    }

    @Test
    void tanh() {
        within(1.5, VectorMath::tanh, Math::tanh);
    }

    @Test
    void sigmoid() {
        within(2.5, VectorMath::sigmoid, x -> 1 / (1 + Math.exp(-x)));
    }

    @Test
    void gelu() {
        atSteps(1.4, VectorMath::normalCdf, VectorMathTest::normalCdf);
        atSteps(2.2, VectorMath::geluSlope, UnaryFn.GELU::derivative);
        atSteps(
                1.7,
                VectorMath::tanhCdf,
                x -> 0.5 + 0.5 * Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x * x * x)));
        atSteps(2.2, VectorMath::geluTanhSlope, UnaryFn.GELU_TANH::derivative);
    }

    /// For functions that go from 0 to 1: within `ulps` of 1 everywhere, exact at the ends and at infinities, NaN for
    /// NaN.
    private static void atSteps(double ulps, UnaryOperator<FloatVector> f, DoubleUnaryOperator exact) {
        double worst = 0;
        for (int i = -70_000; i <= 70_000; i++) {
            float x = i * 1e-4f;
            worst = Math.max(worst, Math.abs(at(f, x) - exact.applyAsDouble(x)));
        }
        assertThat(worst / Math.ulp(1f)).isLessThanOrEqualTo(ulps);
        for (float x : new float[] {7, 1e4f, Float.MAX_VALUE, Float.POSITIVE_INFINITY}) {
            assertThat(at(f, x)).isEqualTo(1f);
            assertThat(at(f, -x)).isEqualTo(0f);
        }
        assertThat(at(f, Float.NaN)).isNaN();
    }

    @Test
    void specialValues() {
        assertThat(at(VectorMath::exp, Float.NEGATIVE_INFINITY)).isEqualTo(0f);
        assertThat(at(VectorMath::exp, Float.POSITIVE_INFINITY)).isEqualTo(Float.POSITIVE_INFINITY);
        assertThat(at(VectorMath::exp, 0f)).isEqualTo(1f);
        assertThat(at(VectorMath::exp, Float.NaN)).isNaN();
        assertThat(at(VectorMath::log, 0f)).isEqualTo(Float.NEGATIVE_INFINITY);
        assertThat(at(VectorMath::log, -1f)).isNaN();
        assertThat(at(VectorMath::log, 1f)).isEqualTo(0f);
        assertThat(at(VectorMath::log, Float.POSITIVE_INFINITY)).isEqualTo(Float.POSITIVE_INFINITY);
        assertThat(at(VectorMath::tanh, Float.NEGATIVE_INFINITY)).isEqualTo(-1f);
        assertThat(at(VectorMath::tanh, Float.NaN)).isNaN();
        assertThat(at(VectorMath::sigmoid, Float.NaN)).isNaN();
    }

    private static float at(UnaryOperator<FloatVector> f, float x) {
        return f.apply(Vectors.splat(x)).lane(0);
    }

    private static void within(double ulps, UnaryOperator<FloatVector> f, DoubleUnaryOperator exact) {
        float[] x = new float[Vectors.V];
        float[] y = new float[Vectors.V];
        double worst = 0;
        float worstAt = 0;
        int compared = 0;
        for (long bits = 0; bits < 1L << 32; bits += (long) STRIDE * Vectors.V) {
            for (int i = 0; i < x.length; i++) {
                x[i] = Float.intBitsToFloat((int) (bits + (long) i * STRIDE));
            }
            f.apply(FloatVector.fromArray(Vectors.F, x, 0)).intoArray(y, 0);
            for (int i = 0; i < x.length; i++) {
                double wanted = exact.applyAsDouble(x[i]);
                float rounded = (float) wanted;
                if (Float.isNaN(rounded) || Float.isInfinite(rounded) || Float.isInfinite(y[i])) {
                    assertThat(Float.valueOf(y[i])).as("at " + x[i]).isEqualTo(Float.valueOf(rounded));
                    continue;
                }
                compared++;
                // Most functions give 0 where a result would be subnormal.
                if (y[i] == 0 && Math.abs(wanted) <= Float.MIN_NORMAL) {
                    continue;
                }
                double error = Math.abs(y[i] - wanted) / Math.ulp(rounded);
                if (!(error <= worst)) {
                    worst = error;
                    worstAt = x[i];
                }
            }
        }
        assertThat(compared).isGreaterThan(100_000);
        assertThat(worst).as("ulps at " + worstAt).isLessThanOrEqualTo(ulps);
    }

    /// Computed by Simpson's rule from 0 or, in the tails, by the asymptotic continued fraction.
    private static double normalCdf(double x) {
        if (Double.isNaN(x)) {
            return x;
        }
        double z = Math.abs(x);
        double upper;
        if (z < 3) {
            int steps = 512;
            double h = z / steps;
            double sum = 1 + Math.exp(-0.5 * z * z);
            for (int i = 1; i < steps; i++) {
                sum += Math.exp(-0.5 * (i * h) * (i * h)) * (i % 2 == 0 ? 2 : 4);
            }
            upper = 0.5 - sum * h / 3 / Math.sqrt(2 * Math.PI);
        } else {
            double f = z;
            for (int n = 100; n >= 1; n--) {
                f = z + n / f;
            }
            upper = z > 40 ? 0 : Math.exp(-0.5 * z * z) / Math.sqrt(2 * Math.PI) / f;
        }
        return x < 0 ? upper : 1 - upper;
    }
}
