package dev.loran.engine.backend;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;

/// The specification of the element-wise functions.
class UnaryFnTest {
    /// Against values to 20 digits, computed in extended precision; covers both branches, and both sides of where they
    /// meet.
    @ParameterizedTest
    @CsvSource({
        "-6, 1.9999999999999999785",
        "-2.5, 1.9995930479825550411",
        "-1, 1.8427007929497148693",
        "0, 1",
        "1e-8, 0.99999998871620832904",
        "0.5, 0.47950012218695346232",
        "1, 0.15729920705028513066",
        "1.5, 0.033894853524689272933",
        "1.99, 0.0048885868003830029527",
        "2, 0.0046777349810472658379",
        "2.01, 0.0044751506447517629202",
        "3, 0.000022090496998585441373",
        "5, 1.5374597944280348502e-12",
        "10, 2.088487583762544757e-45",
        "20, 5.3958656116079009289e-176",
        "26, 5.6631924088561428465e-296",
        "40, 0"
    })
    void erfcIsThatOfTheTables(double x, double expected) {
        assertThat(UnaryFn.erfc(x)).isCloseTo(expected, within(2e-12 * expected + Double.MIN_VALUE));
        assertThat(UnaryFn.erfc(-x)).isCloseTo(2 - expected, within(1e-15 * 2));
    }

    @ParameterizedTest
    @EnumSource
    void theDerivativeIsThatOfTheFunction(UnaryFn fn) {
        double h = 1e-6;
        for (double x : new double[] {0.1, 0.7, 1.3, 2.9, 6}) {
            double difference = (fn.apply(x + h) - fn.apply(x - h)) / (2 * h);
            assertThat(fn.derivative(x))
                    .as("at %s", x)
                    .isCloseTo(difference, within(1e-8 * (1 + Math.abs(difference))));
        }
    }

    @Test
    void valuesFromTheDefinitions() {
        assertThat(UnaryFn.GELU.apply(1)).isCloseTo(0.8413447460685429, within(1e-15));
        assertThat(UnaryFn.GELU.apply(-3)).isCloseTo(-0.0040496940948902, within(1e-15));
        assertThat(UnaryFn.GELU_TANH.apply(1)).isCloseTo(0.84119199060827, within(1e-13));
        assertThat(UnaryFn.SILU.apply(1)).isCloseTo(0.7310585786300049, within(1e-15));
        assertThat(UnaryFn.SIGMOID.apply(-2)).isCloseTo(0.11920292202211756, within(1e-15));
        assertThat(UnaryFn.RSQRT.apply(16)).isEqualTo(0.25);
        assertThat(UnaryFn.RELU.apply(-2)).isZero();
        assertThat(UnaryFn.RELU.derivative(0)).isZero();
        assertThat(UnaryFn.ABS.derivative(0)).isZero();
    }

    @Test
    void farOutNothingBecomesNaN() {
        for (UnaryFn fn :
                new UnaryFn[] {UnaryFn.GELU, UnaryFn.GELU_TANH, UnaryFn.SILU, UnaryFn.TANH, UnaryFn.SIGMOID}) {
            for (double x : new double[] {-1e4, -100, 100, 1e4}) {
                assertThat(fn.apply(x)).as("%s at %s", fn, x).isFinite();
                assertThat(fn.derivative(x)).as("%s' at %s", fn, x).isFinite();
            }
        }
        assertThat(UnaryFn.GELU.apply(-1e4)).isZero();
        assertThat(UnaryFn.SILU.apply(1e4)).isEqualTo(1e4);
    }
}
