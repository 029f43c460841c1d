package dev.loran.peft.model;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Backend;
import dev.loran.engine.DType;
import dev.loran.engine.Functional;
import dev.loran.engine.Functional.NormedSum;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.UnaryFn;
import dev.loran.engine.nn.Embedding;
import dev.loran.engine.nn.LayerNorm;
import dev.loran.engine.nn.Linear;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import org.jspecify.annotations.Nullable;

/// GPT-2: a causal model of pre-norm blocks with learned positions; one layer makes queries, keys and values, and the
/// head is the token table. Its linear layers are transposed in files. **Paper**: Radford et al., "Language Models are
/// Unsupervised Multitask Learners", 2019.
public final class Gpt2Model extends Model {
    private Config config;
    private final Embedding wte;
    private final Embedding wpe;
    private final List<Block> h = new ArrayList<>();
    private final LayerNorm lnF;
    private final @Nullable Linear lmHead;

    /// The sizes, in Hugging Face's words.
    ///
    /// @param nInner width of the feed-forward network; 4 · nEmbd by default
    /// @param activationFunction the activation's name
    /// @param tieWordEmbeddings whether the head is the token table
    /// @param initializerRange standard deviation of random weights
    public record Config(
            int vocabSize,
            int nPositions,
            int nEmbd,
            int nLayer,
            int nHead,
            int nInner,
            String activationFunction,
            double layerNormEpsilon,
            boolean tieWordEmbeddings,
            double initializerRange) {
        public Config {
            HfConfig.positive("vocab_size", vocabSize);
            HfConfig.positive("n_positions", nPositions);
            HfConfig.positive("n_embd", nEmbd);
            HfConfig.positive("n_layer", nLayer);
            HfConfig.divides("n_head", nHead, "n_embd", nEmbd);
            HfConfig.positive("n_inner", nInner);
            HfConfig.product("n_embd", nEmbd, "three, for queries, keys and values,", 3);
            HfConfig.activation(activationFunction);
        }

        /// A model of these sizes with GPT-2's defaults: a feed-forward network of 4 · nEmbd, gelu_new, norm eps 1e-5,
        /// tied head.
        public static Config of(int vocabSize, int nPositions, int nEmbd, int nLayer, int nHead) {
            return new Config(vocabSize, nPositions, nEmbd, nLayer, nHead, 4 * nEmbd, "gelu_new", 1e-5, true, 0.02);
        }

        static Config read(HfConfig c) {
            c.only("architectures", "[\"GPT2LMHeadModel\"]", "[\"GPT2Model\"]", "[\"GPT2ForSequenceClassification\"]");
            c.only("add_cross_attention", "false");
            c.only("scale_attn_weights", "true");
            c.only("scale_attn_by_inverse_layer_idx", "false");
            int width = c.integer("n_embd");
            return new Config(
                    c.integer("vocab_size"),
                    c.integer("n_positions", 1024),
                    width,
                    c.integer("n_layer"),
                    c.integer("n_head"),
                    c.has("n_inner") ? c.integer("n_inner") : HfConfig.product("n_embd", width, "n_inner's", 4),
                    c.activationName("activation_function", "gelu_new"),
                    c.number("layer_norm_epsilon", 1e-5),
                    c.flag("tie_word_embeddings", true),
                    c.number("initializer_range", 0.02));
        }

        private Config withVocabSize(int rows) {
            return new Config(
                    rows,
                    nPositions,
                    nEmbd,
                    nLayer,
                    nHead,
                    nInner,
                    activationFunction,
                    layerNormEpsilon,
                    tieWordEmbeddings,
                    initializerRange);
        }

        ObjectNode json(boolean head) {
            ObjectNode json = HfConfig.object().put("model_type", "gpt2");
            json.putArray("architectures").add(head ? "GPT2LMHeadModel" : "GPT2Model");
            return json.put("vocab_size", vocabSize)
                    .put("n_positions", nPositions)
                    .put("n_embd", nEmbd)
                    .put("n_layer", nLayer)
                    .put("n_head", nHead)
                    .put("n_inner", nInner)
                    .put("activation_function", activationFunction)
                    .put("layer_norm_epsilon", layerNormEpsilon)
                    .put("tie_word_embeddings", tieWordEmbeddings)
                    .put("initializer_range", initializerRange);
        }
    }

