package dev.loran.peft.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.kernels.simd.SimdBackend;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.DataLoader;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Target;
import dev.loran.peft.data.TinyTokenizers;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import dev.loran.peft.task.Evaluation;
import dev.loran.peft.task.Scoring;
import dev.loran.peft.task.Tagging;
import dev.loran.peft.task.Task;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.train.MemoryPlan.Largest;
import dev.loran.peft.tuner.LoraConfig;
import dev.loran.peft.tuner.PeftConfig;
import dev.loran.peft.tuner.PeftModel;
import dev.loran.peft.tuner.PromptTuningConfig;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Objects;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/// A user's own tasks can do everything that the shipped ones can: [Tagging], whose targets are one number per token,
/// and [Scoring], whose rows are two texts and whose targets are not integers.
class OwnTaskTest {
    private static final TrainerConfig CONFIG =
            TrainerConfig.defaults().withEpochs(8).withBatch(8, 1).withRate(TrainerConfig.Rate.of(1e-2));

    @TempDir
    Path folder;

    private static Examples tags(int n, long seed) {
        try (Tokenizer tokenizer = TinyTokenizers.wordPiece()) {
            List<Tagging.Tagged> rows = Tiny.rows(n, seed).stream()
                    .map(row -> List.of(row.text().split(" ")))
                    .map(words -> new Tagging.Tagged(
                            words,
                            words.stream()
                                    .map(w -> w.equals("running") || w.equals("shoes") ? "THING" : "O")
                                    .toList()))
                    .toList();
            return Examples.of(new Tagging(), rows, tokenizer, Examples.Options.of(Tiny.POSITIONS), null);
        }
    }

    /// Texts of the class "sport" fit the text "running".
    private static Examples scores(int n, long seed) {
        try (Tokenizer tokenizer = TinyTokenizers.wordPiece()) {
            List<Scoring.Pair> rows = Tiny.rows(n, seed).stream()
                    .map(row ->
                            new Scoring.Pair(row.text(), "running", row.label().equals("sport") ? 0.75 : -0.5))
                    .toList();
            return Examples.of(new Scoring(), rows, tokenizer, Examples.Options.of(Tiny.POSITIONS), null);
        }
    }

    /// @param rows the training rows
    record Case(Task task, PeftConfig method, Examples rows, Examples heldOut) {
        TaskCard card() {
            return TaskCard.of(task, rows.labelsOrNull(), Tiny.POSITIONS);
        }

        @Override
        public String toString() {
            return task.getClass().getSimpleName() + ", " + method.peftType();
        }
    }

    static Stream<Case> cases() {
        return Stream.of(
                new Case(new Tagging(), LoraConfig.defaults(), tags(48, 1), tags(20, 2)),
                new Case(new Tagging(), PromptTuningConfig.of(3), tags(48, 1), tags(20, 2)),
                new Case(new Scoring(), LoraConfig.defaults(), scores(48, 1), scores(20, 2)));
    }

    @ParameterizedTest
    @MethodSource("cases")
    void isTrainedEvaluatedSavedAndLoaded(Case c) {
        RunFolder run = RunFolder.create(folder.resolve("run"));
        try (Backend backend = new SimdBackend(2);
                Model model = Tiny.encoder(backend, DType.F32)) {
            Evaluation after;
            try (PeftModel peft = new PeftModel(model, 3)) {
                peft.addAdapter("default", c.method);
                try (TaskModel learner = TaskModel.of(peft, c.card(), 3);
                        Trainer trainer = new Trainer(learner, CONFIG)) {
                    Evaluation before = Evaluation.of(learner, c.heldOut, 8);
                    trainer.train(c.rows, c.heldOut, run, new TrainingListener() {});
                    after = Evaluation.of(learner, c.heldOut, 8);
                    assertThat(after.loss()).isLessThan(0.8 * before.loss());
                    assertThat(after.headline()).isEqualTo(c.task.headline());
                    assertThat(after.headlineValue() > before.headlineValue())
                            .isEqualTo(c.task.headline().higherIsBetter());
                }
            }
            assertThat(run.last().resolve("head.safetensors")).exists();
            assertThat(run.path().resolve("metrics.jsonl"))
                    .content()
                    .contains("\"eval_" + c.task.headline().name() + "\":");
            try (PeftModel peft = new PeftModel(model, 3);
                    TaskModel again = TaskModel.load(peft, run.last())) {
                assertThat(again.card().task()).hasSameClassAs(c.task);
                assertThat(again.card().labels() == null).isEqualTo(c.card().labels() == null);
                assertThat(Evaluation.of(again, c.heldOut, 8)).isEqualTo(after);
                assertThatThrownBy(() -> Predictor.answers(again, TinyTokenizers.wordPiece(), List.of("red"), 1))
                        .isInstanceOf(IllegalArgumentException.class)
                        .hasMessageContaining(c.task.name() + ", not classify");
            }
        }
    }

    @ParameterizedTest
    @MethodSource("cases")
    void goesOnFromACheckpointToTheSameBits(Case c) throws Exception {
        TrainerConfig config = CONFIG.withSteps(12).withCheckpoints(new TrainerConfig.Checkpoints(5, 2));
        RunFolder whole = RunFolder.create(folder.resolve("whole"));
        RunFolder stopped = RunFolder.create(folder.resolve("stopped"));
        train(c, config, whole, 0);
        train(c, config, stopped, 7);
        train(c, config, stopped, 0);
        for (String file : List.of("adapter_model.safetensors", "head.safetensors", "loran.json")) {
            assertThat(Files.readAllBytes(stopped.last().resolve(file)))
                    .as(file)
                    .isEqualTo(Files.readAllBytes(whole.last().resolve(file)));
        }
    }

