package dev.loran.engine.testing;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatCode;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.loran.engine.backend.DType;
import org.junit.jupiter.api.Test;

class ToleranceTest {
    private static final double[] EXPECTED = {3, -4, 0, 5};

    @Test
    void isRelativeToTheElementAndToTheRest() {
        double rms = Math.sqrt(50 / 4.0);
        assertThat(Tolerance.error(EXPECTED, new double[] {3, -4, 0, 5})).isZero();
        assertThat(Tolerance.error(EXPECTED, new double[] {3, -4, 0.1, 5})).isEqualTo(0.1 / rms);
        assertThat(Tolerance.error(EXPECTED, new double[] {3, -4.2, 0, 5})).isEqualTo((4.2 - 4) / (4 + rms));
        assertThat(Tolerance.error(new double[2], new double[] {0, 1e-300})).isEqualTo(Double.POSITIVE_INFINITY);
    }

    @Test
    void saysWhereAndHowMuch() {
        assertThatThrownBy(() -> new Tolerance(0.01).check("op: y", EXPECTED, new double[] {3, -4, 0.5, 6}))
                .isInstanceOf(AssertionError.class)
                .hasMessageStartingWith("op: y: element 2 is 0.5, the reference says 0.0; error 0.1414")
                .hasMessageContaining(" > 0.01 (2 of 4 elements, worst 0.1414");
        assertThatThrownBy(() -> new Tolerance(0.01).check("op: y", EXPECTED, new double[3]))
                .isInstanceOf(AssertionError.class)
                .hasMessage("op: y: 3 elements, the reference has 4");
        assertThatCode(() -> new Tolerance(0.2).check("op: y", EXPECTED, new double[] {3, -4, 0.5, 6}))
                .doesNotThrowAnyException();
    }

    @Test
    void neverPassesNaN() {
        double nan = Double.NaN;
        assertThatThrownBy(() -> new Tolerance(0.5).check("y", EXPECTED, new double[] {3, nan, 0, 5}))
                .hasMessageStartingWith("y: element 1 is NaN, the reference says -4.0");
        assertThatThrownBy(() -> new Tolerance(0.5).check("y", new double[] {nan, 1}, new double[] {nan, 1}))
                .hasMessageStartingWith("y: element 0 is NaN, the reference says NaN");
        assertThat(Tolerance.error(EXPECTED, new double[] {3, nan, 0, 5})).isNaN();
    }

    @Test
    void theTableTightensWithTheSignificand() {
        assertThat(Tolerance.of(DType.F64).bound())
                .isLessThan(Tolerance.of(DType.F32).bound());
        assertThat(Tolerance.of(DType.F32).bound())
                .isLessThan(Tolerance.of(DType.F16).bound());
        assertThat(Tolerance.of(DType.F16).bound())
                .isLessThan(Tolerance.of(DType.BF16).bound());
        assertThatThrownBy(() -> Tolerance.of(DType.I32)).hasMessage("tolerance: I32 has no rounding to tolerate");
        assertThatThrownBy(() -> new Tolerance(Double.NaN)).hasMessage("tolerance: bound must be in [0, 1), got NaN");
    }
}
