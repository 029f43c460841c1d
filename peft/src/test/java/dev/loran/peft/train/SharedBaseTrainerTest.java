package dev.loran.peft.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.kernels.Backends;
import dev.loran.peft.data.Examples;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import dev.loran.peft.task.LmTask;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.train.SharedBaseTrainer.Configuration;
import dev.loran.peft.train.SharedBaseTrainer.Outcome;
import dev.loran.peft.train.SharedBaseTrainer.Run;
import dev.loran.peft.train.TrainerConfig.Checkpoints;
import dev.loran.peft.train.TrainerConfig.Rate;
import dev.loran.peft.train.TrainerConfig.Schedule;
import dev.loran.peft.train.TrainingReport.End;
import dev.loran.peft.tuner.AdaLoraConfig;
import dev.loran.peft.tuner.BottleneckConfig;
import dev.loran.peft.tuner.Ia3Config;
import dev.loran.peft.tuner.LoraConfig;
import dev.loran.peft.tuner.PeftModel;
import dev.loran.peft.tuner.PrefixTuningConfig;
import dev.loran.peft.tuner.Targets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import org.assertj.core.data.Offset;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/// Configurations that train in one pass, compared with runs of their own.
class SharedBaseTrainerTest {
    private static final TaskCard CLASSES = TaskCard.classify(Tiny.LABELS, Tiny.POSITIONS);
    private static final TaskCard TEXTS = TaskCard.of(new LmTask(), null, Tiny.POSITIONS);
    private static final TrainerConfig TRAINER =
            TrainerConfig.defaults().withEpochs(2).withBatch(8, 1).withRate(Rate.of(2e-2));

    private static final List<Configuration> LORAS = List.of(
            new Configuration(LoraConfig.defaults().withRank(4, 8).withDropout(0.1), TRAINER),
            new Configuration(
                    LoraConfig.defaults().withRank(2, 8).withDropout(0.3),
                    TRAINER.withRate(new Rate(5e-3, 2, Schedule.COSINE, 3)).withMaxGradNorm(0.1)),
            new Configuration(
                    LoraConfig.defaults().withRank(3, 8).withTargets(Targets.allLinear()),
                    TRAINER.withWeightDecay(0.1)));

    @TempDir
    Path folder;

    /// A run's losses, step by step, and its parameters at the end.
    private record Trained(List<Double> losses, double evalLoss, Map<String, double[]> parameters) {}

    private static final class Losses implements TrainingListener {
        final List<Double> all = new ArrayList<>();
        final int stopAfter;

        Losses(int stopAfter) {
            this.stopAfter = stopAfter;
        }

        @Override
        public void step(StepResult result, int totalSteps, double seconds) {
            all.add(result.loss());
        }

        @Override
        public boolean wantsStop() {
            return all.size() >= stopAfter;
        }
    }

    private static Model model(Backend backend, TaskCard card) {
        return card == CLASSES ? Tiny.encoder(backend, DType.F32) : Tiny.causal(backend, DType.F32);
    }

    private static Map<String, double[]> values(TaskModel model) {
        Map<String, double[]> all = new LinkedHashMap<>();
        model.parameters().forEach((name, t) -> all.put(name, t.toDoubles()));
        return all;
    }

    private static Trained alone(Backend backend, Configuration c, Examples rows, Examples held, TaskCard card) {
        try (Model base = model(backend, card);
                PeftModel peft = new PeftModel(base, c.trainer().seed())) {
            peft.addAdapter("default", c.method());
            Losses losses = new Losses(1000);
            try (TaskModel model = TaskModel.of(peft, card, c.trainer().seed());
                    Trainer trainer = new Trainer(model, c.trainer())) {
                TrainingReport report = trainer.train(rows, held, null, losses);
                return new Trained(
                        losses.all, Objects.requireNonNull(report.best()).loss(), values(model));
            }
        }
    }

