package dev.loran.peft.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.io.SafeTensors;
import dev.loran.kernels.Backends;
import dev.loran.peft.data.Labels;
import dev.loran.peft.hf.HfModels;
import dev.loran.peft.io.InputException;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.train.TaskModel;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestFactory;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/// What the encoders beside BERT compute differently, and what their configs must not ask for.
class EncodersTest {
    private final ReferenceBackend backend = new ReferenceBackend();

    @TempDir
    Path folder;

    @AfterEach
    void nothingIsLeft() {
        assertThat(backend.liveBuffers()).isZero();
    }

    /// Positions skip padding, wherever it stands.
    @Test
    void paddingHasNoPosition() {
        try (Scope scope = Scope.open();
                Positions positions = new Positions()) {
            Tensor ids = Tensor.ofInts(backend, new int[] {5, 1, 7, 250_001, 1, 0, 9, 1, 1, 1}, 2, 5);
            Tensor at = Tensor.ofInts(backend, new int[] {0, 1, 2, 3, 4}, 5);
            assertThat(positions.after(1, at, ids, 0).toInts()).containsExactly(2, 1, 3, 4, 1, 2, 3, 1, 1, 1);
            assertThat(positions.after(1, at, ids, 3).toInts()).containsExactly(5, 1, 6, 7, 1, 5, 6, 1, 1, 1);
            Tensor virtual = Tensor.ofInts(backend, new int[] {0, 1, 2, 3, 4, 5, 6}, 7);
            assertThat(positions.after(1, virtual, ids, 0).toInts()).containsExactly(2, 3, 4, 5, 6, 7, 8);
        }
    }

    @ParameterizedTest
    @CsvSource({
        "deberta-v2, conv_kernel_size, 3",
        "deberta-v2, share_att_key, false",
        "deberta-v2, relative_attention, false",
        "deberta-v2, position_biased_input, true",
        "deberta-v2, pos_att_type, p2p|c2p",
        "deberta-v2, norm_rel_ebd, none",
        "deberta-v2, type_vocab_size, 2",
        "deberta-v2, embedding_size, 8",
        "mpnet, relative_attention_num_buckets, 64",
        "modernbert, classifier_pooling, max",
        "modernbert, hidden_activation, relu6",
        "roberta, position_embedding_type, relative_key",
        "roberta, is_decoder, true",
        "xlm-roberta, add_cross_attention, true",
        "electra, position_embedding_type, relative_key_query",
        "distilbert, activation, swiglu"
    })
    void whatIsNotUnderstoodIsRefusedByName(String type, String key, String value) throws IOException {
        ObjectNode json = Small.config(family(type), Family.CLASSIFIER).json();
        json.set(key, value.matches("true|false|\\d+") ? new ObjectMapper().readTree(value) : json.textNode(value));
        write(json);
        assertThatThrownBy(() -> HfModels.random(folder, backend, DType.F32, 1))
                .isInstanceOf(InputException.class)
                .hasMessageContaining("config.json: " + key + " = ");
    }

    /// What is written is read again with the same outputs, with the head for tokens too.
    @ParameterizedTest
    @ValueSource(
            strings = {
                "roberta",
                "roberta-head",
                "xlm-roberta-tokens",
                "distilbert-head",
                "electra-head",
                "electra-tokens",
                "mpnet-head",
                "modernbert",
                "modernbert-head",
                "modernbert-tokens",
                "deberta-v2-head"
            })
    void foldersKeepTheModel(String name) {
        try (Scope scope = Scope.open();
                Model model = Small.encoder(name, backend, DType.F32)) {
            HfModels.save(model, folder);
            try (Model again = HfModels.load(folder, backend)) {
                assertThat(again.task()).isEqualTo(model.task());
                Tensor ids = Small.ids(backend, model, 2, 9);
                assertThat(again.logits(ids, null).toFloats())
                        .isEqualTo(model.logits(ids, null).toFloats());
            }
        }
    }