    /// @param bare whether there is no head at all; nothing then stands before the modules' names
    /// @param labels classes of a classification head, which then stands in the place of the other; 0 for none
    Gpt2Model(Config config, Weights w, boolean bare, int labels) {
        this.config = config;
        String top = bare ? "" : "transformer.";
        double std = config.initializerRange;
        wte = child(top + "wte", w.embedding(top + "wte", config.vocabSize, config.nEmbd, std));
        wpe = child(top + "wpe", w.embedding(top + "wpe", config.nPositions, config.nEmbd, std));
        for (int i = 0; i < config.nLayer; i++) {
            String name = top + "h." + i;
            h.add(child(name, new Gpt2Block(config, w.under(name))));
        }
        lnF = child(top + "ln_f", w.layerNorm(top + "ln_f", config.nEmbd, config.layerNormEpsilon));
        lmHead = bare || labels > 0
                ? null
                : child(
                        "lm_head",
                        config.tieWordEmbeddings
                                ? new Linear(wte.weight(), null, false)
                                : w.linear("lm_head", config.nEmbd, config.vocabSize, false, std));
        if (labels > 0) {
            classifier(w.linear(classifierName(), config.nEmbd, labels, false, std));
        }
    }

    /// A model with random weights: tables and linear layers from N(0, initializerRange²), those that write to the
    /// residual stream divided by √(2 · layers), norms as the identity, biases zero.
    public static Gpt2Model random(Config config, Backend backend, DType dtype, long seed) {
        return new Gpt2Model(config, Weights.random(backend, dtype, seed), false, 0);
    }

    /// One block: x + attention(norm(x)), then the same with the feed-forward network.
    private static final class Gpt2Block extends Block {
        private final int headDim;
        private final UnaryFn activation;
        private final LayerNorm ln1;
        private final Linear cAttn;
        private final Linear attnProj;
        private final LayerNorm ln2;
        private final Linear cFc;
        private final Linear mlpProj;

        Gpt2Block(Config c, Weights w) {
            int width = c.nEmbd;
            double std = c.initializerRange;
            double residualStd = std / Math.sqrt(2 * c.nLayer);
            headDim = width / c.nHead;
            activation = HfConfig.activation(c.activationFunction);
            ln1 = child("ln_1", w.layerNorm("ln_1", width, c.layerNormEpsilon));
            cAttn = child("attn.c_attn", w.conv1d("attn.c_attn", width, 3 * width, std));
            attnProj = child("attn.c_proj", w.conv1d("attn.c_proj", width, width, residualStd));
            ln2 = child("ln_2", w.layerNorm("ln_2", width, c.layerNormEpsilon));
            cFc = child("mlp.c_fc", w.conv1d("mlp.c_fc", width, c.nInner, std));
            mlpProj = child("mlp.c_proj", w.conv1d("mlp.c_proj", c.nInner, width, residualStd));
        }

        @Override
        protected Tensor forward(Tensor x, @Nullable Tensor mask, @Nullable Prefix prefix) {
            try (Scope scope = Scope.open()) {
                Tensor a = ln1.forward(x);
                NormedSum attended = ln2.forward(x, adaptAttention(attention(a, mask, prefix), a));
                Tensor m = attended.norm();
                return scope.keep(attended.sum().add(adaptFeedForward(feedForward(m), m)));
            }
        }

        private Tensor attention(Tensor x, @Nullable Tensor mask, @Nullable Prefix prefix) {
            Tensor qkv = cAttn.forward(x);
            int width = x.shape().dim(2);
            Tensor q = heads(qkv.slice(2, 0, width), headDim);
            Tensor k = heads(qkv.slice(2, width, 2 * width), headDim);
            Tensor v = heads(qkv.slice(2, 2 * width, 3 * width), headDim);
            return attnProj.forward(attend(q, k, v, mask, prefix, true));
        }

        private Tensor feedForward(Tensor x) {
            return mlpProj.forward(Functional.unary(activation, cFc.forward(x)));
        }
    }

    @Override
    Tensor embed(Tensor words, int from) {
        return words.add(wpe.forward(positions(words, from)));
    }

    @Override
    Tensor finish(Tensor x) {
        return lnF.forward(x);
    }

    @Override
    @Nullable
    Linear head() {
        return lmHead;
    }

    @Override
    public Facts facts() {
        return new Facts(
                "gpt2",
                config.nEmbd,
                config.nLayer,
                config.nHead,
                config.nHead,
                config.nEmbd / config.nHead,
                config.vocabSize,
                config.nPositions);
    }

    public Config config() {
        return config;
    }

    @Override
    void vocabSize(int rows) {
        config = config.withVocabSize(rows);
    }

    @Override
    ObjectNode configJson() {
        ObjectNode json = config.json(lmHead != null);
        return lmHead == null ? json : json.put("tie_word_embeddings", lmHead.weight() == wte.weight());
    }

    @Override
    public List<Block> blocks() {
        return Collections.unmodifiableList(h);
    }

    @Override
    public Embedding tokenEmbedding() {
        return wte;
    }
}