    private static List<Trained> together(
            Backend backend, List<Configuration> all, Examples rows, Examples held, TaskCard card) {
        List<Losses> losses = all.stream().map(c -> new Losses(1000)).toList();
        List<Trained> trained = new ArrayList<>();
        try (Model base = model(backend, card);
                SharedBaseTrainer trainer = new SharedBaseTrainer(base, card, all)) {
            List<Outcome> outcomes = trainer.train(
                    rows, held, losses.stream().map(l -> new Run(null, l)).toList());
            for (int i = 0; i < all.size(); i++) {
                TrainingReport report = Objects.requireNonNull(outcomes.get(i).report());
                trained.add(new Trained(
                        losses.get(i).all, Objects.requireNonNull(report.best()).loss(), values(trainer.learner(i))));
            }
        }
        return trained;
    }

    private static void requireSame(Trained one, Trained other, double tolerance) {
        assertThat(one.losses).hasSameSizeAs(other.losses);
        for (int i = 0; i < one.losses.size(); i++) {
            assertThat(one.losses.get(i)).isCloseTo(other.losses.get(i), within(tolerance, other.losses.get(i)));
        }
        assertThat(one.evalLoss).isCloseTo(other.evalLoss, within(tolerance, other.evalLoss));
        requireSame(one.parameters, other.parameters, tolerance);
    }

    private static void requireSame(Map<String, double[]> one, Map<String, double[]> other, double tolerance) {
        assertThat(one.keySet()).isEqualTo(other.keySet());
        one.forEach((name, values) -> {
            double[] expected = Objects.requireNonNull(other.get(name));
            double distance = 0;
            double norm = 0;
            for (int i = 0; i < values.length; i++) {
                distance += (values[i] - expected[i]) * (values[i] - expected[i]);
                norm += expected[i] * expected[i];
            }
            assertThat(Math.sqrt(distance)).as(name).isLessThanOrEqualTo(tolerance * Math.sqrt(norm));
        });
    }

    private static Offset<Double> within(double tolerance, double of) {
        return Offset.offset(tolerance * Math.abs(of));
    }

    @Test
    void onePassGivesEachLoraTheBitsOfARunOfItsOwn() {
        Examples rows = Tiny.examples(44, 1);
        Examples held = Tiny.examples(20, 2);
        try (Backend backend = Backends.best()) {
            List<Trained> all = together(backend, LORAS, rows, held, CLASSES);
            for (int i = 0; i < LORAS.size(); i++) {
                requireSame(all.get(i), alone(backend, LORAS.get(i), rows, held, CLASSES), 0);
            }
        }
    }

    @Test
    void aLanguageModelWithAccumulatedAndScaledLossesToo() {
        Examples rows = Tiny.texts(44, 1);
        Examples held = Tiny.texts(20, 2);
        List<Configuration> all = LORAS.stream()
                .map(c -> new Configuration(
                        c.method(), c.trainer().withBatch(4, 2).withLossScale(1024)))
                .toList();
        try (Backend backend = Backends.best()) {
            List<Trained> trained = together(backend, all, rows, held, TEXTS);
            for (int i = 0; i < all.size(); i++) {
                requireSame(trained.get(i), alone(backend, all.get(i), rows, held, TEXTS), 0);
            }
        }
    }

    @Test
    void otherMethodsGiveTheSameResults() {
        Examples rows = Tiny.examples(44, 1);
        Examples held = Tiny.examples(20, 2);
        List<Configuration> mixed = List.of(
                LORAS.getFirst(),
                new Configuration(LoraConfig.defaults().withRank(4, 8).withDora(true), TRAINER),
                new Configuration(AdaLoraConfig.defaults().withRanks(4, 2).withSchedule(2, 2, 1), TRAINER),
                new Configuration(BottleneckConfig.houlsby(), TRAINER),
                new Configuration(Ia3Config.defaults(), TRAINER));
        try (Backend backend = new ReferenceBackend()) {
            List<Trained> all = together(backend, mixed, rows, held, CLASSES);
            for (int i = 0; i < mixed.size(); i++) {
                requireSame(all.get(i), alone(backend, mixed.get(i), rows, held, CLASSES), 1e-5);
            }
        }
    }

