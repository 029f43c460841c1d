package dev.loran.peft.tuner;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.io.SafeTensors;
import dev.loran.peft.hf.HfModels;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.TaskType;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.function.Consumer;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.MethodSource;

/// Adapters that do not fit are rejected with an explanation, and leave the model unchanged.
class AdapterFilesTest extends NothingLeft {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final LoraConfig LORA = LoraConfig.defaults().withRank(2, 4);
    private static final String Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";

    private void save(Model model, PeftConfig config) {
        try (PeftModel peft = new PeftModel(model, 3)) {
            Subjects.add(peft, "default", config);
            peft.savePretrained(folder);
        }
    }

    private void assertRefused(Model model, String message) {
        try (PeftModel peft = new PeftModel(model, 3)) {
            assertThatThrownBy(() -> peft.loadAdapter("default", folder))
                    .isInstanceOf(InputException.class)
                    .hasMessage(message.replace("{}", folder.toString()));
            assertThat(peft.adapters()).isEmpty();
            assertThat(Targets.candidates(model).values()).allMatch(layer -> layer.adapter() == null);
        }
    }

    /// Writes the adapter's tensors again after `change`.
    private void rewrite(Consumer<Map<String, Tensor>> change) {
        Path file = folder.resolve(AdapterFiles.WEIGHTS);
        try (Scope scope = Scope.open()) {
            Map<String, Tensor> tensors = new LinkedHashMap<>();
            try (SafeTensors read = SafeTensors.open(file)) {
                read.names().forEach(n -> tensors.put(n, read.copy(backend, n, DType.F32)));
            }
            Map<String, Tensor> copies = new LinkedHashMap<>(tensors);
            change.accept(copies);
            SafeTensors.write(file, copies);
            tensors.values().forEach(Tensor::close);
        }
    }

    // ---- tensors

    @Test
    void aMissingTensor() {
        try (Model model = Subjects.model("llama", backend, DType.F32)) {
            save(model, LORA);
            rewrite(all -> all.remove(Q));
            assertRefused(
                    model,
                    "{}/adapter_model.safetensors: tensor " + Q
                            + " is missing; the adapter is damaged, or was made for a model with fewer layers");
        }
    }

    @Test
    void aTensorOfAnotherShape() {
        try (Model model = Subjects.model("llama", backend, DType.F32)) {
            save(model, LORA);
            rewrite(all -> all.put(Q, Tensor.zeros(backend, DType.F32, 2, 11)));
            assertRefused(
                    model,
                    "{}/adapter_model.safetensors: tensor " + Q + " is (2, 11) but the model needs (2, 12)"
                            + "; the adapter was made for another base model");
        }
    }

    @Test
    void aTensorThatNobodyAskedFor() {
        try (Model model = Subjects.model("llama", backend, DType.F32)) {
            save(model, LORA);
            String extra = Q.replace("layers.0", "layers.7");
            rewrite(all -> all.put(extra, Tensor.zeros(backend, DType.F32, 2, 12)));
            assertRefused(
                    model,
                    "{}/adapter_model.safetensors: tensor " + extra
                            + " has no place in the model; there is no such module: the adapter was made for a model"
                            + " with other layers or another head");
        }
    }

    @Test
    void noTensorsAtAll() throws IOException {
        try (Model model = Subjects.model("llama", backend, DType.F32)) {
            save(model, LORA);
            Path file = folder.resolve(AdapterFiles.WEIGHTS);
            Files.delete(file);
            assertRefused(model, "{}/adapter_model.safetensors: no such file");
            Files.write(file, new byte[] {1, 2, 3});
            try (PeftModel peft = new PeftModel(model, 3)) {
                assertThatThrownBy(() -> peft.loadAdapter("default", folder))
                        .isInstanceOf(InputException.class)
                        .hasMessageStartingWith(file + ": ");
            }
        }
    }

    // ---- options of a new configuration that match nothing

