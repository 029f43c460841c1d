package dev.loran.peft.model.decoder;

import dev.loran.peft.model.Family;
import dev.loran.peft.model.HfConfig;
import dev.loran.peft.model.decoder.Decoder.Plan;
import dev.loran.peft.model.decoder.Decoder.Scales;

/// Qwen 3: like Llama, but with a norm on each head's queries and keys, with an independently configured head width,
/// and with Qwen 2's sliding window. **Paper**: Yang et al., "Qwen3 Technical Report", 2025, section 2.
public final class Qwen3Model {
    /// The family's metadata.
    public static final Family FAMILY = LlamaParts.family("qwen3", "Qwen3", Qwen2Model.TARGETS, Qwen3Model::plan);

    private Qwen3Model() {}

    private static Plan plan(HfConfig config) {
        LlamaModel.Config c = LlamaModel.Config.read(config.or("head_dim", 128).or("max_position_embeddings", 32_768));
        int[] windows = Qwen2Model.windows(config, c.numHiddenLayers());
        boolean bias = c.attentionBias();
        return LlamaParts.plan("qwen3", c, Scales.NONE, (weights, layer, turning) -> {
            LlamaParts p = new LlamaParts(c, weights);
            return p.block(
                    p.attention(bias, bias, p.scoring(windows[layer]), turning, c.rope(), p.headNorms()),
                    p.feedForward());
        });
    }
}
