package dev.loran.peft.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.io.SafeTensors;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.Labels;
import dev.loran.peft.data.Target;
import dev.loran.peft.hf.HfModels;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.TaskType;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.task.TextClassifier;
import dev.loran.peft.task.TextClassifier.Pooling;
import dev.loran.peft.tuner.LoraConfig;
import dev.loran.peft.tuner.PeftModel;
import dev.loran.peft.tuner.Targets;
import java.io.IOException;
import java.net.URISyntaxException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/// Adapters that include the family's own classification head, as peft makes them on
/// `AutoModelForSequenceClassification`. The fixtures are made by `benchmarks/peers/seqcls.py`.
class FamilyHeadTest {
    private static final Labels LABELS = new Labels(List.of("a", "b", "c"));
    private static final Batch BATCH = new Batch(
            new int[] {5, 9, 17, 3, 20, 11, 4, 6, 8, 0, 0, 0},
            new int[] {1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0},
            new int[] {0, 2},
            new int[] {0, 1},
            2,
            6,
            9,
            2);

    @TempDir
    Path temporary;

    private final Backend backend = new ReferenceBackend();

    private static Path fixture(String name) {
        try {
            return Path.of(Objects.requireNonNull(FamilyHeadTest.class.getResource("/fixtures/seqcls/" + name))
                    .toURI());
        } catch (URISyntaxException e) {
            throw new IllegalStateException(e);
        }
    }

    private Model base(String family) {
        return HfModels.load(fixture(family), backend);
    }

    private static void assertAnswers(Model model, Path adapter) {
        try (SafeTensors file = SafeTensors.open(adapter.resolve("expected.safetensors"));
                Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.noGrad()) {
            Backend backend = model.backend();
            Tensor ids = file.tensor(backend, "input_ids", DType.I32);
            Tensor mask = file.tensor(backend, "attention_mask", DType.I32);
            double[] expected = file.tensor(backend, "logits", DType.F32).toDoubles();
            assertThat(model.logits(ids, mask).toDoubles()).containsExactly(expected, within(2e-6));
        }
    }

    /// With both ways of calling the model: tensors, and a batch.
    @Test
    void tokenTypesAreThoseOfTransformers() {
        try (Model model = base("bert");
                PeftModel peft = new PeftModel(model, 0);
                SafeTensors file = SafeTensors.open(fixture("bert-adapter").resolve("pairs.safetensors"));
                Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.noGrad()) {
            peft.loadAdapter("default", fixture("bert-adapter"));
            Tensor ids = file.tensor(backend, "input_ids", DType.I32);
            Tensor mask = file.tensor(backend, "attention_mask", DType.I32);
            Tensor types = file.tensor(backend, "token_type_ids", DType.I32);
            double[] expected = file.tensor(backend, "logits", DType.F32).toDoubles();
            assertThat(model.logits(ids, mask, types).toDoubles()).containsExactly(expected, within(2e-6));
            // If the types had no effect, the test would pass without them.
            assertThat(model.logits(ids, mask).toDoubles()[0]).isNotCloseTo(expected[0], within(1e-2));
            int[] labels = {0, 1, 2};
            List<Target> targets = List.of(new Target.Ints(labels, 3));
            Batch batch = new Batch(ids.toInts(), mask.toInts(), types.toInts(), targets, labels, 3, 6, 14, 3);
            TaskCard card = TaskCard.classify(LABELS, 6).withPooling(Pooling.POOLER);
            try (TaskModel learner = TaskModel.of(peft, card, 1)) {
                learner.train(false);
                assertThat(learner.logits(batch).toDoubles()).containsExactly(expected, within(2e-6));
                int[] wrong = types.toInts();
                wrong[4] = 2;
                Batch beyond = new Batch(ids.toInts(), mask.toInts(), wrong, targets, labels, 3, 6, 14, 3);
                assertThatThrownBy(() -> learner.logits(beyond))
                        .isInstanceOf(InputException.class)
                        .hasMessage("the tokenizer makes tokens of type 2, but bert has 2 types; use the tokenizer that"
                                + " belongs to it");
            }
        }
    }

    private static JsonNode json(Path file) throws IOException {
        return new ObjectMapper().readTree(Files.readString(file));
    }

    // ---- from peft