    static Stream<Arguments> sayingNothing() {
        LoraConfig q = LORA.withTargets(Targets.of("q_proj"));
        List<String> none = List.of();
        return Stream.of(
                Arguments.of(
                        LORA.withTargets(Targets.of("q_proj", "lm_head")).withLayers(List.of(1), none),
                        "target_modules [lm_head] is in none of the layers that layers_to_transform [1] counts"),
                Arguments.of(
                        q.withLayers(List.of(1, 31), none),
                        "layers_to_transform [1, 31]: the layers of target_modules [q_proj] are [0, 1]"),
                Arguments.of(
                        q.withLayers(List.of(31), none),
                        "layers_to_transform [31]: the layers of target_modules [q_proj] are [0, 1]"),
                Arguments.of(
                        q.withLayers(List.of(1), List.of("q_proj")),
                        "target_modules [q_proj] is in none of the layers [q_proj] that layers_to_transform [1] counts"),
                Arguments.of(
                        q.withLayers(null, List.of("layers")),
                        "layers_pattern [layers] says nothing without layers_to_transform"),
                Arguments.of(
                        LORA.withTargets(Targets.allLinear()).withLayers(List.of(1), none),
                        "layers_to_transform goes with a list of target_modules, not with \"all-linear\""),
                Arguments.of(
                        q.withPatterns(Map.of("layers.0.attn.q_proj", 2), Map.of()),
                        "rank_pattern: layers.0.attn.q_proj matches no adapted module, which are model.layers.0."),
                Arguments.of(
                        q.withPatterns(Map.of(), Map.of("v_proj", 2.0)),
                        "alpha_pattern: v_proj matches no adapted module"),
                Arguments.of(
                        q.withPatterns(Map.of("(", 2), Map.of()),
                        "rank_pattern, alpha_pattern: \"(\" is no regular expression"),
                Arguments.of(q.withExclude(Targets.of("nonsense")), "exclude_modules [nonsense] match no module"),
                Arguments.of(
                        q.withExclude(Targets.of("self_attn.q_proj")),
                        "target_modules [q_proj] are all left out by exclude_modules [self_attn.q_proj]"),
                Arguments.of(
                        q.withModulesToSave(List.of("q_proj")),
                        "target_modules [q_proj] are all left out by modules_to_save [q_proj]"),
                Arguments.of(
                        q.withModulesToSave(List.of("q_prj")), "modules_to_save [q_prj] are no modules of the model"),
                Arguments.of(q.withInit(new LoraInit("eva")), "init_lora_weights eva is known from files alone"));
    }

    @ParameterizedTest
    @MethodSource("sayingNothing")
    void whatSaysSomethingOfNoModuleIsRefusedWithItsReason(LoraConfig config, String message) {
        try (Model model = Subjects.model("llama", backend, DType.F32);
                PeftModel peft = new PeftModel(model, 3)) {
            assertThatThrownBy(() -> peft.addAdapter("default", config))
                    .isInstanceOf(InputException.class)
                    .hasMessageStartingWith(message);
        }
    }

    @Test
    void fromAFileItIsLetPass() {
        try (Model model = Subjects.model("llama", backend, DType.F32);
                PeftModel peft = new PeftModel(model, 3)) {
            LoraConfig config = LORA.withTargets(Targets.of("q_proj", "lm_head"))
                    .withLayers(List.of(1, 31), List.of())
                    .withPatterns(Map.of("nowhere", 3), Map.of())
                    .withInit(new LoraInit("eva"));
            assertThat(peft.addAdapter("default", config, true).parameters()).hasSize(2);
        }
    }

    // ---- the base

    @Test
    void anotherBaseIsRefusedByTheNamesOfBoth() throws IOException {
        Path ours = folder.resolve("ours");
        Path other = folder.resolve("other");
        try (Model model = Subjects.model("llama", backend, DType.F32)) {
            assertThat(model.sha256()).isNull();
            HfModels.save(model, ours);
            Subjects.stir(model.namedParameters(), 0.01, 5);
            HfModels.save(model, other);
        }
        String expected;
        try (Model model = HfModels.load(ours, backend)) {
            save(model, LORA);
            expected = Objects.requireNonNull(model.sha256());
            try (PeftModel peft = new PeftModel(model, 3)) {
                peft.loadAdapter("default", folder);
                assertThat(peft.adapters()).containsKey("default");
            }
        }
        try (SafeTensors file = SafeTensors.open(folder.resolve(AdapterFiles.WEIGHTS))) {
            assertThat(file.metadata())
                    .isEqualTo(Map.of("format", "pt", "base_model", "ours", "base_model_sha256", expected));
        }
        try (Model model = HfModels.load(other, backend)) {
            String found = Objects.requireNonNull(model.sha256());
            assertRefused(
                    model,
                    "{}: the adapter was trained on ours (SHA-256 %.12s…), not on other (SHA-256 %.12s…)"
                            .formatted(expected, found));
        }
    }