    private static void train(Case c, TrainerConfig config, RunFolder run, int stopAfter) {
        try (Backend backend = new SimdBackend(2);
                Model model = Tiny.encoder(backend, DType.F32);
                PeftModel peft = new PeftModel(model, 3)) {
            peft.addAdapter("default", c.method);
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

    /// With rows of one length, every batch has the same shape.
    @ParameterizedTest
    @MethodSource("cases")
    void theMemoryPlanIsTheBackendsPeak(Case c) {
        Examples rows = c.task instanceof Scoring
                ? alike(c.rows, new Scoring.Pair("red shoes", "buy shoes", 1))
                : alike(c.rows, new Tagging.Tagged(List.of("red", "shoes"), List.of("O", "THING")));
        TrainerConfig config = CONFIG.withSteps(5);
        try (Backend backend = new SimdBackend(2)) {
            MemoryPlan plan = Objects.requireNonNull(MemoryPlan.of(
                    backend,
                    b -> Tiny.encoder(b, DType.F32),
                    c.method,
                    c.card(),
                    config,
                    5,
                    Largest.of(rows, 8),
                    Largest.of(rows, 8)));
            assertThat(backend.liveBytes()).isZero();
            try (Model model = Tiny.encoder(backend, DType.F32);
                    PeftModel peft = new PeftModel(model, 3)) {
                peft.addAdapter("default", c.method);
                try (TaskModel learner = TaskModel.of(peft, c.card(), 3);
                        Trainer trainer = new Trainer(learner, config)) {
                    trainer.train(rows, rows, null, new TrainingListener() {});
                }
            }
            assertThat(plan.total()).isEqualTo(backend.peakBytes());
        }
    }

    private static Examples alike(Examples like, dev.loran.peft.data.Row row) {
        try (Tokenizer tokenizer = TinyTokenizers.wordPiece()) {
            return Examples.of(
                    (Task) like.form(),
                    Collections.nCopies(24, row),
                    tokenizer,
                    Examples.Options.of(Tiny.POSITIONS),
                    like.labelsOrNull());
        }
    }

    /// How a recorded step is replayed: another batch written into the same memory gives that batch's loss.
    @ParameterizedTest
    @MethodSource("cases")
    void anotherBatchIsWrittenOverTheFirst(Case c) {
        try (Backend backend = new ReferenceBackend();
                Model model = Tiny.encoder(backend, DType.F64);
                PeftModel peft = new PeftModel(model, 3)) {
            peft.addAdapter("default", c.method);
            try (TaskModel learner = TaskModel.of(peft, c.card(), 3)) {
                learner.train(false);
                List<Batch> batches =
                        new DataLoader(c.rows, new DataLoader.Options(2, false, 0, true, false, 20)).epoch(0);
                assertThat(batches.get(0).length()).isEqualTo(batches.get(3).length());
                try (dev.loran.engine.Scope scope = dev.loran.engine.Scope.open();
                        Learner.Inputs inputs = Objects.requireNonNull(learner.inputs(batches.get(0)))) {
                    for (int i : new int[] {0, 3, 1}) {
                        inputs.write(batches.get(i));
                        assertThat(inputs.loss().item())
                                .isEqualTo(learner.loss(batches.get(i)).item());
                    }
                }
            }
        }
    }

    @Test
    void aRowOfSeveralTextsIsAsManyRowsOfABatch() {
        Examples rows = scores(3, 1);
        Batch batch =
                new DataLoader(rows, DataLoader.Options.evaluation(3)).epoch(0).getFirst();
        assertThat(batch.batchSize()).isEqualTo(6);
        assertThat(batch.rows()).hasSize(3);
        assertThat(batch.inputIds()).hasSize(6 * batch.length());
        assertThat(batch.tokens())
                .isEqualTo(Arrays.stream(batch.attentionMask()).sum());
        assertThat(batch.targets()).hasSize(1);
        float[] scores = ((Target.Floats) batch.targets().getFirst()).values();
        for (int i = 0; i < 3; i++) {
            assertThat(scores[i]).isEqualTo(batch.rows()[i] % 2 == 1 ? 0.75f : -0.5f);
        }
        assertThatThrownBy(batch::labels).hasMessageContaining("the targets of this batch are others");
    }

    // ---- by name

    /// Not a task.
    public static final class Other {}

    /// Without a public constructor.
    abstract static class Hidden implements Task {}

    @Test
    void isFoundByTheNameOfItsClass() {
        assertThat(Task.named(Tagging.class.getName())).isInstanceOf(Tagging.class);
        assertThat(new Tagging().name()).isEqualTo("dev.loran.peft.task.Tagging");
        refused(
                "com.acme.Missing",
                "no such class on the class path; choose classify, regress, tag, embed, rerank, generate, chat, prefer or lm, or add it");
        refused(Other.class.getName(), "the class does not implement dev.loran.peft.task.Task");
        refused(Hidden.class.getName(), "the class needs to be public, with a public constructor without parameters");
    }

    private static void refused(String name, String why) {
        assertThatThrownBy(() -> Task.named(name))
                .isInstanceOf(InputException.class)
                .hasMessage("task \"" + name + "\": " + why);
    }
}
