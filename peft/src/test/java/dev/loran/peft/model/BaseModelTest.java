package dev.loran.peft.model;

import static org.assertj.core.api.Assertions.assertThat;

import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.io.SafeTensors;
import dev.loran.peft.Fixtures;
import dev.loran.peft.hf.HfModels;
import java.io.IOException;
import java.nio.file.Path;
import java.util.Arrays;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/// Compares the base models with Hugging Face's outputs (`fixtures/models/README.md`).
class BaseModelTest {
    private final ReferenceBackend backend = new ReferenceBackend();

    @TempDir
    private Path temp;

    @AfterEach
    void nothingIsLeft() {
        assertThat(backend.liveBuffers()).isZero();
    }

    @ParameterizedTest
    @CsvSource({
        "llama, F64, 1e-6",
        "gpt2, F64, 1e-9",
        "bert, F64, 1e-9",
        "llama, F32, 1e-5",
        "gpt2, F32, 1e-5",
        "bert, F32, 1e-5"
    })
    void answersAsTheReferenceDoes(String family, DType dtype, double tolerance) {
        compare(family, Fixtures.base(family), dtype, tolerance);
    }

    @Test
    void ropeStretchedByAFactor() throws IOException {
        Path folder = Fixtures.changed(
                temp,
                "llama",
                c -> c.putObject("rope_parameters")
                        .put("rope_type", "linear")
                        .put("rope_theta", 1000.0)
                        .put("factor", 4.0));
        compare("llama_linear", folder, DType.F64, 1e-6);
    }

    @Test
    void ropeOfLlama3() throws IOException {
        Path folder = Fixtures.changed(
                temp,
                "llama",
                c -> c.putObject("rope_parameters")
                        .put("rope_type", "llama3")
                        .put("rope_theta", 500.0)
                        .put("factor", 8.0)
                        .put("low_freq_factor", 1.0)
                        .put("high_freq_factor", 4.0)
                        .put("original_max_position_embeddings", 64));
        compare("llama_llama3", folder, DType.F64, 1e-6);
    }

    @Test
    void ropeAsTransformers4WroteIt() throws IOException {
        Path folder = Fixtures.changed(temp, "llama", c -> {
            c.remove("rope_parameters");
            c.put("rope_theta", 500.0)
                    .putObject("rope_scaling")
                    .put("type", "llama3")
                    .put("factor", 8.0)
                    .put("low_freq_factor", 1.0)
                    .put("high_freq_factor", 4.0)
                    .put("original_max_position_embeddings", 64);
        });
        compare("llama_llama3", folder, DType.F64, 1e-6);
    }

    @Test
    void encoderWithoutItsHead() throws IOException {
        Path folder = Fixtures.encoder(temp);
        compare("bert_encoder", folder, DType.F64, 1e-9);
    }

    private void compare(String name, Path folder, DType dtype, double tolerance) {
        try (Scope scope = Scope.open();
                SafeTensors io = SafeTensors.open(Fixtures.root("models").resolve(name + ".safetensors"));
                Model model = HfModels.load(folder, backend, dtype);
                Tensor ids = io.tensor(backend, "input_ids", DType.I32);
                Tensor mask = io.tensor(backend, "attention_mask", DType.I32);
                Tensor hidden = io.tensor(backend, "hidden", DType.F64)) {
            assertNear(model.hidden(ids, mask), hidden, tolerance);
            if (model.task() != TaskType.FEATURE_EXTRACTION) {
                try (Tensor logits = io.tensor(backend, "logits", DType.F64)) {
                    assertNear(model.logits(ids, mask), logits, tolerance);
                }
            }
        }
    }

    private static void assertNear(Tensor actual, Tensor expected, double tolerance) {
        assertThat(actual.shape()).isEqualTo(expected.shape());
        double[] a = actual.toDoubles();
        double[] e = expected.toDoubles();
        double largest = Arrays.stream(e).map(Math::abs).max().orElseThrow();
        assertThat(largest).isGreaterThan(1e-3);
        for (int i = 0; i < a.length; i++) {
            assertThat(Math.abs(a[i] - e[i])).as("element " + i).isLessThanOrEqualTo(tolerance * largest);
        }
    }
}