    @Test
    void aBaseThatWasMergedIntoHasNoNameAnyMore() {
        Path base = folder.resolve("base");
        try (Model model = Subjects.model("llama", backend, DType.F32)) {
            HfModels.save(model, base);
        }
        try (Model model = HfModels.load(base, backend)) {
            assertThat(model.sha256()).hasSize(64);
            assertThat(model.title()).isEqualTo("base");
            PeftModel peft = new PeftModel(model, 3);
            Subjects.add(peft, "default", LORA);
            peft.mergeAndUnload();
            assertThat(model.sha256()).isNull();
            assertThat(model.title()).isEqualTo("llama");
        }
    }

    /// As peft writes them with `bias` all: the file holds the bias of a fully trained head three times.
    @Test
    void theHeadsBiasIsTheTrainedOneAlsoWhereAllBiasesAreTrained() {
        LoraConfig config = LORA.withBias(LoraConfig.Bias.ALL).withTask(TaskType.SEQ_CLS);
        String head = "base_model.model.classifier.";
        try (Model model = Subjects.model("bert-head", backend, DType.F32);
                Scope scope = Scope.open()) {
            Tensor ids = Subjects.ids(model, 3);
            double[] before;
            try (PeftModel peft = new PeftModel(model, 3)) {
                Tuner tuner = Subjects.add(peft, "default", config);
                assertThat(tuner.parameters())
                        .containsKey(head + "modules_to_save.default.bias")
                        .doesNotContainKey(head + "bias");
                before = Subjects.logits(peft, ids, null);
                peft.savePretrained(folder);
            }
            rewrite(all -> {
                all.put(head + "modules_to_save.bias", Objects.requireNonNull(all.get(head + "bias")));
                all.put(head + "original_module.bias", Tensor.zeros(backend, DType.F32, 4));
            });
            try (PeftModel peft = new PeftModel(model, 3)) {
                peft.loadAdapter("default", folder);
                assertThat(Subjects.logits(peft, ids, null)).isEqualTo(before);
            }
        }
    }

    @Test
    void adaLoraTrainsTheBiasesThatItIsAskedFor() {
        AdaLoraConfig config =
                AdaLoraConfig.defaults().withRanks(3, 2).withLora(LORA.withBias(LoraConfig.Bias.LORA_ONLY));
        try (Model model = Subjects.model("gpt2", backend, DType.F32);
                PeftModel peft = new PeftModel(model, 3)) {
            assertThat(peft.addAdapter("default", config).parameters())
                    .containsKey("base_model.model.transformer.h.1.attn.c_attn.base_layer.bias");
        }
        assertThatThrownBy(() -> AdaLoraConfig.defaults().withLora(LORA.withTrainableTokens(List.of(1))))
                .isInstanceOf(InputException.class)
                .hasMessage(
                        "AdaLoraConfig: trainable_token_indices is {=[1]}, must be empty: AdaLoRA trains no token rows");
    }

