package dev.loran.peft.model.decoder;

import dev.loran.peft.model.Attention;
import dev.loran.peft.model.Family;
import dev.loran.peft.model.FeedForward;
import dev.loran.peft.model.HfConfig;
import dev.loran.peft.model.ResidualBlock;
import dev.loran.peft.model.ResidualBlock.Norms;
import dev.loran.peft.model.decoder.Decoder.Plan;
import dev.loran.peft.model.decoder.Decoder.Scales;
import java.util.Map;

/// OLMo 2: like Llama, but with norms after the sublayers instead of before them, and with norms of queries and keys
/// over all heads together. **Paper**: OLMo Team, "2 OLMo 2 Furious", 2025, section 3.2.
public final class Olmo2Model {
    /// The family's metadata.
    public static final Family FAMILY = LlamaParts.family("olmo2", "Olmo2", Map.of(), Olmo2Model::plan);

    private Olmo2Model() {}

    private static Plan plan(HfConfig config) {
        LlamaModel.Config c = LlamaModel.Config.read(config.or("rms_norm_eps", 1e-5));
        boolean bias = c.attentionBias();
        config.only("mlp_bias", "false");
        return LlamaParts.plan("olmo2", c, Scales.NONE, (weights, layer, turning) -> {
            LlamaParts p = new LlamaParts(c, weights);
            Attention.Norms norms = new Attention.Norms(
                    p.parts().rmsNorm("self_attn.q_norm", c.numAttentionHeads() * c.headDim(), c.rmsNormEps()),
                    p.parts().rmsNorm("self_attn.k_norm", c.numKeyValueHeads() * c.headDim(), c.rmsNormEps()));
            Attention attention = p.attention(bias, bias, p.scoring(0), turning, c.rope(), norms);
            FeedForward feedForward = p.feedForward();
            return new ResidualBlock(
                    p.parts(),
                    new Norms(null, p.norm("post_attention_layernorm")),
                    attention,
                    new Norms(null, p.norm("post_feedforward_layernorm")),
                    feedForward,
                    1);
        });
    }
}
