package dev.loran.peft.model.decoder;

import dev.loran.engine.backend.AttentionKernels.Scoring;
import dev.loran.peft.model.Attention;
import dev.loran.peft.model.Block;
import dev.loran.peft.model.Family;
import dev.loran.peft.model.FeedForward;
import dev.loran.peft.model.HfConfig;
import dev.loran.peft.model.Norm;
import dev.loran.peft.model.ResidualBlock;
import dev.loran.peft.model.ResidualBlock.Norms;
import dev.loran.peft.model.Rope;
import dev.loran.peft.model.Weights;
import dev.loran.peft.model.decoder.Decoder.BlockMaker;
import dev.loran.peft.model.decoder.Decoder.Plan;
import dev.loran.peft.model.decoder.Decoder.Scales;
import dev.loran.peft.model.decoder.Decoder.Turning;
import dev.loran.peft.model.decoder.LlamaModel.Config;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/// What Gemma 2 and 3 share: norms that multiply by 1 + weight, before and after each sublayer, and the sizes.
final class GemmaParts {
    /// What methods adapt by default, as in [Family#targets].
    static final Map<String, List<String>> TARGETS = Map.of(
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
                    "norm"));

    private final Config c;
    private final LlamaParts llama;

    /// @param window of the layers that have one; 0 if there is none
    /// @param scale factor of attention scores
    record Sizes(Config llama, int window, double scale) {}

    /// @param weights those of one block
    GemmaParts(Sizes sizes, Weights weights) {
        c = sizes.llama;
        llama = new LlamaParts(c, weights);
    }

    static Sizes read(HfConfig config, int maxPositions) {
        config.only("use_bidirectional_attention", "false");
        // The activation's name has a key of its own, and that of other families may be present too.
        HfConfig all = config.with("hidden_act", HfConfig.object().textNode("gelu_pytorch_tanh"))
                .or("head_dim", 256)
                .or("max_position_embeddings", maxPositions)
                .or("tie_word_embeddings", true);
        if (config.has("hidden_activation")) {
            all = all.with("hidden_act", HfConfig.object().textNode(config.activationName("hidden_activation", "")));
        }
        double scale = 1 / Math.sqrt(config.number("query_pre_attn_scalar", 256));
        int window = config.unlessNull("sliding_window", 4096);
        return new Sizes(Config.read(all), window, scale);
    }

    static Plan plan(String modelType, Sizes sizes, double logitCap, BlockMaker block) {
        Config c = sizes.llama;
        // In F32, as the reference implementation has it.
        Scales scales = new Scales((float) Math.sqrt(c.hiddenSize()), 1, 1, logitCap);
        return LlamaParts.plan(
                modelType, c, scales, parts -> parts.rmsNormAddingOne("norm", c.hiddenSize(), c.rmsNormEps()), block);
    }

    Attention.Norms headNorms() {
        return new Attention.Norms(norm("self_attn.q_norm", c.headDim()), norm("self_attn.k_norm", c.headDim()));
    }

    private Norm norm(String name, int size) {
        return llama.parts().rmsNormAddingOne(name, size, c.rmsNormEps());
    }

    Block block(Scoring scoring, Turning turning, Rope rope, Attention.@Nullable Norms norms) {
        boolean bias = c.attentionBias();
        Attention attention = llama.attention(bias, bias, scoring, turning, rope, norms);
        FeedForward feedForward = llama.feedForward();
        int hidden = c.hiddenSize();
        return new ResidualBlock(
                llama.parts(),
                new Norms(norm("input_layernorm", hidden), norm("post_attention_layernorm", hidden)),
                attention,
                new Norms(norm("pre_feedforward_layernorm", hidden), norm("post_feedforward_layernorm", hidden)),
                feedForward,
                1);
    }
}
