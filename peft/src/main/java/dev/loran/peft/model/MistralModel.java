package dev.loran.peft.model;

import dev.loran.peft.model.Decoder.Plan;
import dev.loran.peft.model.Decoder.Scales;
import java.util.List;
import java.util.Map;

/// Mistral: like Llama, but each query sees only the last `sliding_window` positions. **Paper**: Jiang et al., "Mistral
/// 7B", 2023, section 2.
public final class MistralModel {
    /// The family's metadata.
    public static final Family FAMILY = new Family(
            "mistral",
            "Mistral",
            LlamaParts.CLASSES,
            LlamaParts.PREFIX,
            LlamaParts.BUFFERS,
            Map.of(
                    "LORA",
                    List.of("q_proj", "v_proj"),
                    "IA3",
                    List.of("k_proj", "v_proj", "down_proj"),
                    Family.FEED_FORWARD,
                    List.of("down_proj"),
                    "LN_TUNING",
                    List.of("input_layernorm", "post_attention_layernorm", "norm")),
            (config, weights, labels) -> Decoder.of(MistralModel.FAMILY, plan(config), config, weights, labels));

    private MistralModel() {}

    private static Plan plan(HfConfig config) {
        LlamaModel.Config c =
                LlamaModel.Config.read(config.or("num_key_value_heads", 8).or("max_position_embeddings", 131_072));
        // Null means none; absence, the default.
        int window = config.json().has("sliding_window") ? config.integer("sliding_window", 0) : 4096;
        return LlamaParts.plan("mistral", c, Scales.NONE, (weights, layer, turning) -> {
            LlamaParts p = new LlamaParts(c, weights);
            return p.block(p.attention(false, false, p.scoring(window), turning, c.rope(), null), p.feedForward());
        });
    }
}
