package dev.loran.engine.testing;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.DTypeException;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.functional.Functional;
import java.util.Map;
import java.util.Random;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

class GradCheckTest {
    private final ReferenceBackend backend = new ReferenceBackend();
    private final Scope scope = Scope.open();
    private final Tensor x =
            Tensor.randn(backend, DType.F64, new Random(1), 1, 7, 33).requiresGrad(true);
    private final Tensor w = Tensor.randn(backend, DType.F64, new Random(2), 1, 33);

    @AfterEach
    void nothingIsLeft() {
        scope.close();
        assertThat(backend.liveBuffers()).isZero();
    }

    @Test
    void leavesElementsAsTheyWereAndNoGradient() {
        double[] before = x.toDoubles();
        double worst = GradCheck.check(
                "softmax", Map.of("x", x, "w", w), () -> Functional.softmax(x).mul(w));
        assertThat(worst).isBetween(0.0, 1e-8);
        assertThat(x.toDoubles()).containsExactly(before);
        assertThat(x.grad()).isNull();
    }

    /// A single element out of 231 is off by a thousandth of the gradient's magnitude.
    @Test
    void seesOneWrongElement() {
        double[] bump = new double[231];
        bump[100] = 1e-3;
        Tensor constant = Tensor.of(backend, DType.F64, bump, 7, 33);
        // x.detach() changes with x, but backward does not see it.
        assertThatThrownBy(() -> GradCheck.check(
                        "detached",
                        Map.of("x", x),
                        () -> x.mul(w).add(x.detach().mul(constant))))
                .isInstanceOf(AssertionError.class)
                .hasMessageStartingWith("gradCheck detached: gradient of x (7, 33) is wrong: ");
    }

    @Test
    void seesAGradientThatIsMissingAltogether() {
        Tensor y = Tensor.randn(backend, DType.F64, new Random(3), 1, 33).requiresGrad(true);
        assertThatThrownBy(() -> GradCheck.check("missing", Map.of("x", x, "y", y), () -> x.mul(y.detach())))
                .isInstanceOf(AssertionError.class)
                .hasMessageStartingWith("gradCheck missing: gradient of y (33) is wrong: <v, Jᵀ·u> by backward is 0.0");
    }

    @Test
    void aGradientThatIsTrulyZeroPasses() {
        Tensor column = Tensor.randn(backend, DType.F64, new Random(4), 1, 7, 1).requiresGrad(true);
        assertThat(GradCheck.check("softmax of one", Map.of("x", column), () -> Functional.softmax(column)))
                .isZero();
    }

    @Test
    void needsSomethingToCheckInDoublePrecision() {
        assertThatThrownBy(() -> GradCheck.check("op", Map.of("w", w), () -> w.scale(2)))
                .isInstanceOf(IllegalArgumentException.class)
                .hasMessage("gradCheck op: none of [w] requires a gradient; call requiresGrad(true)");
        Tensor single = Tensor.zeros(backend, DType.F32, 3).requiresGrad(true);
        assertThatThrownBy(() -> GradCheck.check("op", Map.of("x", single), () -> single.scale(2)))
                .isInstanceOf(DTypeException.class)
                .hasMessage("gradCheck op: x is F32, but differences need F64");
    }
}
