package dev.loran.peft.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.backend.UnaryFn;
import dev.loran.peft.Fixtures;
import dev.loran.peft.hf.HfModels;
import dev.loran.peft.io.InputException;
import java.io.IOException;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/// Config values that change what is computed are refused by name; harmless ones are not.
class HfConfigTest {
    @TempDir
    private Path temp;

    private Path changed(String family, String key, String json) throws IOException {
        JsonNode value = new ObjectMapper().readTree(json);
        return Fixtures.changed(temp, family, c -> c.set(key, value));
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            value = {
                "llama | model_type | \"mixtral\"",
                "llama | architectures | [\"LlamaForTokenClassification\"]",
                "llama | sliding_window | 4096",
                "llama | quantization_config | {\"bits\":4}",
                "llama | is_encoder_decoder | true",
                "llama | hidden_act | \"quick_gelu\"",
                "qwen3 | architectures | [\"Qwen3ForTokenClassification\"]",
                "gpt2 | add_cross_attention | true",
                "gpt2 | scale_attn_weights | false",
                "gpt2 | scale_attn_by_inverse_layer_idx | true",
                "gpt2 | activation_function | \"mish\"",
                "gpt2 | pruned_heads | {\"0\":[1]}",
                "bert | architectures | [\"BertForQuestionAnswering\"]",
                "bert | position_embedding_type | \"relative_key\"",
                "bert | is_decoder | true",
                "bert | add_cross_attention | true"
            })
    void valuesThatChangeTheNumbersAreRefused(String family, String key, String value) throws IOException {
        Path folder = changed(family, key, value);
        assertThatThrownBy(() -> HfModels.load(folder, new ReferenceBackend()))
                .isInstanceOf(InputException.class)
                .hasMessageStartingWith(folder.resolve("config.json") + ": " + key + " = " + value + " ")
                .hasMessageContaining("is not supported (supported: ");
    }

    @ParameterizedTest
    @CsvSource({
        "llama, vocab_size",
        "llama, hidden_size",
        "llama, intermediate_size",
        "llama, num_hidden_layers",
        "llama, num_attention_heads",
        "llama, num_key_value_heads",
        "llama, head_dim",
        "qwen3, num_hidden_layers",
        "qwen3, head_dim",
        "gpt2, vocab_size",
        "gpt2, n_positions",
        "gpt2, n_embd",
        "gpt2, n_layer",
        "gpt2, n_head",
        "gpt2, n_inner",
        "bert, vocab_size",
        "bert, hidden_size",
        "bert, num_hidden_layers",
        "bert, num_attention_heads",
        "bert, intermediate_size",
        "bert, max_position_embeddings",
        "bert, type_vocab_size",
    })
    void hugeSizesAreRefusedBeforeAnythingIsMadeOfThem(String family, String key) throws IOException {
        for (int size : new int[] {100_000_000, 1_500_000_000, Integer.MAX_VALUE - 1}) {
            Path folder = changed(family, key, String.valueOf(size));
            ReferenceBackend backend = new ReferenceBackend();
            assertThatThrownBy(() -> HfModels.load(folder, backend))
                    .as(key + " " + size)
                    .isInstanceOf(InputException.class)
                    .hasMessageStartingWith(folder.toString());
            assertThat(backend.liveBuffers()).isZero();
        }
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            value = {
                "llama | sliding_window | null",
                "llama | architectures | null",
                "llama | partial_rotary_factor | 1.0",
                "llama | attention_dropout | 0.5",
                "llama | num_key_value_heads | 2",
                "llama | something_of_tomorrow | 7",
                "gpt2 | reorder_and_upcast_attn | true",
                "gpt2 | resid_pdrop | 0.1",
                "gpt2 | activation_function | \"gelu_pytorch_tanh\"",
                "bert | position_embedding_type | \"absolute\"",
                "bert | problem_type | \"single_label_classification\"",
                "bert | pruned_heads | {}"
            })
    void harmlessValuesAreNot(String family, String key, String value) throws IOException {
        Path folder = changed(family, key, value);
        try (Model model = HfModels.load(folder, new ReferenceBackend())) {
            assertThat(model.facts().modelType()).isEqualTo(family);
        }
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            value = {
                "{\"rope_type\":\"su\",\"rope_theta\":1.0} | rope_type = \"su\"",
            })
    void ropeKindsAreRefusedByName(String rope, String said) throws IOException {
        Path folder = changed("llama", "rope_parameters", rope);
        assertThatThrownBy(() -> HfModels.load(folder, new ReferenceBackend()))
                .isInstanceOf(InputException.class)
                .hasMessageStartingWith(folder.resolve("config.json") + ": rope_parameters: " + said + " changes what");
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            value = {
                "llama | hidden_size | null | hidden_size is missing",
                "llama | hidden_size | \"32\" | hidden_size = \"32\" needs a whole number",
                "llama | rms_norm_eps | \"x\" | rms_norm_eps = \"x\" needs a number",
                "llama | mlp_bias | 1 | mlp_bias = 1 needs true or false",
                "llama | rope_parameters | 1 | rope_parameters = 1 needs an object",
                "llama | num_key_value_heads | 3 | num_attention_heads is 4, must be a multiple of num_key_value_heads 3",
                "llama | head_dim | 7 | head_dim is 7, must be even",
                "llama | num_hidden_layers | 0 | num_hidden_layers is 0, must be positive",
                "gpt2 | n_head | 5 | n_embd is 32, must be a multiple of n_head 5",
                "gpt2 | n_inner | -1 | n_inner is -1, must be positive",
                "bert | num_attention_heads | 0 | num_attention_heads is 0, must be positive",
            })
    void sizesThatCannotBeAreSaid(String family, String key, String value, String said) throws IOException {
        Path folder = changed(family, key, value);
        assertThatThrownBy(() -> HfModels.load(folder, new ReferenceBackend()))
                .isInstanceOf(InputException.class)
                .hasMessage(folder.resolve("config.json") + ": " + said);
    }

    @ParameterizedTest
    @CsvSource({
        "gelu, GELU",
        "gelu_python, GELU",
        "gelu_new, GELU_TANH",
        "gelu_pytorch_tanh, GELU_TANH",
        "gelu_fast, GELU_TANH",
        "silu, SILU",
        "swish, SILU",
        "relu, RELU",
        "tanh, TANH",
        "sigmoid, SIGMOID"
    })
    void activationsAreKnownByTheirNames(String name, UnaryFn fn) {
        assertThat(HfConfig.activation(name)).isEqualTo(fn);
    }

    @Test
    void anUnknownActivationIsRefused() {
        assertThatThrownBy(() -> HfConfig.activation("gelu_10"))
                .hasMessageStartingWith("activation: gelu_10 is not supported (supported: gelu, ");
    }
}
