package dev.loran.peft.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.Fixtures;
import dev.loran.peft.hf.HfModels;
import dev.loran.peft.model.decoder.Gpt2Model;
import dev.loran.peft.model.decoder.LlamaModel;
import dev.loran.peft.model.decoder.SeoTransformer;
import dev.loran.peft.model.decoder.TransformerConfig;
import java.util.Arrays;
import java.util.Objects;
import org.junit.jupiter.api.Test;

/// Models with random weights: their number of parameters, and the distribution of these.
class RandomModelTest {
    private final ReferenceBackend backend = new ReferenceBackend();

    @Test
    void theSeoTransformerHasItsSize() {
        try (SeoTransformer model =
                SeoTransformer.random(new TransformerConfig(512, 6, 8, 10_000), backend, DType.F32, 1)) {
            long perLayer = 12 * 512 * 512 + 13 * 512;
            assertThat(model.parameterCount()).isEqualTo((10_000 + 512) * 512 + 6 * perLayer + 2 * 512);
            assertThat(model.parameterCount()).isBetween(23_500_000L, 24_500_000L);
            long lora = model.namedModules().entrySet().stream()
                    .filter(e -> e.getKey().matches(".*\\.w_[qkvo]"))
                    .mapToLong(
                            e -> 16L * (((Linear) e.getValue()).inFeatures() + ((Linear) e.getValue()).outFeatures()))
                    .sum();
            assertThat(lora).isEqualTo(393_216);
            assertThat(model.gradientCheckpointing()).isFalse();
        }
        TransformerConfig small = new TransformerConfig(8, 1, 2, 5).withGradientCheckpointing(true);
        try (SeoTransformer model = SeoTransformer.random(small, backend, DType.F32, 1)) {
            assertThat(model.gradientCheckpointing()).isTrue();
            assertThat(model.facts().maxPositions()).isEqualTo(512);
        }
    }

    @Test
    void weightsAreDrawnAsTheFamilyDoes() {
        try (Gpt2Model model = Gpt2Model.random(Gpt2Model.Config.of(512, 32, 64, 8, 4), backend, DType.F32, 3)) {
            assertThat(std(model, "transformer.wte.weight")).isCloseTo(0.02, within(0.0004));
            assertThat(std(model, "transformer.h.3.attn.c_attn.weight")).isCloseTo(0.02, within(0.0006));
            assertThat(std(model, "transformer.h.3.mlp.c_proj.weight")).isCloseTo(0.02 / 4, within(0.00015));
            assertThat(value(model, "transformer.h.3.attn.c_attn.bias").toFloats())
                    .containsOnly(0);
            assertThat(value(model, "transformer.ln_f.weight").toFloats()).containsOnly(1);
            assertThat(value(model, "transformer.ln_f.bias").toFloats()).containsOnly(0);
        }
    }

    private static Tensor value(Model model, String name) {
        return Objects.requireNonNull(model.namedParameters().get(name), name);
    }

    private static double std(Model model, String name) {
        double[] values = value(model, name).toDoubles();
        double mean = Arrays.stream(values).average().orElseThrow();
        assertThat(mean).isCloseTo(0, within(0.001));
        return Math.sqrt(Arrays.stream(values).map(x -> (x - mean) * (x - mean)).sum() / values.length);
    }

    @Test
    void theSeedDecides() {
        float[] one = head(1);
        assertThat(head(1)).isEqualTo(one);
        assertThat(head(2)).isNotEqualTo(one);
    }

    private float[] head(long seed) {
        LlamaModel.Config config = LlamaModel.Config.of(20, 8, 12, 1, 2, 16);
        try (LlamaModel model = LlamaModel.random(config, backend, DType.F32, seed)) {
            return value(model, "model.layers.0.mlp.down_proj.weight").toFloats();
        }
    }

    @Test
    void aFoldersConfigIsEnough() {
        try (Model model = HfModels.random(Fixtures.base("bert"), backend, DType.F32, 4);
                Model loaded = HfModels.load(Fixtures.base("bert"), backend)) {
            assertThat(model.namedParameters().keySet())
                    .isEqualTo(loaded.namedParameters().keySet());
            assertThat(value(model, "classifier.weight").toFloats())
                    .isNotEqualTo(value(loaded, "classifier.weight").toFloats());
        }
    }
}
