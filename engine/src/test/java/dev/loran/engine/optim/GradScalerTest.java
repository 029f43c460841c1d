package dev.loran.engine.optim;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

class GradScalerTest {
    private final ReferenceBackend backend = new ReferenceBackend();

    @AfterEach
    void nothingIsLeftOver() {
        assertThat(backend.liveBuffers()).isZero();
    }

    private Tensor norm(double value) {
        return Tensor.full(backend, DType.F32, value);
    }

    @Test
    void growsAfterGoodStepsInARowAndBacksOffAfterABadOne() {
        try (Scope scope = Scope.open();
                GradScaler scaler = new GradScaler(backend, DType.F32, new GradScaler.Config(8, 2, 0.5, 3))) {
            assertThat(scaler.update(norm(1))).isTrue();
            assertThat(scaler.update(norm(0))).isTrue();
            assertThat(scaler.value()).isEqualTo(8);
            assertThat(scaler.update(norm(1e30))).isTrue();
            assertThat(scaler.value()).isEqualTo(16);
            scaler.update(norm(1));
            scaler.update(norm(1));
            assertThat(scaler.update(norm(Double.POSITIVE_INFINITY))).isFalse();
            assertThat(scaler.value()).isEqualTo(8);
            assertThat(scaler.update(norm(Double.NaN))).isFalse();
            assertThat(scaler.value()).isEqualTo(4);
            // The count of consecutive good steps starts over.
            scaler.update(norm(1));
            scaler.update(norm(1));
            assertThat(scaler.value()).isEqualTo(4);
            scaler.update(norm(1));
            assertThat(scaler.value()).isEqualTo(8);
        }
    }

    @Test
    void neverGrowsBeyondItsType() {
        try (Scope scope = Scope.open();
                GradScaler scaler = new GradScaler(backend, DType.F32, new GradScaler.Config(0x1p127, 2, 0.5, 1))) {
            assertThat(scaler.update(norm(1))).isTrue();
            assertThat(scaler.value()).isEqualTo(0x1p127);
        }
    }

    @Test
    void gradientsAreReadAsIfTheLossHadNotBeenScaled() {
        double[] values = {0.5, -3, 2};
        double[] steps = new double[2];
        for (double first : new double[] {1, 1024}) {
            try (Scope scope = Scope.open();
                    GradScaler scaler = new GradScaler(backend, DType.F32, GradScaler.Config.of(first));
                    GradClip clip = new GradClip(backend, DType.F32, 0.7);
                    Sgd sgd = new Sgd(backend, DType.F32, 0, 0)) {
                Tensor p = Tensor.of(backend, DType.F32, values, 3);
                p.requiresGrad(true);
                scaler.scale(p.mul(p).sum()).backward();
                // The gradient of Σ p² is 2p.
                assertThat(clip.norm(List.of(p), scaler.inverse()).item())
                        .isCloseTo(2 * Math.sqrt(0.25 + 9 + 4), within(1e-5));
                sgd.advance(0.1);
                sgd.step(Map.of("p", p), clip.scale());
                steps[first == 1 ? 0 : 1] = p.toDoubles()[1];
                p.zeroGrad();
            }
        }
        assertThat(steps[1]).isEqualTo(steps[0]).isGreaterThan(-3);
    }

    @Test
    void goesOnFromItsState() {
        try (Scope scope = Scope.open();
                GradScaler one = new GradScaler(backend, DType.F32, new GradScaler.Config(8, 2, 0.5, 3));
                GradScaler other = new GradScaler(backend, DType.F32, new GradScaler.Config(1, 2, 0.5, 3))) {
            one.update(norm(Double.NaN));
            one.update(norm(1));
            one.update(norm(1));
            other.load(one.state());
            assertThat(other.value()).isEqualTo(4);
            other.update(norm(1));
            assertThat(other.value()).isEqualTo(8);
            assertThatThrownBy(() -> other.load(Map.of("scale", norm(1))))
                    .isInstanceOf(IllegalArgumentException.class)
                    .hasMessage("gradScaler: state has [scale], needs scale and growth_tracker");
        }
    }

    @Test
    void refusesWhatIsNoScale() {
        assertThatThrownBy(() -> GradScaler.Config.of(0))
                .isInstanceOf(IllegalArgumentException.class)
                .hasMessage("gradScaler: initScale is 0.0, must be positive and finite");
        assertThatThrownBy(() -> new GradScaler.Config(1, 0.5, 0.5, 1))
                .hasMessage("gradScaler: growthFactor is 0.5, must be at least 1");
        assertThatThrownBy(() -> new GradScaler.Config(1, 2, 2, 1))
                .hasMessage("gradScaler: backoffFactor is 2.0, must be above 0 and at most 1");
    }
}
