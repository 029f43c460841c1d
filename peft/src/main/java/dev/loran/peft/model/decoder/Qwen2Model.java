package dev.loran.peft.model.decoder;

import dev.loran.peft.model.Family;
import dev.loran.peft.model.HfConfig;
import dev.loran.peft.model.decoder.Decoder.Plan;
import dev.loran.peft.model.decoder.Decoder.Scales;
import java.util.List;
import java.util.Map;

/// Qwen 2 and 2.5: like Llama, but with biases in the projections to queries, keys and values, and, where the config
/// says so, a sliding window in the upper layers. **Paper**: Yang et al., "Qwen2 Technical Report", 2024, section 2.2.
public final class Qwen2Model {
    /// What methods adapt by default, as in [Family#targets].
    static final Map<String, List<String>> TARGETS = Map.of(
            "LORA",
            List.of("q_proj", "v_proj"),
            "IA3",
            List.of("q_proj", "v_proj", "down_proj"),
            Family.FEED_FORWARD,
            List.of("down_proj"),
            "LN_TUNING",
            List.of("post_attention_layernorm"));

    /// The family's metadata.
    public static final Family FAMILY = LlamaParts.family("qwen2", "Qwen2", TARGETS, Qwen2Model::plan);

    private Qwen2Model() {}

    private static Plan plan(HfConfig config) {
        LlamaModel.Config c = LlamaModel.Config.read(config.or("max_position_embeddings", 32_768));
        int[] windows = windows(config, c.numHiddenLayers());
        return LlamaParts.plan("qwen2", c, Scales.NONE, (weights, layer, turning) -> {
            LlamaParts p = new LlamaParts(c, weights);
            return p.block(
                    p.attention(true, false, p.scoring(windows[layer]), turning, c.rope(), null), p.feedForward());
        });
    }

    /// The window of each layer: by default that of layers from `max_window_layers` on.
    static int[] windows(HfConfig config, int layers) {
        int window = config.flag("use_sliding_window", false) ? config.integer("sliding_window", 4096) : 0;
        int first = config.integer("max_window_layers", 28);
        return LlamaParts.windows(config, layers, window, layer -> layer >= first);
    }
}
