package dev.loran.peft.model.decoder;

import dev.loran.peft.model.Family;
import dev.loran.peft.model.HfConfig;
import dev.loran.peft.model.decoder.Decoder.Plan;
import dev.loran.peft.model.decoder.Decoder.Scales;

/// Mistral: like Llama, but each query sees only the last `sliding_window` positions. **Paper**: Jiang et al., "Mistral
/// 7B", 2023, section 2.
public final class MistralModel {
    /// The family's metadata.
    public static final Family FAMILY = LlamaParts.family("mistral", "Mistral", LlamaModel.TARGETS, MistralModel::plan);

    private MistralModel() {}

    private static Plan plan(HfConfig config) {
        LlamaModel.Config c =
                LlamaModel.Config.read(config.or("num_key_value_heads", 8).or("max_position_embeddings", 131_072));
        int window = config.unlessNull("sliding_window", 4096);
        return LlamaParts.plan("mistral", c, Scales.NONE, (weights, layer, turning) -> {
            LlamaParts p = new LlamaParts(c, weights);
            return p.block(p.attention(false, false, p.scoring(window), turning, c.rope(), null), p.feedForward());
        });
    }
}
