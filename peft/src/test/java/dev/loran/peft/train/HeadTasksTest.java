package dev.loran.peft.train;

import static org.assertj.core.api.Assertions.assertThat;

import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.kernels.simd.SimdBackend;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.TinyTokenizers;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.model.Model;
import dev.loran.peft.task.ClassifyTask;
import dev.loran.peft.task.Evaluation;
import dev.loran.peft.task.RegressTask;
import dev.loran.peft.task.RerankTask;
import dev.loran.peft.task.TagTask;
import dev.loran.peft.task.Task;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.task.TextClassifier.Pooling;
import dev.loran.peft.train.MemoryPlan.Largest;
import dev.loran.peft.tuner.LoraConfig;
import dev.loran.peft.tuner.PeftModel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Objects;
import java.util.stream.Stream;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/// What holds for every task, for those with lists of labels, numbers and tags: with the family's own head and with one
/// beside the model.
class HeadTasksTest {
    private static final TrainerConfig CONFIG =
            TrainerConfig.defaults().withEpochs(8).withBatch(8, 1).withRate(TrainerConfig.Rate.of(1e-2));

    @TempDir
    Path folder;

    private static List<Row> rows(Task task, int n, long seed) {
        return Tiny.rows(n, seed).stream()
                .map(row -> switch (task.name()) {
                    case "classify" -> labelled(row);
                    case "regress" ->
                        new Row.Scored(row.text(), null, row.label().equals("sport") ? 0.75 : -0.5);
                    case "rerank" ->
                        new RerankTask.Passage(
                                row.text().contains("red") ? "red" : "online",
                                row.text(),
                                row.label().equals("sport") ? 0.9 : 0);
                    default -> tagged(row.text());
                })
                .toList();
    }

    private static Row labelled(Row.Classify row) {
        boolean red = row.text().contains("red");
        return new Row.Labelled(row.text(), null, red ? List.of(row.label(), "red") : List.of(row.label()));
    }

    private static Row tagged(String text) {
        List<String> words = List.of(text.split(" "));
        return new Row.Tagged(
                words,
                words.stream()
                        .map(w -> w.equals("running") || w.equals("shoes") ? "B-THING" : "O")
                        .toList());
    }

    private static Examples examples(Task task, List<Row> rows, @org.jspecify.annotations.Nullable Examples like) {
        try (Tokenizer tokenizer = TinyTokenizers.wordPiece()) {
            return Examples.of(
                    task,
                    rows,
                    tokenizer,
                    Examples.Options.of(Tiny.POSITIONS),
                    like == null ? null : like.labelsOrNull());
        }
    }

    /// @param causal whether the model is
    record Case(Task task, boolean causal, Pooling pooling, Examples rows, Examples heldOut) {
        static Case of(Task task, boolean causal, Pooling pooling) {
            Examples rows = examples(task, HeadTasksTest.rows(task, 48, 1), null);
            return new Case(task, causal, pooling, rows, examples(task, HeadTasksTest.rows(task, 20, 2), rows));
        }

        TaskCard card() {
            return TaskCard.of(task, rows.labelsOrNull(), Tiny.POSITIONS).withPooling(pooling);
        }

        Model model(Backend backend) {
            return causal ? Tiny.causal(backend, DType.F32) : Tiny.encoder(backend, DType.F32);
        }

        @Override
        public String toString() {
            return task.name() + (causal ? " causal " : " encoder ") + pooling;
        }
    }

    static Stream<Case> cases() {
        return Stream.of(
                Case.of(new ClassifyTask(), true, Pooling.LAST),
                Case.of(new ClassifyTask(), false, Pooling.MEAN),
                Case.of(new RegressTask(), true, Pooling.LAST),
                Case.of(new RegressTask(), false, Pooling.MEAN),
                Case.of(new RerankTask(), true, Pooling.LAST),
                Case.of(new RerankTask(), false, Pooling.MEAN),
                Case.of(new TagTask(), true, Pooling.LAST),
                Case.of(new TagTask(), false, Pooling.LAST));
    }

