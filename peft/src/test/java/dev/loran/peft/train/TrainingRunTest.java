package dev.loran.peft.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.optim.Optimizer;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.Examples;
import dev.loran.peft.hf.HfModels;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import dev.loran.peft.task.Evaluation;
import dev.loran.peft.task.LmTask;
import dev.loran.peft.task.Task;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.train.TrainerConfig.Rate;
import dev.loran.peft.train.TrainerConfig.Schedule;
import dev.loran.peft.tuner.LoraConfig;
import dev.loran.peft.tuner.PeftModel;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/// Whole runs: what they learn, what they keep, when they stop.
class TrainingRunTest {
    private static final TrainingListener NOBODY = new TrainingListener() {};

    @TempDir
    Path folder;

    @Test
    void aRunLearnsAndKeepsItsBestAndLastParameters() throws IOException {
        TrainerConfig config = TrainerConfig.defaults()
                .withEpochs(8)
                .withBatch(8, 1)
                .withRate(new Rate(2e-2, 2, Schedule.LINEAR, null))
                .withEvaluation(5, 0);
        Examples held = Tiny.examples(20, 2);
        RunFolder run = RunFolder.create(folder.resolve("run"));
        run.options(Map.of("lr", 0.02));
        try (ReferenceBackend backend = new ReferenceBackend();
                Model base = Tiny.encoder(backend, DType.F32);
                PeftModel peft = new PeftModel(base, 7)) {
            peft.addAdapter("default", LoraConfig.defaults().withRank(4, 8));
            TrainingReport report;
            Evaluation last;
            try (TaskModel model = TaskModel.of(peft, TaskCard.classify(Tiny.LABELS, Tiny.POSITIONS), 1);
                    Trainer trainer = new Trainer(model, config)) {
                report = trainer.train(Tiny.examples(40, 1), held, run, NOBODY);
                last = Evaluation.of(model, held, 8);
            }
            Evaluation best = Objects.requireNonNull(report.best());
            assertThat(report.steps()).isEqualTo(40);
            assertThat(report.stoppedEarly()).isFalse();
            assertThat(report.trainLoss()).isLessThan(0.4);
            assertThat(best.metric("accuracy")).isGreaterThan(0.9);
            assertThat(report.seconds()).isPositive();
            assertThat(report.tokens()).isGreaterThan(40 * 8 * 3);
            checkMetrics(run, report);
            peft.deleteAdapter("default");
            assertThat(reloaded(peft, run.best(), held)).isEqualTo(best);
            peft.deleteAdapter("default");
            assertThat(reloaded(peft, run.last(), held)).isEqualTo(last);
        }
        assertThat(RunFolder.adapter(folder.resolve("run"))).isEqualTo(run.best());
    }

    private static Evaluation reloaded(PeftModel peft, Path adapter, Examples held) {
        try (TaskModel model = TaskModel.load(peft, adapter)) {
            assertThat(model.card().labels()).isNotNull();
            return Evaluation.of(model, held, 8);
        }
    }

    private static void checkMetrics(RunFolder run, TrainingReport report) throws IOException {
        ObjectMapper json = new ObjectMapper();
        List<JsonNode> steps = new ArrayList<>();
        List<JsonNode> evaluations = new ArrayList<>();
        for (String line : Files.readAllLines(run.path().resolve("metrics.jsonl"))) {
            JsonNode entry = json.readTree(line);
            (entry.has("loss") ? steps : evaluations).add(entry);
        }
        assertThat(steps)
                .extracting(s -> s.get("step").intValue())
                .hasSize(40)
                .startsWith(1, 2, 3)
                .endsWith(40);
        assertThat(steps.getFirst().get("loss").doubleValue())
                .isGreaterThan(steps.getLast().get("loss").doubleValue());
        assertThat(steps.getFirst().get("lr").doubleValue()).isZero();
        assertThat(steps.getFirst().has("penalty")).isFalse();
        assertThat(evaluations)
                .extracting(e -> e.get("step").intValue())
                .containsExactly(5, 10, 15, 20, 25, 30, 35, 40);
        JsonNode best = evaluations.stream()
                .filter(e -> e.get("best").booleanValue())
                .reduce((a, b) -> b)
                .orElseThrow();
        assertThat(best.get("step").intValue()).isEqualTo(report.bestStep());
        assertThat(best.get("eval_loss").doubleValue())
                .isEqualTo(Objects.requireNonNull(report.best()).loss());
        assertThat(json.readTree(Files.readString(run.path().resolve("run.json")))
                        .get("lr")
                        .doubleValue())
                .isEqualTo(0.02);
    }

