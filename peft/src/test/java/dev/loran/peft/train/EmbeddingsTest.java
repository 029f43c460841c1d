package dev.loran.peft.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.testing.GradCheck;
import dev.loran.kernels.simd.SimdBackend;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.DataLoader;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.Row.Classify;
import dev.loran.peft.data.Row.Scored;
import dev.loran.peft.data.TinyTokenizers;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import dev.loran.peft.task.EmbedTask;
import dev.loran.peft.task.EmbedTask.Pair;
import dev.loran.peft.task.Evaluation;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.task.TextClassifier.Pooling;
import dev.loran.peft.train.MemoryPlan.Largest;
import dev.loran.peft.tuner.LoraConfig;
import dev.loran.peft.tuner.PeftConfig;
import dev.loran.peft.tuner.PeftModel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Random;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/// Task `embed` is trained, resumed, planned, and used.
class EmbeddingsTest {
    private static final TrainerConfig CONFIG =
            TrainerConfig.defaults().withEpochs(8).withBatch(8, 1).withRate(TrainerConfig.Rate.of(1e-2));
    private static final List<String> WORDS = List.of("buy", "cheap", "shoes", "run", "online", "red");

    @TempDir
    Path folder;

    /// @param form 2: the positive is about the last word of the anchor; 3: a negative is not; 0: scores for that; 1: the
    ///     last word is the label
    private static Examples examples(int n, int form, long seed) {
        Random random = new Random(seed);
        List<Row> rows = new ArrayList<>();
        for (int i = 0; i < n; i++) {
            String last = WORDS.get(random.nextInt(6));
            String other = WORDS.get((WORDS.indexOf(last) + 1 + random.nextInt(5)) % 6);
            String anchor = "query ".repeat(random.nextInt(3)) + other + " : " + last;
            boolean fits = random.nextBoolean();
            rows.add(
                    switch (form) {
                        case 0 -> new Scored(anchor, fits ? last : other, fits ? 1 : random.nextInt(3) / 4.0);
                        case 1 -> new Classify(anchor.replace(other + " :", "red"), last);
                        default -> new Pair(anchor, last, form == 3 ? other : null);
                    });
        }
        return examples(rows);
    }

    private static Examples examples(List<? extends Row> rows) {
        try (Tokenizer tokenizer = TinyTokenizers.wordPiece()) {
            return Examples.of(new EmbedTask(), rows, tokenizer, Examples.Options.of(Tiny.POSITIONS), null);
        }
    }

    record Case(PeftConfig method, Pooling pooling, int miniBatch, Examples rows, Examples heldOut) {
        Case(PeftConfig method, Pooling pooling, int form) {
            this(method, pooling, 0, examples(48, form, 1), examples(20, form, 2));
        }

        Case withMiniBatch(int texts) {
            return new Case(method, pooling, texts, rows, heldOut);
        }

        TaskCard card() {
            try (Tokenizer tokenizer = TinyTokenizers.wordPiece()) {
                return new EmbedTask()
                        .with(Map.of("mini_batch", String.valueOf(miniBatch)))
                        .card(rows, tokenizer, Tiny.POSITIONS)
                        .withPooling(pooling, true);
            }
        }

        @Override
        public String toString() {
            return method.peftType() + ", " + pooling + ", " + ((EmbedTask) card().task()).kind()
                    + (miniBatch == 0 ? "" : ", " + miniBatch + " texts at once");
        }
    }

    static Stream<Case> cases() {
        return Stream.of(
                new Case(LoraConfig.defaults(), Pooling.MEAN, 2),
                new Case(LoraConfig.defaults(), Pooling.MAX, 3),
                new Case(LoraConfig.defaults(), Pooling.LAST, 0),
                new Case(LoraConfig.defaults(), Pooling.MEAN, 1),
                new Case(LoraConfig.defaults(), Pooling.MEAN, 3).withMiniBatch(7));
    }

    private interface Work<T> {
        T with(TaskModel learner) throws Exception;
    }

    private static <T> T learner(Backend backend, DType dtype, Case c, Work<T> work) throws Exception {
        try (Model model = Tiny.encoder(backend, dtype);
                PeftModel peft = new PeftModel(model, 3)) {
            peft.addAdapter("default", c.method);
            try (TaskModel learner = TaskModel.of(peft, c.card(), 3)) {
                return work.with(learner);
            }
        }
    }