    // ---- the configuration

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            quoteCharacter = '"',
            value = {
                "'new_feature' | null | ",
                "'new_feature' | false | ",
                "'new_feature' | 0 | ",
                "'new_feature' | {} | ",
                "'new_feature' | [] | ",
                "'new_feature' | '' | ",
                "'new_feature' | true | new_feature = true",
                "'new_feature' | 0.5 | new_feature = 0.5",
                "'new_feature' | ['x'] | new_feature = ['x']",
            })
    void aKeyOfAnotherVersion(String key, String value, String named) throws IOException {
        try (Model model = Subjects.model("llama", backend, DType.F32)) {
            save(model, LORA);
            Path file = folder.resolve(AdapterFiles.CONFIG);
            ObjectNode config = (ObjectNode) JSON.readTree(file.toFile());
            config.set(key.replace("'", ""), JSON.readTree(value.replace('\'', '"')));
            Files.writeString(file, config.toString());
            if (named == null) {
                try (PeftModel peft = new PeftModel(model, 3)) {
                    assertThat(peft.loadAdapter("default", folder).config().peftType())
                            .isEqualTo("LORA");
                }
            } else {
                assertRefused(
                        model,
                        "{}/adapter_config.json: this version does not know what to do with " + named.replace('\'', '"')
                                + "; the file was written by another version of peft, or for a feature that Loran"
                                + " lacks");
            }
        }
    }

    static Stream<Arguments> damagedConfigs() {
        return Stream.of(
                Arguments.of(
                        "{\"peft_type\": \"LOHA\"}",
                        "{}/adapter_config.json: peft_type LOHA is not supported; known are LORA, ADALORA, P_TUNING,"
                                + " PROMPT_TUNING, PREFIX_TUNING, BOTTLENECK, IA3, LN_TUNING, BITFIT"),
                Arguments.of("{\"r\": 8}", "{}/adapter_config.json: peft_type is missing"),
                Arguments.of("[]", "{}/adapter_config.json: is no JSON object"),
                Arguments.of(
                        "{\"peft_type\": \"LORA\", \"r\": \"many\"}",
                        "{}/adapter_config.json: r is \"many\", needs a whole number"),
                Arguments.of(
                        "{\"peft_type\": \"LORA\", \"r\": 0}",
                        "{}/adapter_config.json: LoraConfig: r is 0, must be at least 1"),
                Arguments.of(
                        "{\"peft_type\": \"PREFIX_TUNING\", \"num_virtual_tokens\": 4, \"num_layers\": 3}",
                        "{}/adapter_config.json: num_layers is 3 but the model has 2; the adapter was made for another base model"),
                Arguments.of(
                        "{\"peft_type\": \"PREFIX_TUNING\", \"num_virtual_tokens\": 4, \"token_dim\": 24}",
                        "{}/adapter_config.json: token_dim is 24 but the model needs 12; the adapter was made for another base model"),
                Arguments.of(
                        "{\"peft_type\": \"PREFIX_TUNING\", \"num_virtual_tokens\": 16}",
                        "{}/adapter_config.json: num_virtual_tokens is 16 but the model has 16 positions"),
                Arguments.of(
                        "{\"peft_type\": \"LORA\", \"target_modules\": [\"q_prj\"]}",
                        "{}/adapter_config.json: target_modules [q_prj] match no module that may be adapted; did you mean q_proj? (modules: "
                                + "down_proj, embed_tokens, gate_proj, input_layernorm, k_proj, lm_head, norm, o_proj, "
                                + "post_attention_layernorm, q_proj, up_proj, v_proj)"));
    }

    @ParameterizedTest
    @MethodSource("damagedConfigs")
    void aConfigurationThatCannotBe(String config, String message) throws IOException {
        Files.writeString(folder.resolve(AdapterFiles.CONFIG), config);
        try (Model model = Subjects.model("llama", backend, DType.F32)) {
            assertRefused(model, message);
        }
    }

    // ---- targets

    static Stream<Arguments> targets() {
        String known = " (modules: down_proj, embed_tokens, gate_proj, input_layernorm, k_proj, lm_head, norm, o_proj, "
                + "post_attention_layernorm, q_proj, up_proj, v_proj)";
        return Stream.of(
                        Arguments.of(
                                Targets.of("q_poj", "v_proj"),
                                "target_modules [q_poj] match no module; did you mean q_proj?"),
                        Arguments.of(
                                Targets.of("up_prj", "q_proj", "dwn_proj"),
                                "target_modules [dwn_proj, up_prj] match no module; did you mean down_proj, up_proj?"),
                        // The names used by other families.
                        Arguments.of(
                                Targets.of("query", "attn.c_proj", "w_v"),
                                "target_modules [attn.c_proj, query, w_v] match no module; did you mean o_proj, q_proj, v_proj?"),
                        Arguments.of(
                                Targets.of("self_atn.k_proj", "mlp.gateproj"),
                                "target_modules [mlp.gateproj, self_atn.k_proj] match no module; did you mean "
                                        + "mlp.gate_proj, k_proj?"),
                        Arguments.of(Targets.of("zzzzzzz"), "target_modules [zzzzzzz] match no module"),
                        Arguments.of(
                                Targets.regex(".*w_q"), "target_modules \".*w_q\" match no module that may be adapted"),
                        Arguments.of(
                                Targets.regex("(q"), "target_modules: \"(q\" is no regular expression: Unclosed group"))
                .map(a -> Arguments.of(
                        a.get()[0], a.get()[1] + (a.get()[1].toString().endsWith("group") ? "" : known)));
    }

    @ParameterizedTest
    @MethodSource("targets")
    void targetsThatMatchNothing(Targets targets, String message) {
        try (Model model = Subjects.model("llama", backend, DType.F32);
                PeftModel peft = new PeftModel(model, 3)) {
            assertThatThrownBy(() -> peft.addAdapter("default", LORA.withTargets(targets)))
                    .isInstanceOf(InputException.class)
                    .hasMessage(message);
            assertThat(peft.adapters()).isEmpty();
        }
    }
}
