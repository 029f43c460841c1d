package dev.loran.peft.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.optim.Sgd;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.DataLoader;
import dev.loran.peft.data.Examples;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.train.TrainerConfig.Optimization;
import dev.loran.peft.train.TrainerConfig.Optimization.Kind;
import dev.loran.peft.train.TrainerConfig.Rate;
import dev.loran.peft.train.TrainerConfig.Schedule;
import dev.loran.peft.tuner.LoraConfig;
import dev.loran.peft.tuner.PeftModel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.function.Function;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/// A trainer works with any optimizer.
class OptimizersTest {
    private static final double RATE = 1e-3;
    private static final Examples ROWS = Tiny.examples(32, 1);
    private static final TrainerConfig CONFIG = TrainerConfig.defaults()
            .withSteps(12)
            .withBatch(8, 1)
            .withWeightDecay(0)
            .withMaxGradNorm(Double.POSITIVE_INFINITY)
            .withRate(new Rate(RATE, 2, Schedule.CONSTANT, 0));

    @TempDir
    Path folder;

    private static <T> T with(Function<TaskModel, T> use) {
        try (Backend backend = new ReferenceBackend();
                Model model = Tiny.encoder(backend, DType.F64);
                PeftModel peft = new PeftModel(model, 3)) {
            peft.addAdapter("default", LoraConfig.defaults().withRank(2, 4).withDropout(0));
            try (TaskModel learner = TaskModel.of(peft, TaskCard.classify(Tiny.LABELS, Tiny.POSITIONS), 3)) {
                return use.apply(learner);
            }
        }
    }

    /// How far each parameter moves in the first step.
    private static Map<String, double[]> moved(TrainerConfig config) {
        Batch batch =
                new DataLoader(ROWS, DataLoader.Options.evaluation(8)).epoch(0).getFirst();
        return with(learner -> {
            Map<String, double[]> moves = new LinkedHashMap<>();
            learner.parameters().forEach((name, t) -> moves.put(name, t.toDoubles()));
            try (Trainer trainer = new Trainer(learner, config)) {
                trainer.trainStep(batch);
            }
            learner.parameters().forEach((name, t) -> {
                double[] now = t.toDoubles();
                double[] move = of(moves, name);
                for (int i = 0; i < now.length; i++) {
                    move[i] = now[i] - move[i];
                }
            });
            return moves;
        });
    }

    private static double[] of(Map<String, double[]> all, String name) {
        return Objects.requireNonNull(all.get(name), name);
    }

    @Test
    void loraPlusMovesBFasterAndTheHeadAsBefore() {
        Map<String, double[]> plain = moved(CONFIG);
        Map<String, double[]> plus =
                moved(CONFIG.withOptimizer(Optimization.adamW().withLoraPlus(16)));
        assertThat(plain.keySet()).anyMatch(name -> name.contains("lora_B")).contains("head.weight", "head.bias");
        plain.forEach((name, move) -> {
            double factor = name.contains("lora_B") ? 16 : 1;
            double[] faster = of(plus, name);
            for (int i = 0; i < move.length; i++) {
                assertThat(faster[i]).as(name).isCloseTo(factor * move[i], within(1e-12));
            }
        });
    }

    @Test
    void sgdMovesByTheGradient() {
        Map<String, double[]> once = moved(CONFIG.withOptimizer(Optimization.of(Kind.SGD)));
        Map<String, double[]> twice = moved(
                CONFIG.withRate(new Rate(2 * RATE, 2, Schedule.CONSTANT, 0)).withOptimizer(Optimization.of(Kind.SGD)));
        // AdamW's first step has the size of the learning rate, regardless of the gradient.
        assertThat(of(moved(CONFIG), "head.bias")[0])
                .isCloseTo(of(once, "head.bias")[0] < 0 ? -2e-3 : 2e-3, within(1e-6));
        once.forEach((name, move) -> {
            for (int i = 0; i < move.length; i++) {
                assertThat(of(twice, name)[i]).as(name).isCloseTo(2 * move[i], within(1e-12));
                assertThat(Math.abs(move[i])).isLessThan(2e-3);
            }
        });
    }

    @Test
    void sgdGoesOnFromACheckpoint() throws Exception {
        TrainerConfig config = CONFIG.withOptimizer(Optimization.of(Kind.SGD))
                .withRate(new Rate(0.05, 2, Schedule.LINEAR, 0))
                .withCheckpoints(new TrainerConfig.Checkpoints(5, 2));
        RunFolder whole = RunFolder.create(folder.resolve("whole"));
        RunFolder stopped = RunFolder.create(folder.resolve("stopped"));
        double first = train(config, whole, 0);
        train(config, stopped, 7);
        assertThat(train(config, stopped, 0)).isEqualTo(first);
        assertThat(Files.readAllBytes(stopped.last().resolve("adapter_model.safetensors")))
                .isEqualTo(Files.readAllBytes(whole.last().resolve("adapter_model.safetensors")));
        assertThatThrownBy(() -> train(config.withOptimizer(Optimization.adamW()), stopped, 0))
                .isInstanceOf(InputException.class)
                .hasMessageContaining("is of a run with trainer.optimizer");
    }

    private static double train(TrainerConfig config, RunFolder run, int stopAfter) {
        return with(learner -> {
            try (Trainer trainer = new Trainer(learner, config)) {
                trainer.train(ROWS, null, run, new TrainingListener() {
                    @Override
                    public void step(StepResult result, int totalSteps, double seconds) {
                        if (result.step() == stopAfter) {
                            trainer.stop();
                        }
                    }
                });
                return trainer.state().entrySet().stream()
                        .filter(e -> e.getKey().endsWith(".momentum_buffer"))
                        .mapToDouble(e -> sum(e.getValue()))
                        .sum();
            }
        });
    }

    private static double sum(Tensor t) {
        try (t) {
            double sum = 0;
            for (double v : t.toDoubles()) {
                sum += v;
            }
            return sum;
        }
    }

    @Test
    void anOptimizerOfOnesOwnGetsTheGroups() {
        Batch batch =
                new DataLoader(ROWS, DataLoader.Options.evaluation(8)).epoch(0).getFirst();
        with(learner -> {
            double before = learner.loss(batch).item();
            try (Trainer trainer = new Trainer(learner, CONFIG, groups -> {
                assertThat(groups).hasSize(1);
                assertThat(groups.getFirst().members().test("head.weight")).isTrue();
                return new Sgd(learner.backend(), learner.dtype(), 0, 0, groups.getFirst());
            })) {
                for (int i = 0; i < 5; i++) {
                    trainer.trainStep(batch);
                }
                assertThat(trainer.state().keySet()).noneMatch(key -> key.endsWith(".exp_avg"));
            }
            assertThat(learner.loss(batch).item()).isLessThan(before);
            return List.of();
        });
    }
}