    /// A new head has the layers that the family's own has; without it the model is as before.
    @ParameterizedTest
    @ValueSource(strings = {"roberta", "distilbert", "electra", "mpnet", "modernbert"})
    void aHeadIsAddedAndRemoved(String type) {
        try (Scope scope = Scope.open();
                Model model = Small.encoder(type, backend, DType.F32)) {
            Tensor ids = Small.ids(backend, model, 2, 9);
            List<String> modules = List.copyOf(model.namedModules().keySet());
            float[] before = model.logits(ids, null).toFloats();
            model.addClassifier(3);
            assertThat(model.task()).isEqualTo(TaskType.SEQ_CLS);
            assertThat(model.logits(ids, null).shape().dims()).containsExactly(2, 3);
            assertThat(model.belowHead("encoder.layer.0"))
                    .startsWith(model.family().prefix());
            for (String layer : model.headLayers().keySet()) {
                assertThat(model.belowHead(layer)).isEqualTo(layer);
            }
            model.removeClassifier();
            assertThat(List.copyOf(model.namedModules().keySet())).isEqualTo(modules);
            model.addClassifier(TaskType.TOKEN_CLS, 3, module -> false);
            assertThat(model.logits(ids, null).shape().dims()).containsExactly(2, 9, 3);
            model.removeClassifier();
            assertThat(model.logits(ids, null).toFloats()).isEqualTo(before);
        }
    }

    @ParameterizedTest
    @CsvSource({
        "roberta-tokens, , classes of tokens",
        "roberta-head, multi_label_classification, several labels",
        "roberta-head, regression, a number"
    })
    void otherHeadsAreNoClassifiers(String name, @Nullable String problem, String what) {
        try (Scope scope = Scope.open();
                Model model = Small.encoder(name, backend, DType.F32)) {
            if (problem != null) {
                model.configAsRead(Objects.requireNonNull(model.configAsRead()).put(Problem.KEY, problem));
            }
            assertThat(model.problem())
                    .isEqualTo(problem == null ? Problem.SINGLE_LABEL : Problem.named(model.configAsRead()));
            assertThatThrownBy(() ->
                            TaskModel.full(model, TaskCard.classify(new Labels(List.of("a", "b", "c", "d")), 9), 1))
                    .isInstanceOf(InputException.class)
                    .hasMessageContaining("gives " + what);
        }
    }

    @Test
    void lossesOfLabelsAndNumbers() {
        try (Scope scope = Scope.open()) {
            Tensor x = Tensor.of(backend, DType.F64, new double[] {2, -300, 0, 40}, 2, 2);
            Tensor y = Tensor.of(backend, DType.F64, new double[] {1, 0, 0.25, 0}, 2, 2);
            double expected = (Math.log1p(Math.exp(-2)) + 0 + Math.log(2) + 40) / 4;
            assertThat(Losses.binaryCrossEntropy(x, y).item()).isCloseTo(expected, within(1e-12));
            assertThat(Losses.squaredError(x, y).item()).isCloseTo((1 + 90_000 + 0.0625 + 1600) / 4, within(1e-9));
        }
    }

    /// Models and outputs of transformers, in the folder of `-Dloran.oracle`.
    @TestFactory
    Stream<DynamicTest> oracle() throws IOException {
        String root = System.getProperty("loran.oracle", "");
        if (root.isEmpty()) {
            return Stream.of(DynamicTest.dynamicTest("no folder given", () -> {}));
        }
        try (Stream<Path> files = Files.list(Path.of(root))) {
            return files.sorted().toList().stream()
                    .map(f -> DynamicTest.dynamicTest(f.getFileName().toString(), () -> compare(f)));
        }
    }

    private static void compare(Path from) {
        try (var fast = Backends.best();
                Scope scope = Scope.open();
                Model model = HfModels.load(from, fast);
                SafeTensors io = SafeTensors.open(from.resolve("io.safetensors"))) {
            Tensor ids = io.tensor(fast, "input_ids", DType.I32);
            Tensor mask = io.tensor(fast, "attention_mask", DType.I32);
            Tensor out = model.classifier() == null ? model.hidden(ids, mask) : model.logits(ids, mask);
            double[] expected = io.copy(fast, "out", DType.F32).toDoubles();
            double[] actual = out.toDoubles();
            int[] shown = mask.toInts();
            int each = actual.length / shown.length;
            double max = Arrays.stream(expected).map(Math::abs).max().orElse(0);
            for (int i = 0; i < actual.length; i++) {
                if (out.shape().rank() == 2 || shown[i / each] != 0) {
                    assertThat(actual[i]).as("at " + i).isCloseTo(expected[i], within(1e-5 * max));
                }
            }
        }
    }

    private static Family family(String type) {
        return HfModels.FAMILIES.stream()
                .filter(f -> f.modelType().equals(type))
                .findFirst()
                .orElseThrow();
    }

    private void write(ObjectNode json) throws IOException {
        Files.writeString(folder.resolve("config.json"), json.toString());
    }
}
