package dev.loran.peft.model;

import dev.loran.engine.backend.AttentionKernels.Scoring;
import dev.loran.peft.model.Decoder.Plan;
import java.util.List;
import java.util.Map;

/// Gemma 2: norms that multiply by 1 + weight before and after each sublayer, token embeddings multiplied by √C, soft
/// caps on attention scores and logits, and alternately layers with a sliding window and without. **Paper**: Gemma
/// Team, "Gemma 2", 2024, section 2.
public final class Gemma2Model {
    /// The family's metadata.
    public static final Family FAMILY = new Family(
            "gemma2",
            "Gemma2",
            LlamaParts.CLASSES,
            LlamaParts.PREFIX,
            LlamaParts.BUFFERS,
            Map.of(
                    "LORA",
                    List.of("q_proj", "v_proj"),
                    "IA3",
                    List.of("q_proj", "v_proj", "down_proj"),
                    Family.FEED_FORWARD,
                    List.of("down_proj"),
                    "LN_TUNING",
                    List.of(
                            "input_layernorm",
                            "post_attention_layernorm",
                            "pre_feedforward_layernorm",
                            "post_feedforward_layernorm",
                            "norm")),
            (config, weights, labels) -> Decoder.of(Gemma2Model.FAMILY, plan(config), config, weights, labels));

    private Gemma2Model() {}

    private static Plan plan(HfConfig config) {
        GemmaParts.Sizes sizes = GemmaParts.read(config, 8192);
        int layers = sizes.llama().numHiddenLayers();
        int[] windows = LlamaParts.windows(config, layers, sizes.window(), layer -> layer % 2 == 0);
        double scoreCap = config.json().has("attn_logit_softcapping") ? config.number("attn_logit_softcapping", 0) : 50;
        double logitCap =
                config.json().has("final_logit_softcapping") ? config.number("final_logit_softcapping", 0) : 30;
        Rope rope = sizes.llama().rope();
        return GemmaParts.plan("gemma2", sizes, logitCap, (weights, layer, turning) -> {
            GemmaParts p = new GemmaParts(sizes, weights);
            return p.block(new Scoring(true, windows[layer], sizes.scale(), scoreCap), turning, rope, null);
        });
    }
}
