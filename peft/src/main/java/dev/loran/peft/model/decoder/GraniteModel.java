package dev.loran.peft.model.decoder;

import dev.loran.engine.backend.AttentionKernels.Scoring;
import dev.loran.peft.model.Family;
import dev.loran.peft.model.HfConfig;
import dev.loran.peft.model.decoder.Decoder.Plan;
import dev.loran.peft.model.decoder.Decoder.Scales;
import java.util.Map;

/// Granite 3: like Llama, with configured factors of embeddings, attention scores, what each sublayer adds, and logits.
/// **Paper**: Granite Team, "Granite 3.0 Language Models", 2024; the factors: Yang et al., "Tensor Programs V", 2022.
public final class GraniteModel {
    /// The family's metadata.
    public static final Family FAMILY = LlamaParts.family("granite", "Granite", Map.of(), GraniteModel::plan);

    private GraniteModel() {}

    private static Plan plan(HfConfig config) {
        LlamaModel.Config c = LlamaModel.Config.read(config);
        double scale = config.number("attention_multiplier", 1);
        double residual = config.number("residual_multiplier", 1);
        double words = config.number("embedding_multiplier", 1);
        double logits = 1 / config.number("logits_scaling", 1);
        boolean bias = c.attentionBias();
        return LlamaParts.plan("granite", c, new Scales(1, words, logits, 0), (weights, layer, turning) -> {
            LlamaParts p = new LlamaParts(c, weights);
            Scoring scoring = new Scoring(true, scale);
            return p.block(p.attention(bias, bias, scoring, turning, c.rope(), null), p.feedForward(), residual);
        });
    }
}
