package dev.loran.peft.model.decoder;

import dev.loran.peft.model.Family;
import dev.loran.peft.model.HfConfig;
import dev.loran.peft.model.decoder.Decoder.Plan;
import dev.loran.peft.model.decoder.Decoder.Scales;
import java.util.Map;

/// Phi 3 and Phi 4: like Llama, but with one layer for queries, keys and values and one for gate and up, without
/// biases, optionally with a sliding window and with LongRoPE. **Paper**: Abdin et al., "Phi-3 Technical Report", 2024.
public final class Phi3Model {
    /// The family's metadata.
    public static final Family FAMILY = LlamaParts.family("phi3", "Phi3", Map.of(), Phi3Model::plan);

    private Phi3Model() {}

    private static Plan plan(HfConfig config) {
        HfConfig all = config.or("max_position_embeddings", 4096)
                .or("original_max_position_embeddings", 4096)
                .or("rms_norm_eps", 1e-5);
        config.only("attention_bias", "false");
        config.only("mlp_bias", "false");
        LlamaModel.Config c = LlamaModel.Config.read(all);
        int window = config.integer("sliding_window", 0);
        return LlamaParts.plan("phi3", c, Scales.NONE, (weights, layer, turning) -> {
            LlamaParts p = new LlamaParts(c, weights);
            return p.block(p.fusedAttention(p.scoring(window), turning), p.fusedFeedForward());
        });
    }
}