    @Test
    void whatIsBelowTheFirstAdapterRunsOnceForAll() {
        // With the adapters in the last of two blocks, the batch is repeated in front of it.
        Examples rows = Tiny.examples(16, 1);
        LoraConfig last = LoraConfig.defaults().withRank(4, 8).withTargets(Targets.regex(".*layer\\.1\\..*query"));
        List<Configuration> all =
                List.of(new Configuration(last, TRAINER), new Configuration(last, TRAINER.withRate(Rate.of(1e-3))));
        try (Backend backend = Backends.best()) {
            List<Trained> trained = together(backend, all, rows, rows, CLASSES);
            for (int i = 0; i < all.size(); i++) {
                requireSame(trained.get(i), alone(backend, all.get(i), rows, rows, CLASSES), 0);
            }
        }
    }

    @Test
    void runsThatStoppedAtDifferentStepsResumeAndEndAsIfTheyNeverHad() {
        Examples rows = Tiny.examples(44, 1);
        Examples held = Tiny.examples(20, 2);
        List<Configuration> all = LORAS.stream()
                .map(c -> new Configuration(c.method(), c.trainer().withCheckpoints(new Checkpoints(2, 2))))
                .toList();
        List<RunFolder> folders = List.of(
                RunFolder.create(folder.resolve("a")),
                RunFolder.create(folder.resolve("b")),
                RunFolder.create(folder.resolve("c")));
        try (Backend backend = new ReferenceBackend();
                Model base = model(backend, CLASSES)) {
            List<Trained> whole = together(backend, all, rows, held, CLASSES);
            try (SharedBaseTrainer first = new SharedBaseTrainer(base, CLASSES, all)) {
                List<Run> runs = new ArrayList<>();
                for (int i = 0; i < 3; i++) {
                    runs.add(new Run(folders.get(i), new Losses(3 + i)));
                }
                assertThat(first.train(rows, held, runs))
                        .allMatch(o -> Objects.requireNonNull(o.report()).end() == End.STOPPED);
            }
            try (SharedBaseTrainer second = new SharedBaseTrainer(base, CLASSES, all)) {
                List<Run> runs =
                        folders.stream().map(f -> new Run(f, new Losses(1000))).toList();
                assertThat(second.train(rows, held, runs))
                        .allMatch(o -> Objects.requireNonNull(o.report()).end() == End.FINISHED);
                for (int i = 0; i < 3; i++) {
                    requireSame(values(second.learner(i)), whole.get(i).parameters, 0);
                    assertThat(folder.resolve("abc".substring(i, i + 1)).resolve("metrics.jsonl"))
                            .content()
                            .hasLineCount(12 + 2);
                    assertThat(Files.isDirectory(folders.get(i).best())).isTrue();
                }
            }
        }
    }

    @Test
    void aRunThatDivergesDoesNotDisturbTheOthers() {
        Examples rows = Tiny.examples(44, 1);
        TrainerConfig wild =
                TRAINER.withRate(new Rate(9e5, 1, Schedule.CONSTANT, 0)).withMaxGradNorm(1e30);
        List<Configuration> all =
                List.of(LORAS.getFirst(), new Configuration(LORAS.getFirst().method(), wild.withWeightDecay(9e5)));
        try (Backend backend = new ReferenceBackend();
                Model base = model(backend, CLASSES);
                SharedBaseTrainer trainer = new SharedBaseTrainer(base, CLASSES, all)) {
            List<Outcome> outcomes = trainer.train(rows, rows, List.of(new Run(), new Run()));
            assertThat(outcomes.get(1).failure())
                    .isInstanceOf(DivergedException.class)
                    .hasMessageContaining("lower the learning rate");
            requireSame(values(trainer.learner(0)), alone(backend, all.getFirst(), rows, rows, CLASSES).parameters, 0);
        }
    }

    @Test
    void methodsThatCannotShareAPassAreRefusedAndLeaveTheModelAsItWas() {
        try (Backend backend = new ReferenceBackend();
                Model base = model(backend, CLASSES)) {
            List<Configuration> all = List.of(LORAS.getFirst(), new Configuration(PrefixTuningConfig.of(3), TRAINER));
            assertThatThrownBy(() -> new SharedBaseTrainer(base, CLASSES, all))
                    .isInstanceOf(InputException.class)
                    .hasMessageContaining("PREFIX_TUNING puts positions before the text");
            new SharedBaseTrainer(base, CLASSES, LORAS).close();
        }
    }
}