    @ParameterizedTest
    @ValueSource(strings = {"llama", "gpt2", "bert"})
    void anAdapterOfPeftBringsItsHead(String family) {
        Path adapter = fixture(family + "-adapter");
        try (Model model = base(family)) {
            TaskType before = model.task();
            Set<String> modules = model.namedModules().keySet();
            PeftModel peft = new PeftModel(model, 0);
            peft.loadAdapter("default", adapter);
            assertThat(model.task()).isEqualTo(TaskType.SEQ_CLS);
            assertThat(model.labels()).containsExactly("LABEL_0", "LABEL_1", "LABEL_2");
            assertThat(model.namedModules()).doesNotContainKey("lm_head");
            assertAnswers(model, adapter);
            peft.close();
            assertThat(model.task()).isEqualTo(before);
            assertThat(model.namedModules().keySet()).isEqualTo(modules);
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"llama", "gpt2", "bert"})
    void whatIsMergedIsAModelWithAHead(String family) throws IOException {
        Path adapter = fixture(family + "-adapter");
        try (Model model = base(family)) {
            PeftModel peft = new PeftModel(model, 0);
            peft.loadAdapter("default", adapter);
            peft.mergeAndUnload();
            model.labels(LABELS.names());
            assertAnswers(model, adapter);
            HfModels.save(model, temporary);
        }
        JsonNode config = json(temporary.resolve("config.json"));
        assertThat(config.path("architectures").path(0).asText())
                .isEqualTo(Map.of("llama", "Llama", "gpt2", "GPT2", "bert", "Bert")
                                .get(family) + "ForSequenceClassification");
        assertThat(config.path("id2label").path("1").asText()).isEqualTo("b");
        assertThat(config.path("label2id").path("c").asInt()).isEqualTo(2);
        try (Model again = HfModels.load(temporary, backend)) {
            assertThat(again.task()).isEqualTo(TaskType.SEQ_CLS);
            assertThat(again.labels()).containsExactly("a", "b", "c");
            assertAnswers(again, adapter);
        }
    }

    @Test
    void withoutAPoolerThereIsNoHead() throws IOException {
        Path folder = temporary.resolve("no-pooler");
        Files.createDirectories(folder);
        Files.copy(fixture("bert").resolve("config.json"), folder.resolve("config.json"));
        Map<String, Tensor> tensors = new LinkedHashMap<>();
        try (SafeTensors files = SafeTensors.openModel(fixture("bert"))) {
            files.names().stream()
                    .filter(n -> !n.startsWith("pooler."))
                    .forEach(n -> tensors.put(n, files.copy(backend, n, DType.F32)));
        }
        SafeTensors.write(folder.resolve("model.safetensors"), tensors);
        Path adapter = fixture("bert-adapter");
        try (Model model = HfModels.load(folder, backend);
                PeftModel peft = new PeftModel(model, 0)) {
            assertThatThrownBy(() -> peft.loadAdapter("default", adapter))
                    .isInstanceOf(InputException.class)
                    .hasMessage(adapter + ": no-pooler: has no pooler (pooler.dense.weight), through which a"
                            + " classification head sees the text; transformers draws one at random there, and an"
                            + " adapter's file does not hold it");
            assertThat(model.task()).isEqualTo(TaskType.FEATURE_EXTRACTION);
            TaskCard card = TaskCard.classify(LABELS, 6).withPooling(Pooling.POOLER);
            assertThatThrownBy(() -> TaskModel.of(peft, card, 1))
                    .isInstanceOf(InputException.class)
                    .hasMessage("pooling pooler: no-pooler has no pooler, which only encoders have, where their folder"
                            + " holds the weights; choose another one");
        }
    }

    // ---- to peft

    @ParameterizedTest
    @CsvSource({"llama, q_proj, v_proj", "gpt2, c_attn, c_attn", "bert, query, value"})
    void whatWasTrainedIsSavedAsPeftSavesIt(String family, String first, String second) throws IOException {
        double[] logits;
        try (Model model = base(family);
                PeftModel peft = new PeftModel(model, 3)) {
            peft.addAdapter("default", LoraConfig.defaults().withRank(2, 4).withTargets(Targets.of(first, second)));
            TaskCard card = TaskCard.classify(LABELS, 6).withPooling(Pooling.of(model));
            try (TaskModel learner = TaskModel.of(peft, card, 1);
                    Trainer trainer =
                            new Trainer(learner, TrainerConfig.defaults().withSteps(3))) {
                assertThat(learner.parameters()).doesNotContainKey("head.weight");
                assertThat(learner.parameters().keySet().stream().filter(learner::isHead))
                        .hasSize(family.equals("bert") ? 2 : 1);
                for (int step = 0; step < 3; step++) {
                    trainer.trainStep(BATCH);
                }
                logits = answers(learner);
                learner.save(temporary);
            }
        }
        assertThat(temporary.resolve(TextClassifier.FILE)).doesNotExist();
        JsonNode config = json(temporary.resolve("adapter_config.json"));
        assertThat(config.path("task_type").asText()).isEqualTo("SEQ_CLS");
        assertThat(config.path("modules_to_save").toString()).isEqualTo("[\"classifier\",\"score\"]");
        try (SafeTensors ours = SafeTensors.open(temporary.resolve("adapter_model.safetensors"));
                SafeTensors theirs =
                        SafeTensors.open(fixture(family + "-adapter").resolve("adapter_model.safetensors"))) {
            assertThat(ours.names()).containsExactlyInAnyOrderElementsOf(theirs.names());
            theirs.names()
                    .forEach(n -> assertThat(ours.entry(n).shape())
                            .isEqualTo(theirs.entry(n).shape()));
        }
        try (Model model = base(family);
                PeftModel peft = new PeftModel(model, 99);
                TaskModel learner = TaskModel.load(peft, temporary)) {
            assertThat(answers(learner)).containsExactly(logits, within(1e-7));
            assertThat(model.labels()).containsExactly("a", "b", "c");
        }
    }

