package dev.loran.peft.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.io.SafeTensors;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.DataLoader;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Labels;
import dev.loran.peft.data.TinyTokenizers;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.TaskType;
import dev.loran.peft.model.decoder.SeoTransformer;
import dev.loran.peft.model.decoder.TransformerConfig;
import dev.loran.peft.model.encoder.BertModel;
import dev.loran.peft.task.Evaluation;
import dev.loran.peft.task.LmTask;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.task.TextClassifier.Pooling;
import dev.loran.peft.train.TrainerConfig.Rate;
import dev.loran.peft.tuner.LoraConfig;
import dev.loran.peft.tuner.PeftModel;
import dev.loran.peft.tuner.PromptTuningConfig;
import dev.loran.peft.tuner.Targets;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class TaskModelTest {
    private static final TaskCard CLASSIFY = TaskCard.classify(Tiny.LABELS, Tiny.POSITIONS);

    @TempDir
    Path folder;

    private static Batch batch(Examples examples) {
        return new DataLoader(examples, DataLoader.Options.evaluation(64))
                .epoch(0)
                .getFirst();
    }

    // ---- heads and pooling

    @Test
    void aMeanPooledHeadSeesTheMeanOfTheRealTokens() {
        checkPooling(Pooling.MEAN, 0);
        checkPooling(Pooling.MEAN, 3);
    }

    @Test
    void otherPoolingsSeeWhatTheySay() {
        for (Pooling pooling : List.of(Pooling.CLS, Pooling.MAX, Pooling.MEAN_SQRT_LEN)) {
            checkPooling(pooling, 0);
            checkPooling(pooling, 3);
        }
    }

    @Test
    void aNormalizedVectorHasLengthOne() {
        try (ReferenceBackend backend = new ReferenceBackend();
                Model base = Tiny.encoder(backend, DType.F64);
                PeftModel peft = new PeftModel(base, 3);
                Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.noGrad()) {
            Batch batch = batch(Tiny.examples(5, 1));
            TaskCard card = CLASSIFY.withPooling(Pooling.CLS);
            try (TaskModel plain = TaskModel.of(peft, card, 1);
                    TaskModel unit = TaskModel.of(peft, card.withPooling(Pooling.CLS, true), 1)) {
                double[] expected = plain.pooled(batch).toDoubles();
                double[] actual = unit.pooled(batch).toDoubles();
                for (int row = 0; row < 5; row++) {
                    double squares = 0;
                    for (int c = 0; c < 16; c++) {
                        squares += expected[row * 16 + c] * expected[row * 16 + c];
                    }
                    for (int c = 0; c < 16; c++) {
                        assertThat(actual[row * 16 + c])
                                .isCloseTo(expected[row * 16 + c] / Math.sqrt(squares), within(1e-12));
                    }
                }
            }
        }
    }

    @Test
    void aLastPooledHeadSeesTheLastRealToken() {
        checkPooling(Pooling.LAST, 0);
        checkPooling(Pooling.LAST, 3);
    }

    private static void checkPooling(Pooling pooling, int virtualTokens) {
        Batch batch = batch(Tiny.examples(5, 1));
        try (ReferenceBackend backend = new ReferenceBackend();
                Model base = Tiny.causal(backend, DType.F64);
                PeftModel peft = new PeftModel(base, 3);
                Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.noGrad()) {
            if (virtualTokens > 0) {
                peft.addAdapter("default", PromptTuningConfig.of(virtualTokens).withTask(TaskType.CAUSAL_LM));
            }
            try (TaskModel model = TaskModel.of(peft, CLASSIFY.withPooling(pooling), 1)) {
                double[] actual = model.pooled(batch).toDoubles();
                Tensor ids = Tensor.ofInts(backend, batch.inputIds(), batch.batchSize(), batch.length());
                Tensor mask = Tensor.ofInts(backend, batch.attentionMask(), batch.batchSize(), batch.length());
                double[] hidden = base.hidden(ids, mask).toDoubles();
                int positions = virtualTokens + batch.length();
                for (int row = 0; row < batch.batchSize(); row++) {
                    int end = virtualTokens + length(batch, row);
                    for (int c = 0; c < 16; c++) {
                        int at = row * positions * 16 + c;
                        double[] values = IntStream.range(0, end)
                                .mapToDouble(t -> hidden[at + t * 16])
                                .toArray();
                        double sum = Arrays.stream(values).sum();
                        double expected = switch (pooling) {
                            case MEAN -> sum / end;
                            case MEAN_SQRT_LEN -> sum / Math.sqrt(end);
                            case MAX -> Arrays.stream(values).max().orElseThrow();
                            case CLS -> values[0];
                            case LAST -> values[end - 1];
                            case POOLER -> throw new AssertionError();
                        };
                        assertThat(actual[row * 16 + c]).isCloseTo(expected, within(1e-12));
                    }
                }
            }
        }
    }

    private static int length(Batch batch, int row) {
        int n = 0;
        for (int t = 0; t < batch.length(); t++) {
            n += batch.attentionMask()[row * batch.length() + t];
        }
        return n;
    }

    @Test
    void aClassifierOfItsOwnIsTrainedByTheAdapter() {
        try (ReferenceBackend backend = new ReferenceBackend();
                Model base = BertModel.random(
                        BertModel.Config.of(TinyTokenizers.WORDS.size(), 16, 1, 2, Tiny.POSITIONS, 2),
                        backend,
                        DType.F32,
                        3);
                PeftModel peft = new PeftModel(base, 3)) {
            peft.addAdapter("default", LoraConfig.defaults().withTask(TaskType.SEQ_CLS));
            try (TaskModel model = TaskModel.of(peft, CLASSIFY, 1)) {
                assertThat(model.parameters())
                        .containsKey("base_model.model.classifier.modules_to_save.default.weight")
                        .doesNotContainKey("head.weight");
                assertThat(model.isHead("base_model.model.classifier.modules_to_save.default.weight"))
                        .isTrue();
                assertThat(model.isHead(
                                "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.default.weight"))
                        .isFalse();
                model.save(folder);
                assertThat(folder.resolve("head.safetensors")).doesNotExist();
            }
            TaskCard three = TaskCard.classify(new Labels(List.of("a", "b", "c")), 8);
            assertThatThrownBy(() -> TaskModel.of(peft, three, 1))
                    .isInstanceOf(InputException.class)
                    .hasMessage("the model's classifier has 2 classes but the data has 3 labels: [a, b, c]; use rows"
                            + " of the model's classes, or a model without a head");
        }
    }

    // ---- files

    @Test
    void whatWasSavedAnswersTheSameWhenLoaded() {
        Examples examples = Tiny.examples(12, 1);
        TaskCard card = CLASSIFY.withTextPrefix("query: ").withBase(new TaskCard.Base("tiny", "c0ffee"));
        double[] logits;
        try (ReferenceBackend backend = new ReferenceBackend();
                Model base = Tiny.encoder(backend, DType.F32)) {
            try (PeftModel peft = new PeftModel(base, 3)) {
                peft.addAdapter("default", LoraConfig.defaults().withRank(2, 4));
                try (TaskModel model = TaskModel.of(peft, card, 1);
                        Trainer trainer =
                                new Trainer(model, TrainerConfig.defaults().withRate(Rate.of(1e-2)));
                        Scope scope = Scope.open()) {
                    trainer.train(examples, null, null, new TrainingListener() {});
                    model.train(false);
                    logits = model.logits(batch(examples)).toDoubles();
                    model.save(folder);
                }
            }
            try (PeftModel peft = new PeftModel(base, 99);
                    TaskModel model = TaskModel.load(peft, folder);
                    Scope scope = Scope.open()) {
                assertThat(model.logits(batch(examples)).toDoubles()).isEqualTo(logits);
                assertThat(model.card().textPrefix()).isEqualTo("query: ");
                assertThat(model.card().labels()).hasToString("[purchase, sport]");
                assertThat(model.card().maxLength()).isEqualTo(Tiny.POSITIONS);
            }
        }
        try (SafeTensors head = SafeTensors.open(folder.resolve("head.safetensors"))) {
            assertThat(head.names()).containsExactlyInAnyOrder("weight", "bias");
            assertThat(head.entry("weight").shape().dims()).containsExactly(2, 16);
            assertThat(head.entry("bias").shape().dims()).containsExactly(2);
        }
        assertThatThrownBy(() -> TaskCard.read(folder)
                        .requireBase(new TaskCard.Base("other", "deadbeef"), Path.of("my-adapter")))
                .isInstanceOf(InputException.class)
                .hasMessage(
                        "my-adapter: the adapter was trained on tiny (SHA-256 c0ffee…), not on other (SHA-256 deadbeef…)");
    }

    @Test
    void trainingGoesOnFromTheWeightsThatWereLoaded() {
        try (ReferenceBackend backend = new ReferenceBackend();
                Model base = Tiny.encoder(backend, DType.F32)) {
            TrainerConfig config = TrainerConfig.defaults().withSteps(4).withRate(Rate.of(1e-2));
            try (PeftModel peft = new PeftModel(base, 7)) {
                peft.addAdapter("default", LoraConfig.defaults().withRank(4, 8));
                try (TaskModel first = TaskModel.of(peft, CLASSIFY, 1);
                        Trainer trainer = new Trainer(first, config)) {
                    trainer.train(Tiny.examples(30, 1), null, null, new TrainingListener() {});
                    first.save(folder);
                }
            }
            try (PeftModel peft = new PeftModel(base, 8)) {
                Map<String, Tensor> loaded = peft.loadAdapter("default", folder).fileTensors();
                String one = loaded.keySet().iterator().next();
                try (SafeTensors saved = SafeTensors.open(folder.resolve("adapter_model.safetensors"));
                        Tensor value = saved.copy(backend, one, DType.F32);
                        TaskModel next = TaskModel.of(peft, CLASSIFY, 2);
                        Trainer trainer = new Trainer(next, config)) {
                    Tensor live = Objects.requireNonNull(loaded.get(one));
                    assertThat(live.toFloats()).isEqualTo(value.toFloats());
                    next.loadHead(folder);
                    assertThat(next.parameters()).hasSize(8 + 2);
                    trainer.train(Tiny.examples(30, 1), null, null, new TrainingListener() {});
                    assertThat(live.toFloats()).isNotEqualTo(value.toFloats());
                }
            }
        }
    }

    @Test
    void aHeadOfAnotherWidthIsRefused() {
        try (ReferenceBackend backend = new ReferenceBackend();
                Model base = Tiny.encoder(backend, DType.F32);
                PeftModel peft = new PeftModel(base, 3);
                Scope scope = Scope.open()) {
            peft.addAdapter("default", LoraConfig.defaults());
            try (TaskModel model = TaskModel.of(peft, CLASSIFY, 1)) {
                Path file = folder.resolve("head.safetensors");
                SafeTensors.write(file, Map.of("weight", Tensor.zeros(backend, DType.F32, 2, 8)));
                assertThatThrownBy(() -> model.loadHead(folder))
                        .isInstanceOf(InputException.class)
                        .hasMessage(file + ": needs a tensor weight (2, 16) but has (2, 8)");
            }
        }
    }

    @Test
    void anEncoderIsNoLanguageModel() {
        try (ReferenceBackend backend = new ReferenceBackend();
                Model base = Tiny.encoder(backend, DType.F32);
                PeftModel peft = new PeftModel(base, 3)) {
            assertThatThrownBy(() -> TaskModel.of(peft, TaskCard.of(new LmTask(), 8), 1))
                    .isInstanceOf(InputException.class)
                    .hasMessage("task lm needs a causal language model, not the encoder bert");
        }
    }

    @Test
    void withoutAnAdapterNothingTrainsAndThatIsSaid() {
        try (ReferenceBackend backend = new ReferenceBackend();
                Model base = Tiny.encoder(backend, DType.F32);
                PeftModel peft = new PeftModel(base, 3);
                TaskModel model = TaskModel.of(peft, CLASSIFY, 1)) {
            assertThat(Evaluation.of(model, Tiny.examples(4, 1), 4).rows()).isEqualTo(4);
            assertForgotten(model);
            peft.addAdapter("default", LoraConfig.defaults());
            new Trainer(model, TrainerConfig.defaults()).close();
            try (AutoCloseable off = peft.disableAdapter()) {
                assertForgotten(model);
            } catch (Exception e) {
                throw new AssertionError(e);
            }
        }
    }

    private static void assertForgotten(TaskModel model) {
        assertThatThrownBy(() -> new Trainer(model, TrainerConfig.defaults()))
                .isInstanceOf(IllegalStateException.class)
                .hasMessageStartingWith(
                        "nothing of the model trains: bert has no active adapter; call peft.addAdapter(")
                .hasMessageEndingWith("or train all of it by TaskModel.full");
    }

    // ---- LoRA's promise

    /// Records the size of every buffer that it allocates.
    private static final class Counting extends ReferenceBackend {
        private final Set<Long> sizes = new HashSet<>();

        @Override
        public Buffer allocate(DType dtype, long size) {
            sizes.add(size);
            return super.allocate(dtype, size);
        }
    }

    @Test
    void loraOn512By512Trains16384ParametersAndFormsNoProductOfThem() {
        try (Counting backend = new Counting();
                Model base = SeoTransformer.random(
                        new TransformerConfig(512, 1, 8, TinyTokenizers.WORDS.size()), backend, DType.F32, 1);
                PeftModel peft = new PeftModel(base, 3)) {
            peft.addAdapter("default", LoraConfig.defaults().withRank(16, 32).withTargets(Targets.of("w_q")));
            assertThat(peft.parameterCount().trainableParameters()).isEqualTo(16_384);
            try (TaskModel model = TaskModel.of(peft, TaskCard.of(new LmTask(), 16), 1);
                    Trainer trainer =
                            new Trainer(model, TrainerConfig.defaults().withSteps(1))) {
                backend.sizes.clear();
                trainer.trainStep(batch(Tiny.texts(1, 1)));
            }
            assertThat(backend.sizes).contains(16L * 512).doesNotContain(512L * 512);
        }
    }

    // ---- what the frozen model can do

    @Test
    void aProbeTrainsTheHeadAloneAndLeavesTheModelAlone() {
        try (ReferenceBackend backend = new ReferenceBackend();
                Model base = Tiny.encoder(backend, DType.F32);
                PeftModel peft = new PeftModel(base, 3);
                TaskModel model = TaskModel.of(peft, CLASSIFY, 1)) {
            TrainerConfig config = TrainerConfig.defaults().withEpochs(20).withRate(Rate.of(1e-2));
            Examples train = Tiny.examples(60, 1);
            Examples held = Tiny.examples(30, 2);
            Evaluation untrained = Evaluation.of(model, held, 16);
            int buffers = backend.liveBuffers();
            Evaluation e = LinearProbe.evaluate(model, train, held, config, 1);
            assertThat(e.rows()).isEqualTo(30);
            assertThat(e.metric("accuracy")).isGreaterThan(0.8).isGreaterThan(untrained.metric("accuracy"));
            assertThat(LinearProbe.evaluate(model, train, held, config, 1)).isEqualTo(e);
            assertThat(backend.liveBuffers()).isEqualTo(buffers);
        }
    }
}