    @ParameterizedTest
    @MethodSource("cases")
    void isTrainedSavedLoadedAndUsed(Case c) throws Exception {
        RunFolder run = RunFolder.create(folder.resolve("run"));
        try (Backend backend = new SimdBackend(2)) {
            Evaluation after = learner(backend, DType.F32, c, learner -> {
                Evaluation before = Evaluation.of(learner, c.heldOut, 8);
                try (Trainer trainer = new Trainer(learner, CONFIG.withEpochs(30))) {
                    trainer.train(c.rows, c.heldOut, run, new TrainingListener() {});
                }
                Evaluation then = Evaluation.of(learner, c.heldOut, 8);
                assertThat(then.loss()).isLessThan(before.loss());
                assertThat(then.headlineValue()).isGreaterThan(before.headlineValue());
                return then;
            });
            assertThat(run.last().resolve("head.safetensors")).doesNotExist();
            try (Model model = Tiny.encoder(backend, DType.F32);
                    PeftModel peft = new PeftModel(model, 3);
                    TaskModel again = TaskModel.load(peft, run.last());
                    Tokenizer tokenizer = TinyTokenizers.wordPiece()) {
                assertThat(again.card().task()).isInstanceOf(EmbedTask.class);
                assertThat(Evaluation.of(again, c.heldOut, 8)).isEqualTo(after);
                List<float[]> vectors = Embedder.vectors(again, tokenizer, List.of("red", "buy shoes", "run"), 2);
                assertThat(vectors).hasSize(3);
                for (float[] vector : vectors) {
                    double squares = 0;
                    for (float v : vector) {
                        squares += v * v;
                    }
                    assertThat(vector).hasSize(16);
                    assertThat(squares).isCloseTo(1, within(1e-5));
                }
                // Whatever else is in the batch.
                assertThat(Embedder.vectors(again, tokenizer, List.of("red"), 2).getFirst())
                        .containsExactly(vectors.getFirst(), within(1e-6f));
                assertThatThrownBy(() -> Predictor.answers(again, tokenizer, List.of("red"), 1))
                        .isInstanceOf(IllegalArgumentException.class)
                        .hasMessageContaining("embed, not classify");
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
        for (String file : List.of("adapter_model.safetensors", "loran.json")) {
            assertThat(Files.readAllBytes(stopped.last().resolve(file)))
                    .as(file)
                    .isEqualTo(Files.readAllBytes(whole.last().resolve(file)));
        }
    }

    private static void train(Case c, TrainerConfig config, RunFolder run, int stopAfter) throws Exception {
        try (Backend backend = new SimdBackend(2)) {
            learner(backend, DType.F32, c, learner -> {
                try (Trainer trainer = new Trainer(learner, config)) {
                    return trainer.train(c.rows, c.heldOut, run, new TrainingListener() {
                        @Override
                        public void step(StepResult result, int totalSteps, double seconds) {
                            if (result.step() == stopAfter) {
                                trainer.stop();
                            }
                        }
                    });
                }
            });
        }
    }

    /// With rows of one length, every batch has the same shape.
    @ParameterizedTest
    @MethodSource("cases")
    void theMemoryPlanIsTheBackendsPeak(Case c) throws Exception {
        Row row = switch (((EmbedTask) c.card().task()).kind()) {
            case PAIRS -> new Pair("red shoes", "buy shoes", null);
            case TRIPLETS -> new Pair("red shoes", "buy shoes", "red online");
            case SCORES -> new Scored("red shoes", "buy shoes", 0.5);
            case LABELS -> new Classify("red shoes", "shoes");
        };
        Examples rows = examples(Collections.nCopies(24, row));
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
            learner(backend, DType.F32, c, learner -> {
                try (Trainer trainer = new Trainer(learner, config)) {
                    return trainer.train(rows, rows, null, new TrainingListener() {});
                }
            });
            assertThat(plan.total()).isEqualTo(backend.peakBytes());
        }
    }

    @ParameterizedTest
    @MethodSource("cases")
    void theGradientIsThatOfTheLoss(Case c) throws Exception {
        try (Backend backend = new ReferenceBackend()) {
            learner(backend, DType.F64, c, learner -> {
                Batch batch = new DataLoader(c.rows, new DataLoader.Options(5, false, 0, false, false, 1))
                        .epoch(0)
                        .getFirst();
                learner.train(false);
                Map<String, Tensor> parameters = learner.parameters();
                return GradCheck.check("embed", parameters, () -> learner.loss(batch));
            });
        }
    }

    @ParameterizedTest
    @MethodSource("cases")
    void partsGiveTheGradientsOfTheWholeBatch(Case c) throws Exception {
        Map<String, double[]> whole = gradients(c.withMiniBatch(0));
        for (int texts : new int[] {1, 5, 12}) {
            assertThat(gradients(c.withMiniBatch(texts)))
                    .hasSameSizeAs(whole)
                    .allSatisfy((name, of) -> assertThat(of).as(name).containsExactly(whole.get(name), within(1e-13)));
        }
    }

    /// The loss, and the gradient of each parameter, in double precision.
    private static Map<String, double[]> gradients(Case c) throws Exception {
        try (Backend backend = new ReferenceBackend()) {
            return learner(backend, DType.F64, c, learner -> {
                Batch batch = new DataLoader(c.rows, new DataLoader.Options(6, false, 0, true, false, 1))
                        .epoch(0)
                        .getFirst();
                learner.train(false);
                Map<String, double[]> all = new LinkedHashMap<>();
                try (Scope scope = Scope.open()) {
                    Tensor loss = learner.loss(batch);
                    all.put("loss", loss.toDoubles());
                    loss.backward();
                    learner.parameters().forEach((name, t) -> {
                        Tensor gradient = Objects.requireNonNull(t.grad());
                        all.put(name, gradient.toDoubles());
                    });
                }
                return all;
            });
        }
    }

    @Test
    void partsTakeLessMemory() throws Exception {
        Examples rows = examples(64, 2, 1);
        assertThat(peak(rows, 8)).isLessThan(peak(rows, 0) / 2);
    }

    private static long peak(Examples rows, int miniBatch) throws Exception {
        try (Backend backend = new SimdBackend(2)) {
            Case c = new Case(LoraConfig.defaults(), Pooling.MEAN, miniBatch, rows, rows);
            return learner(backend, DType.F32, c, learner -> {
                long before = backend.liveBytes();
                backend.resetPeak();
                try (Trainer trainer =
                        new Trainer(learner, CONFIG.withBatch(64, 1).withSteps(1))) {
                    trainer.train(rows, null, null, new TrainingListener() {});
                }
                return backend.peakBytes() - before;
            });
        }
    }

    @Test
    void settingsThatMakeNoSenseAreRefused() {
        for (String[] bad : new String[][] {
            {"temperature", "0", "temperature 0.0 must be positive"},
            {"temperature", "warm", "temperature \"warm\" is not a number"},
            {"mini_batch", "-1", "mini batch -1 must be positive, or 0 for the whole batch"},
            {"beta", "1", "task embed has no beta; leave it out"}
        }) {
            assertThatThrownBy(() -> new EmbedTask().with(Map.of(bad[0], bad[1])))
                    .isInstanceOf(InputException.class)
                    .hasMessage(bad[2]);
        }
    }

    /// How a recorded step is replayed: another batch written into the same memory gives that batch's loss.
    @ParameterizedTest
    @MethodSource("cases")
    void anotherBatchIsWrittenOverTheFirst(Case c) throws Exception {
        try (Backend backend = new ReferenceBackend()) {
            learner(backend, DType.F64, c, learner -> {
                learner.train(false);
                List<Batch> batches =
                        new DataLoader(c.rows, new DataLoader.Options(4, false, 0, true, false, 20)).epoch(0);
                try (Scope scope = Scope.open();
                        Learner.Inputs inputs = Objects.requireNonNull(learner.inputs(batches.get(0)))) {
                    for (int i : new int[] {0, 3, 1}) {
                        inputs.write(batches.get(i));
                        assertThat(inputs.loss().item())
                                .isEqualTo(learner.loss(batches.get(i)).item());
                    }
                }
                return c;
            });
        }
    }

    @Test
    void aPoolerIsRefused() {
        assertThatThrownBy(() -> {
                    try (Backend backend = new ReferenceBackend()) {
                        learner(backend, DType.F32, new Case(LoraConfig.defaults(), Pooling.POOLER, 2), l -> l);
                    }
                })
                .isInstanceOf(InputException.class)
                .hasMessage("task embed: sentence-transformers knows no pooling by a pooler; choose mean, cls, max,"
                        + " mean_sqrt_len or last");
    }
}