    private static void train(Case c, Model model, TrainerConfig config, RunFolder run, int stopAfter) {
        try (PeftModel peft = new PeftModel(model, 3)) {
            peft.addAdapter("default", LoraConfig.defaults());
            try (TaskModel learner = TaskModel.of(peft, c.card(), 3);
                    Trainer trainer = new Trainer(learner, config)) {
                trainer.train(c.rows, c.heldOut, run, new TrainingListener() {
                    @Override
                    public void step(StepResult result, int totalSteps, double seconds) {
                        if (result.step() == stopAfter) {
                            trainer.stop();
                        }
                    }
                });
            }
        }
    }

    @ParameterizedTest
    @MethodSource("cases")
    void isTrainedSavedAndLoaded(Case c) {
        RunFolder run = RunFolder.create(folder.resolve("run"));
        try (Backend backend = new SimdBackend(2);
                Model model = c.model(backend)) {
            Evaluation before;
            Evaluation after;
            try (PeftModel peft = new PeftModel(model, 3)) {
                peft.addAdapter("default", LoraConfig.defaults());
                try (TaskModel learner = TaskModel.of(peft, c.card(), 3);
                        Trainer trainer = new Trainer(learner, CONFIG)) {
                    before = Evaluation.of(learner, c.heldOut, 8);
                    trainer.train(c.rows, c.heldOut, run, new TrainingListener() {});
                    after = Evaluation.of(learner, c.heldOut, 8);
                }
            }
            assertThat(after.loss()).isLessThan(0.8 * before.loss());
            assertThat(after.headlineValue()).isGreaterThan(before.headlineValue());
            boolean beside = c.pooling == Pooling.MEAN || c.causal && c.task instanceof TagTask;
            assertThat(Files.exists(run.last().resolve("head.safetensors"))).isEqualTo(beside);
            try (PeftModel peft = new PeftModel(model, 3);
                    TaskModel again = TaskModel.load(peft, run.last())) {
                assertThat(again.card().task()).isEqualTo(c.task);
                assertThat(Evaluation.of(again, c.heldOut, 8)).isEqualTo(after);
            }
        }
    }

    @ParameterizedTest
    @MethodSource("cases")
    void goesOnFromACheckpointToTheSameBits(Case c) throws Exception {
        TrainerConfig config = CONFIG.withSteps(12).withCheckpoints(new TrainerConfig.Checkpoints(5, 2));
        RunFolder whole = RunFolder.create(folder.resolve("whole"));
        RunFolder stopped = RunFolder.create(folder.resolve("stopped"));
        for (RunFolder run : List.of(whole, stopped)) {
            for (int stopAfter : run == whole ? new int[] {0} : new int[] {7, 0}) {
                try (Backend backend = new SimdBackend(2);
                        Model model = c.model(backend)) {
                    train(c, model, config, run, stopAfter);
                }
            }
        }
        try (Stream<Path> files = Files.list(whole.last())) {
            for (Path file :
                    files.filter(f -> !f.toString().endsWith("metrics.jsonl")).toList()) {
                assertThat(Files.readAllBytes(stopped.last().resolve(file.getFileName())))
                        .as(file.toString())
                        .isEqualTo(Files.readAllBytes(file));
            }
        }
    }

    /// With rows of one length, every batch has the same shape.
    @ParameterizedTest
    @MethodSource("cases")
    void theMemoryPlanIsTheBackendsPeak(Case c) {
        Row row = rows(c.task, 1, 1).getFirst();
        Examples rows = examples(c.task, java.util.Collections.nCopies(24, row), c.rows);
        TrainerConfig config = CONFIG.withSteps(5);
        Case same = new Case(c.task, c.causal, c.pooling, rows, rows);
        try (Backend backend = new SimdBackend(2)) {
            Largest largest = Largest.of(rows, 8);
            MemoryPlan plan = Objects.requireNonNull(
                    MemoryPlan.of(backend, c::model, LoraConfig.defaults(), c.card(), config, 5, largest, largest));
            try (Model model = c.model(backend)) {
                train(same, model, config, RunFolder.create(folder.resolve("run")), 0);
            }
            assertThat(plan.total()).isEqualTo(backend.peakBytes());
        }
    }
}
