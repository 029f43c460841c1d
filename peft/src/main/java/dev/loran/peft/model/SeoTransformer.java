package dev.loran.peft.model;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Backend;
import dev.loran.engine.DType;
import dev.loran.engine.Functional;
import dev.loran.engine.Functional.NormedSum;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.nn.Embedding;
import dev.loran.engine.nn.LayerNorm;
import dev.loran.engine.nn.Linear;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import org.jspecify.annotations.Nullable;

/// A small causal model to be trained from random weights on SEO text: pre-norm blocks with learned positions, GELU
/// network of 4 · hiddenSize, head tied to the token table. Its adapters' targets are `w_q w_k w_v w_o`.
public final class SeoTransformer extends Model {
    private static final double EPS = 1e-5;
    private static final double STD = 0.02;

    private TransformerConfig config;
    private final Embedding tokenEmbedding;
    private final Embedding positionEmbedding;
    private final List<Block> layers = new ArrayList<>();
    private final LayerNorm norm;
    private final @Nullable Linear lmHead;

    /// @param isTied whether the head is the token table, as it is unless an adapter was merged into one of the two
    /// @param labels classes of a classification head, which then stands in the place of the other; 0 for none
    SeoTransformer(TransformerConfig config, Weights w, boolean isTied, int labels) {
        this.config = config;
        int hidden = config.hiddenSize();
        tokenEmbedding = child("token_embedding", w.embedding("token_embedding", config.vocabSize(), hidden, STD));
        positionEmbedding =
                child("position_embedding", w.embedding("position_embedding", config.maxPositions(), hidden, STD));
        for (int i = 0; i < config.numLayers(); i++) {
            layers.add(child("layers." + i, new SeoBlock(config, w.under("layers." + i))));
        }
        norm = child("norm", w.layerNorm("norm", hidden, EPS));
        lmHead = labels > 0
                ? null
                : child(
                        "lm_head",
                        isTied
                                ? new Linear(tokenEmbedding.weight(), null, false)
                                : w.linear("lm_head", hidden, config.vocabSize(), false, STD));
        if (labels > 0) {
            classifier(w.linear(classifierName(), hidden, labels, false, STD));
        }
        gradientCheckpointing(config.gradientCheckpointing());
    }

    /// A model with random weights: tables and linear layers from N(0, 0.02²), those that write to the residual stream
    /// divided by √(2 · layers), norms as the identity, biases zero.
    public static SeoTransformer random(TransformerConfig config, Backend backend, DType dtype, long seed) {
        return new SeoTransformer(config, Weights.random(backend, dtype, seed), true, 0);
    }

    /// One block: x + attention(norm(x)), then the same with the feed-forward network.
    private static final class SeoBlock extends Block {
        private final int headDim;
        private final LayerNorm attentionNorm;
        private final Linear wQ;
        private final Linear wK;
        private final Linear wV;
        private final Linear wO;
        private final LayerNorm mlpNorm;
        private final Linear up;
        private final Linear down;

        SeoBlock(TransformerConfig c, Weights w) {
            int hidden = c.hiddenSize();
            double residualStd = STD / Math.sqrt(2 * c.numLayers());
            headDim = hidden / c.numHeads();
            attentionNorm = child("attention_norm", w.layerNorm("attention_norm", hidden, EPS));
            wQ = child("attention.w_q", w.linear("attention.w_q", hidden, hidden, true, STD));
            wK = child("attention.w_k", w.linear("attention.w_k", hidden, hidden, true, STD));
            wV = child("attention.w_v", w.linear("attention.w_v", hidden, hidden, true, STD));
            wO = child("attention.w_o", w.linear("attention.w_o", hidden, hidden, true, residualStd));
            mlpNorm = child("mlp_norm", w.layerNorm("mlp_norm", hidden, EPS));
            up = child("mlp.up", w.linear("mlp.up", hidden, 4 * hidden, true, STD));
            down = child("mlp.down", w.linear("mlp.down", 4 * hidden, hidden, true, residualStd));
        }

        @Override
        protected Tensor forward(Tensor x, @Nullable Tensor mask, @Nullable Prefix prefix) {
            try (Scope scope = Scope.open()) {
                Tensor a = attentionNorm.forward(x);
                NormedSum attended = mlpNorm.forward(x, adaptAttention(attention(a, mask, prefix), a));
                Tensor m = attended.norm();
                return scope.keep(attended.sum().add(adaptFeedForward(feedForward(m), m)));
            }
        }

        private Tensor attention(Tensor x, @Nullable Tensor mask, @Nullable Prefix prefix) {
            List<Tensor> qkv = Linear.forward(x, List.of(wQ, wK, wV));
            Tensor q = heads(qkv.get(0), headDim);
            Tensor k = heads(qkv.get(1), headDim);
            Tensor v = heads(qkv.get(2), headDim);
            return wO.forward(attend(q, k, v, mask, prefix, true));
        }

        private Tensor feedForward(Tensor x) {
            return down.forward(Functional.gelu(up.forward(x)));
        }
    }

    @Override
    Tensor embed(Tensor words, int from) {
        return words.add(positionEmbedding.forward(positions(words, from)));
    }

    @Override
    Tensor finish(Tensor x) {
        return norm.forward(x);
    }

    @Override
    @Nullable
    Linear head() {
        return lmHead;
    }

    @Override
    public Facts facts() {
        return new Facts(
                "seo",
                config.hiddenSize(),
                config.numLayers(),
                config.numHeads(),
                config.numHeads(),
                config.hiddenSize() / config.numHeads(),
                config.vocabSize(),
                config.maxPositions());
    }

    public TransformerConfig config() {
        return config;
    }

    @Override
    void vocabSize(int rows) {
        config = config.withVocabSize(rows);
    }

    @Override
    ObjectNode configJson() {
        ObjectNode json = config.json();
        return lmHead == null || lmHead.weight() == tokenEmbedding.weight()
                ? json
                : json.put("tie_word_embeddings", false);
    }

    @Override
    public List<Block> blocks() {
        return Collections.unmodifiableList(layers);
    }

    @Override
    public Embedding tokenEmbedding() {
        return tokenEmbedding;
    }
}
