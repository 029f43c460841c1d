package dev.loran.peft.task;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Target;
import dev.loran.peft.data.TinyTokenizers;
import dev.loran.peft.io.InputException;
import dev.loran.peft.task.PreferTask.Loss;
import dev.loran.peft.task.PreferTask.Preference;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import org.junit.jupiter.api.Test;

/// The numbers are those of TRL 1.13's `DPOTrainer._compute_loss` in float64, called on logits of
/// `torch.randn(4, 6, 5)` with ids of `torch.randint(0, 5, (4, 6))`, both from the generator with seed 7, and masks of 3,
/// 4, 2 and 2 tokens of the answers; its gradients with respect to the logits are those given here, with respect to the
/// log-probabilities, times their derivatives.
class PreferTaskTest {
    /// Of the rows' chosen and rejected answers; TRL has all chosen ones first.
    private static final double[] LOGPS = {
        -4.8069317740927024, -4.246893543585043, -8.988214253246763, -4.500513906552818
    };
    private static final double[] COUNTS = {3, 2, 4, 2};
    private static final double[] REFERENCE = {-5.25, -3.75, -6.5, -4.0};

    private static void check(PreferTask task, double loss, double... gradient) {
        try (Backend backend = new ReferenceBackend();
                Scope scope = Scope.open()) {
            Tensor logps = Tensor.of(backend, DType.F64, LOGPS, 4).requiresGrad(true);
            Tensor value = task.loss(
                    logps, Tensor.of(backend, DType.F64, COUNTS, 4), Tensor.of(backend, DType.F64, REFERENCE, 2, 2));
            assertThat(value.item()).isCloseTo(loss, within(1e-12));
            value.backward();
            Tensor found = Objects.requireNonNull(logps.grad());
            assertThat(found.toDoubles()).containsExactly(gradient, within(1e-12));
            logps.zeroGrad();
        }
    }

    @Test
    void lossesAndGradientsAreThoseOfTrl() {
        check(
                new PreferTask(),
                0.7223579378845761,
                -0.02382591211059637,
                0.02382591211059637,
                -0.02747647709431781,
                0.02747647709431781);
        check(
                new PreferTask(Loss.IPO, 0.3, 0),
                2.884790123461789,
                -0.42351016207945985,
                0.6352652431191897,
                -0.5096158191754872,
                1.0192316383509743);
    }

    /// TRL 1.13 has no conservative DPO any more: `(-0.9 * logsigmoid(d) - 0.1 * logsigmoid(-d)).mean()` of torch.
    @Test
    void conservativeDpoIsTheFormula() {
        check(
                new PreferTask(Loss.DPO, 0.1, 0.1),
                0.7171192449985682,
                -0.018825912110596373,
                0.018825912110596373,
                -0.022476477094317812,
                0.022476477094317812);
    }

    @Test
    void metricsAreThoseOfTrl() {
        Examples rows = Examples.of(
                new PreferTask(),
                List.of(new Preference("red", "buy", "run")),
                TinyTokenizers.wordPiece(),
                Examples.Options.of(16),
                null);
        Meter meter = new PreferTask().meter(rows);
        float[] reference = {-5.25f, -3.75f, -6.5f, -4.0f};
        Target counts = new Target.Floats(new float[] {3, 2, 4, 2}, 4);
        meter.add(
                new Batch(
                        new int[0],
                        new int[0],
                        new int[0],
                        List.of(new Target.Ints(new int[0], 0), counts, new Target.Floats(reference, 2, 2)),
                        new int[] {0, 1},
                        4,
                        0,
                        0,
                        2),
                LOGPS);
        Evaluation e = meter.evaluation();
        assertThat(e.loss()).isCloseTo(0.7223579378845761, within(1e-12));
        assertThat(e.metric("reward_accuracy")).isEqualTo(0.5);
        assertThat(e.metric("reward_margin")).isCloseTo(-0.05238692886008023, within(1e-12));
        assertThat(e.metric("reward_chosen")).isCloseTo(-0.10225730136697328, within(1e-12));
        assertThat(e.metric("reward_rejected")).isCloseTo(-0.04987037250689306, within(1e-12));
    }

    @Test
    void settingsAreKeptAndChecked() {
        PreferTask task = new PreferTask(Loss.IPO, 0.5, 0);
        assertThat(new PreferTask().with(task.settings())).isEqualTo(task);
        assertThat(TaskCard.of(task, 8).toJson().path("settings").path("beta").asText())
                .isEqualTo("0.5");
        refused(Map.of("beta", "0"), "beta 0.0 must be positive");
        refused(Map.of("beta", "much"), "beta \"much\" is not a number");
        refused(Map.of("loss", "kto"), "loss \"kto\" is not known; choose dpo or ipo");
        refused(Map.of("label_smoothing", "0.5"), "label smoothing 0.5 must be from 0 to below 0.5");
        refused(Map.of("gamma", "1"), "task prefer has no gamma; leave it out");
        assertThatThrownBy(() -> new LmTask().with(Map.of("beta", "1")))
                .isInstanceOf(InputException.class)
                .hasMessage("task lm has no beta; leave it out");
    }

    private static void refused(Map<String, String> settings, String message) {
        assertThatThrownBy(() -> new PreferTask().with(settings))
                .isInstanceOf(InputException.class)
                .hasMessage(message);
    }
}