    @Test
    void fullTrainingMovesEveryParameterAndSavesTheModel() {
        Examples texts = Tiny.texts(16, 1);
        RunFolder run = RunFolder.create(folder.resolve("run"));
        TrainerConfig config =
                TrainerConfig.defaults().withEpochs(10).withBatch(8, 1).withRate(Rate.of(1e-2));
        TaskCard card = TaskCard.of(new LmTask(), Tiny.POSITIONS);
        try (ReferenceBackend backend = new ReferenceBackend();
                Model base = Tiny.causal(backend, DType.F32)) {
            Path saved = Tiny.save(base, folder.resolve("base"));
            Evaluation after;
            try (Model model = HfModels.load(saved, backend);
                    TaskModel learner = TaskModel.full(model, card, 1);
                    Trainer trainer = new Trainer(learner, config)) {
                assertThat(learner.parameterCount().trainablePercentage()).isEqualTo(100);
                Evaluation before = Evaluation.of(learner, texts, 8);
                trainer.train(texts, null, run, NOBODY);
                after = Evaluation.of(learner, texts, 8);
                assertThat(after.metric("perplexity")).isLessThan(0.7 * before.metric("perplexity"));
                base.namedParameters()
                        .forEach((name, t) -> assertThat(Objects.requireNonNull(
                                                model.namedParameters().get(name))
                                        .toFloats())
                                .as(name)
                                .isNotEqualTo(t.toFloats()));
            }
            try (Model model = HfModels.load(run.last(), backend);
                    PeftModel peft = new PeftModel(model, 1);
                    TaskModel learner = TaskModel.of(peft, TaskCard.read(run.last()), 1)) {
                assertThat(Evaluation.of(learner, texts, 8)).isEqualTo(after);
            }
        }
    }

    @Test
    void aRunFolderIsNotPutOverOtherFiles() throws IOException {
        Files.writeString(folder.resolve("thesis.txt"), "years of work");
        assertThatThrownBy(() -> RunFolder.create(folder))
                .isInstanceOf(InputException.class)
                .hasMessage(folder + ": holds other files; choose a new or empty folder for the run");
        assertThatThrownBy(() -> RunFolder.adapter(folder))
                .isInstanceOf(InputException.class)
                .hasMessage(folder + ": holds neither an adapter (adapter_config.json) nor a finished run;"
                        + " name one of these");
        RunFolder run = RunFolder.create(folder.resolve("run"));
        Files.createDirectories(run.best());
        Files.writeString(run.best().resolve("loran.json"), "{}");
        assertThat(RunFolder.create(run.path(), true, r -> r.options(Map.of())).best())
                .doesNotExist();
    }

    // ---- with a learner whose losses are known

    /// One parameter; the evaluation loss follows a script, regardless of training.
    private static final class Scripted implements Learner, AutoCloseable {
        private final Backend backend;
        private final Tensor x;
        private final List<Double> losses = new ArrayList<>();
        private final List<String> saved = new ArrayList<>();
        private final List<Integer> microSteps = new ArrayList<>();
        private boolean training;
        private int evaluated;
        private int begun;
        private int steps;

        Scripted(Backend backend) {
            this.backend = backend;
            this.x = Tensor.full(backend, DType.F64, 2, 1).requiresGrad(true);
        }

        @Override
        public Task task() {
            return new LmTask();
        }

        @Override
        public Backend backend() {
            return backend;
        }

        @Override
        public DType dtype() {
            return DType.F64;
        }

        @Override
        public Map<String, Tensor> parameters() {
            return Map.of("x", x);
        }

        @Override
        public Tensor loss(Batch batch) {
            return training ? x.mul(x).sum() : Tensor.full(backend, DType.F64, losses.get(evaluated++));
        }

