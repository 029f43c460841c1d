package dev.loran.peft.model.encoder;

import dev.loran.engine.nn.Embedding;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.model.Attention;
import dev.loran.peft.model.Block;
import dev.loran.peft.model.Family;
import dev.loran.peft.model.FeedForward;
import dev.loran.peft.model.HfConfig;
import dev.loran.peft.model.Model.Facts;
import dev.loran.peft.model.Norm;
import dev.loran.peft.model.Parts;
import dev.loran.peft.model.Weights;
import java.util.List;

/// The sizes of an encoder like BERT.
///
/// @param inner width of the feed-forward network
/// @param activation the name of its activation
/// @param eps that of all norms
/// @param std standard deviation of random weights
record Sizes(
        int vocab,
        int hidden,
        int layers,
        int heads,
        int inner,
        int positions,
        String activation,
        double eps,
        double std) {
    Sizes {
        HfConfig.positive("vocab_size", vocab);
        HfConfig.positive("hidden_size", hidden);
        HfConfig.positive("num_hidden_layers", layers);
        HfConfig.divides("num_attention_heads", heads, "hidden_size", hidden);
        HfConfig.positive("intermediate_size", inner);
        HfConfig.positive("max_position_embeddings", positions);
        HfConfig.activation(activation);
    }

    /// Reads BERT's spelling, and rejects what makes a decoder of an encoder.
    static Sizes read(HfConfig c) {
        c.only("position_embedding_type", "\"absolute\"");
        c.only("is_decoder", "false");
        c.only("add_cross_attention", "false");
        return new Sizes(
                c.integer("vocab_size"),
                c.integer("hidden_size"),
                c.integer("num_hidden_layers"),
                c.integer("num_attention_heads"),
                c.integer("intermediate_size"),
                c.integer("max_position_embeddings", 512),
                c.activationName("hidden_act", "gelu"),
                c.number("layer_norm_eps", 1e-12),
                c.number("initializer_range", 0.02));
    }

    int headDim() {
        return hidden / heads;
    }

    /// @param maxPositions the longest text
    Facts facts(Family family, int maxPositions) {
        HfConfig.positive("max_position_embeddings", maxPositions);
        return new Facts(family.modelType(), hidden, layers, heads, heads, headDim(), vocab, maxPositions);
    }

    /// Tables as BERT names them.
    ///
    /// @param types rows of the table of token types; 0 for none
    /// @param padding as in [Encoder.Input]
    Encoder.Input input(Parts p, int types, int padding) {
        Embedding words = p.embedding("embeddings.word_embeddings", vocab, hidden);
        Embedding at = p.embedding("embeddings.position_embeddings", positions, hidden);
        Embedding kinds = types == 0 ? null : p.embedding("embeddings.token_type_embeddings", types, hidden);
        return new Encoder.Input(
                words, at, kinds, p.layerNorm("embeddings.LayerNorm", hidden, eps), null, padding, null);
    }

    /// BERT's block.
    Block block(Weights weights) {
        Parts p = new Parts(weights, std);
        List<Linear> qkv = List.of(
                p.linear("attention.self.query", hidden, hidden, true),
                p.linear("attention.self.key", hidden, hidden, true),
                p.linear("attention.self.value", hidden, hidden, true));
        Linear out = p.linear("attention.output.dense", hidden, hidden, true);
        Attention attention = new Attention(qkv, out, headDim(), false, null, null);
        return block(p, attention::forward, p.layerNorm("attention.output.LayerNorm", hidden, eps));
    }

    /// A block with the feed-forward network of BERT's.
    Block block(Parts p, PostNormBlock.Attending attention, Norm attentionNorm) {
        Linear up = p.linear("intermediate.dense", hidden, inner, true);
        Linear down = p.linear("output.dense", inner, hidden, true);
        Norm norm = p.layerNorm("output.LayerNorm", hidden, eps);
        FeedForward network = new FeedForward(List.of(up), down, HfConfig.activation(activation));
        return new PostNormBlock(p, attention, attentionNorm, network, norm);
    }
}
