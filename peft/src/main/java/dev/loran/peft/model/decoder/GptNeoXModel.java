package dev.loran.peft.model.decoder;

import dev.loran.engine.backend.AttentionKernels.Scoring;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.model.Attention;
import dev.loran.peft.model.Block;
import dev.loran.peft.model.Family;
import dev.loran.peft.model.FeedForward;
import dev.loran.peft.model.HfConfig;
import dev.loran.peft.model.Model.Facts;
import dev.loran.peft.model.Norm;
import dev.loran.peft.model.Parts;
import dev.loran.peft.model.ResidualBlock;
import dev.loran.peft.model.Rope;
import dev.loran.peft.model.Weights;
import dev.loran.peft.model.decoder.Decoder.Names;
import dev.loran.peft.model.decoder.Decoder.Plan;
import dev.loran.peft.model.decoder.Decoder.Scales;
import dev.loran.peft.model.decoder.Decoder.Turning;
import java.util.List;
import java.util.Map;

/// GPT-NeoX and Pythia: attention and the feed-forward network read the same input, only a part of each head rotates,
/// and one layer computes query, key and value head by head. **Paper**: Black et al., "GPT-NeoX-20B", 2022, section
/// 2.1.
public final class GptNeoXModel {
    /// The family's metadata.
    public static final Family FAMILY = new Family(
            "gpt_neox",
            "GPTNeoX",
            List.of("ForCausalLM", "Model", "ForSequenceClassification"),
            "gpt_neox.",
            "(gpt_neox\\.)?layers\\.\\d+\\.attention\\.(bias|masked_bias|rotary_emb\\.inv_freq)",
            Map.of(
                    "LORA",
                    List.of("query_key_value"),
                    "IA3",
                    List.of("query_key_value", "dense_4h_to_h"),
                    Family.FEED_FORWARD,
                    List.of("dense_4h_to_h")),
            (config, weights, labels) -> Decoder.of(GptNeoXModel.FAMILY, plan(config), config, weights, labels));

    private GptNeoXModel() {}

    /// The sizes, under Hugging Face's names.
    private record Sizes(
            Facts facts,
            int intermediateSize,
            String hiddenAct,
            double layerNormEps,
            boolean attentionBias,
            boolean useParallelResidual,
            Rope rope,
            double initializerRange) {
        static Sizes read(HfConfig c) {
            int hidden = c.integer("hidden_size");
            int heads = c.integer("num_attention_heads");
            HfConfig.positive("hidden_size", hidden);
            HfConfig.divides("num_attention_heads", heads, "hidden_size", hidden);
            HfConfig.product("hidden_size", hidden, "three, for queries, keys and values,", 3);
            int layers = c.integer("num_hidden_layers");
            int positions = c.integer("max_position_embeddings", 2048);
            int inner = c.integer("intermediate_size");
            HfConfig.positive("num_hidden_layers", layers);
            HfConfig.positive("max_position_embeddings", positions);
            HfConfig.positive("intermediate_size", inner);
            int vocabulary = c.integer("vocab_size");
            HfConfig.positive("vocab_size", vocabulary);
            // Earlier versions of transformers name these two differently.
            Rope rope = Rope.read(c.or("rope_theta", c.number("rotary_emb_base", 10_000))
                    .or("partial_rotary_factor", c.number("rotary_pct", 0.25)));
            int headDim = hidden / heads;
            if (rope.width(headDim) % 2 != 0) {
                throw new IllegalArgumentException("partial_rotary_factor rotates " + rope.width(headDim) + " of "
                        + headDim + " channels of a head, must rotate an even number");
            }
            return new Sizes(
                    new Facts("gpt_neox", hidden, layers, heads, heads, headDim, vocabulary, positions),
                    inner,
                    c.activationName("hidden_act", "gelu"),
                    c.number("layer_norm_eps", 1e-5),
                    c.flag("attention_bias", true),
                    c.flag("use_parallel_residual", true),
                    rope,
                    c.number("initializer_range", 0.02));
        }
    }

    private static Plan plan(HfConfig config) {
        Sizes s = Sizes.read(config);
        return new Plan(
                s.facts,
                s.initializerRange,
                new Names("embed_in", null, "layers", "embed_out"),
                config.flag("tie_word_embeddings", false),
                Scales.NONE,
                parts -> parts.layerNorm("final_layer_norm", s.facts.hiddenSize(), s.layerNormEps),
                (weights, layer, turning) -> block(s, weights, turning));
    }

    private static Block block(Sizes s, Weights weights, Turning turning) {
        Parts p = new Parts(weights, s.initializerRange);
        int hidden = s.facts.hiddenSize();
        int headDim = s.facts.headDim();
        Norm attentionNorm = p.layerNorm("input_layernorm", hidden, s.layerNormEps);
        Norm feedForwardNorm = p.layerNorm("post_attention_layernorm", hidden, s.layerNormEps);
        Linear qkv = p.linear("attention.query_key_value", hidden, 3 * hidden, s.attentionBias);
        Linear out = p.linear("attention.dense", hidden, hidden, s.attentionBias);
        Attention attention = new Attention(
                Attention.headByHead(qkv, headDim),
                out,
                headDim,
                new Scoring(true, 1 / Math.sqrt(headDim)),
                null,
                turning.by(s.rope),
                null);
        Linear up = p.linear("mlp.dense_h_to_4h", hidden, s.intermediateSize, true);
        Linear down = p.linear("mlp.dense_4h_to_h", s.intermediateSize, hidden, true);
        FeedForward feedForward = new FeedForward(List.of(up), down, HfConfig.activation(s.hiddenAct));
        return s.useParallelResidual
                ? new ParallelBlock(p, attentionNorm, attention, feedForwardNorm, feedForward)
                : new ResidualBlock(p, attentionNorm, attention, feedForwardNorm, feedForward);
    }
}