        @Override
        public Tensor logits(Batch batch) {
            throw new AssertionError("a language model's loss is enough");
        }

        @Override
        public Tensor penalty() {
            return x.sum().scale(10);
        }

        @Override
        public void train(boolean mode) {
            training = mode;
        }

        @Override
        public void microStep(int number) {
            microSteps.add(number);
        }

        @Override
        public void beginTraining(int totalSteps) {
            begun += totalSteps;
        }

        @Override
        public void afterStep(int step, Buffer gradScale, Optimizer optimizer) {
            steps = step;
            assertThat(x.grad()).isNotNull();
        }

        @Override
        public void save(Path folder) {
            saved.add(folder.getFileName() + " after " + steps);
        }

        @Override
        public void close() {
            x.close();
        }
    }

    private TrainingReport run(Scripted learner, TrainerConfig config, @Nullable TrainingListener listener) {
        try (Trainer trainer = new Trainer(learner, config.withMaxGradNorm(Double.POSITIVE_INFINITY))) {
            return trainer.train(
                    Tiny.texts(8, 1),
                    Tiny.texts(2, 2),
                    RunFolder.create(folder.resolve("run")),
                    listener == null ? NOBODY : listener);
        }
    }

    private static final TrainerConfig SCRIPTED = TrainerConfig.defaults()
            .withSteps(10)
            .withBatch(2, 2)
            .withWeightDecay(0)
            .withRate(new Rate(1e-3, 1, Schedule.CONSTANT, 0))
            .withEvaluation(1, 0);

    @Test
    void trainingStopsWhenTheLossNoLongerFalls() {
        try (ReferenceBackend backend = new ReferenceBackend();
                Scripted learner = new Scripted(backend)) {
            learner.losses.addAll(List.of(5.0, 4.0, 4.5, 3.0, 3.0, 3.5, 1.0));
            TrainingReport report = run(learner, SCRIPTED.withEvaluation(1, 2), null);
            assertThat(report.steps()).isEqualTo(6);
            assertThat(report.stoppedEarly()).isTrue();
            assertThat(report.bestStep()).isEqualTo(4);
            assertThat(Objects.requireNonNull(report.best()).loss()).isEqualTo(3.0);
            assertThat(learner.saved).containsExactly("best after 1", "best after 2", "best after 4", "last after 6");
        }
    }

    @Test
    void anEpochEndsWithAnEvaluationWhereNothingElseIsSaid() {
        try (ReferenceBackend backend = new ReferenceBackend();
                Scripted learner = new Scripted(backend)) {
            learner.losses.addAll(List.of(5.0, 4.0, 3.0));
            Map<Integer, Boolean> evaluations = new LinkedHashMap<>();
            // 8 rows in batches of 2, with two batches per step: 2 steps per epoch.
            run(learner, SCRIPTED.withSteps(5).withEvaluation(0, 0), new TrainingListener() {
                @Override
                public void evaluated(int step, Evaluation evaluation, boolean best) {
                    evaluations.put(step, best);
                }
            });
            assertThat(evaluations).containsExactly(Map.entry(2, true), Map.entry(4, true), Map.entry(5, true));
            assertThat(learner.begun).isEqualTo(5);
            assertThat(learner.microSteps).containsExactly(0, 1, 2, 3, 4, 5, 6, 7, 8, 9);
        }
    }

    @Test
    void thePenaltyEntersTheGradientOnceAStepAndIsReportedApart() {
        try (ReferenceBackend backend = new ReferenceBackend();
                Scripted learner = new Scripted(backend)) {
            learner.losses.addAll(List.of(1.0, 1.0));
            List<double[]> steps = new ArrayList<>();
            run(learner, SCRIPTED.withSteps(2), new TrainingListener() {
                @Override
                public void step(StepResult r, int totalSteps, double seconds) {
                    steps.add(new double[] {r.loss(), r.penalty(), r.gradNorm()});
                }
            });
            // x is 2: the loss x² is 4, the penalty 10 x is 20, the gradient 2 x + 10 is 14, for two micro-batches as
            // for one.
            assertThat(steps.getFirst()).usingComparatorWithPrecision(1e-9).containsExactly(4, 20, 14);
        }
    }
}