    private static double[] answers(TaskModel learner) {
        learner.train(false);
        try (Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.noGrad()) {
            return learner.logits(BATCH).toDoubles();
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"llama", "gpt2", "bert"})
    void aModelTrainedWholeHasTheHeadInIt(String family) {
        double[] logits;
        try (Model model = base(family)) {
            TaskCard card = TaskCard.classify(LABELS, 6).withPooling(Pooling.of(model));
            try (TaskModel learner = TaskModel.full(model, card, 1);
                    Trainer trainer =
                            new Trainer(learner, TrainerConfig.defaults().withSteps(1))) {
                trainer.trainStep(BATCH);
                logits = answers(learner);
                learner.save(temporary);
            }
        }
        assertThat(temporary.resolve(TextClassifier.FILE)).doesNotExist();
        try (Model model = HfModels.load(temporary, backend);
                PeftModel peft = new PeftModel(model, 0);
                TaskModel learner = TaskModel.load(peft, TaskCard.read(temporary), temporary)) {
            assertThat(model.task()).isEqualTo(TaskType.SEQ_CLS);
            assertThat(model.labels()).containsExactly("a", "b", "c");
            assertThat(answers(learner)).containsExactly(logits, within(1e-7));
        }
    }

    @Test
    void aHeadBesideACausalModelIsStillRead() {
        double[] logits;
        try (Model model = base("llama");
                PeftModel peft = new PeftModel(model, 3);
                TaskModel frozen =
                        TaskModel.of(peft, TaskCard.classify(LABELS, 6).withPooling(Pooling.LAST), 1)) {
            // Without an adapter to save it in, the head is a separate one.
            logits = answers(frozen);
            peft.addAdapter("default", LoraConfig.defaults().withTask(TaskType.CAUSAL_LM));
            frozen.save(temporary);
        }
        assertThat(temporary.resolve(TextClassifier.FILE)).exists();
        try (Model model = base("llama");
                PeftModel peft = new PeftModel(model, 99);
                TaskModel learner = TaskModel.load(peft, temporary)) {
            assertThat(model.task()).isEqualTo(TaskType.CAUSAL_LM);
            assertThat(answers(learner)).containsExactly(logits, within(1e-7));
        }
    }

    // ---- several

    @Test
    void rowsAreClassifiedByTheHeadOfTheirAdapter() {
        try (Model model = base("bert");
                PeftModel peft = new PeftModel(model, 3);
                Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.noGrad()) {
            peft.loadAdapter("peft", fixture("bert-adapter"));
            peft.addAdapter("ours", LoraConfig.defaults());
            peft.setAdapter("ours");
            TaskModel.of(peft, TaskCard.classify(LABELS, 6).withPooling(Pooling.POOLER), 1)
                    .close();
            Tensor ids = Tensor.ofInts(backend, BATCH.inputIds(), 2, 6);
            Tensor mask = Tensor.ofInts(backend, BATCH.attentionMask(), 2, 6);
            double[] ours = peft.logits(ids, mask).toDoubles();
            peft.setAdapter("peft");
            double[] theirs = peft.logits(ids, mask).toDoubles();
            double[] both = peft.logits(ids, mask, List.of("ours", "peft")).toDoubles();
            for (int i = 0; i < 3; i++) {
                assertThat(both[i]).isCloseTo(ours[i], within(1e-6)).isNotCloseTo(theirs[i], within(1e-3));
                assertThat(both[3 + i]).isCloseTo(theirs[3 + i], within(1e-6));
            }
            assertThat(peft.logits(ids, mask, List.of(PeftModel.BASE, "peft")).toDoubles())
                    .startsWith(0, 0, 0);
        }
    }

    @Test
    void headsOfOtherClassesCannotStandTogether() {
        try (Model model = base("llama");
                PeftModel peft = new PeftModel(model, 3)) {
            peft.addAdapter("two", LoraConfig.defaults());
            Labels two = new Labels(List.of("x", "y"));
            TaskModel.of(peft, TaskCard.classify(two, 6).withPooling(Pooling.LAST), 1)
                    .close();
            Path adapter = fixture("llama-adapter");
            assertThatThrownBy(() -> peft.loadAdapter("three", adapter))
                    .isInstanceOf(InputException.class)
                    .hasMessage(adapter + ": tells 3 classes apart, but the model has a head for 2, which adapters"
                            + " beside it have trained; load this one on a model of its own");
            peft.deleteAdapter("two");
            peft.loadAdapter("three", adapter);
            assertAnswers(model, adapter);
        }
    }
}
