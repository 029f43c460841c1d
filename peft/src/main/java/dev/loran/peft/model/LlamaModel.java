package dev.loran.peft.model;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Backend;
import dev.loran.engine.DType;
import dev.loran.engine.Functional;
import dev.loran.engine.Functional.NormedSum;
import dev.loran.engine.Scope;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.UnaryFn;
import dev.loran.engine.nn.Embedding;
import dev.loran.engine.nn.Linear;
import dev.loran.engine.nn.RmsNorm;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.function.DoubleUnaryOperator;
import org.jspecify.annotations.Nullable;

/// Llama: a causal model of pre-norm blocks with rotary positions, grouped-query attention and a gated feed-forward
/// network, without biases by default. **Paper**: Touvron et al., "LLaMA", 2023; grouped-query heads: Ainslie et al.,
/// "GQA", 2023.
public final class LlamaModel extends Model {
    private Config config;
    private final Embedding embedTokens;
    private final List<Block> layers = new ArrayList<>();
    private final RmsNorm norm;
    private final @Nullable Linear lmHead;
    private final Angles angles;

    /// The sizes, in Hugging Face's words.
    ///
    /// @param numKeyValueHeads heads of keys and values; divides `numAttentionHeads`
    /// @param headDim width of a head, even
    /// @param hiddenAct the activation's name
    /// @param attentionBias whether q, k, v and o have biases
    /// @param mlpBias whether gate, up and down have biases
    /// @param tieWordEmbeddings whether the head is the token table
    /// @param initializerRange standard deviation of random weights
    public record Config(
            int vocabSize,
            int hiddenSize,
            int intermediateSize,
            int numHiddenLayers,
            int numAttentionHeads,
            int numKeyValueHeads,
            int headDim,
            int maxPositionEmbeddings,
            String hiddenAct,
            double rmsNormEps,
            Rope rope,
            boolean attentionBias,
            boolean mlpBias,
            boolean tieWordEmbeddings,
            double initializerRange) {
        public Config {
            HfConfig.positive("vocab_size", vocabSize);
            HfConfig.positive("hidden_size", hiddenSize);
            HfConfig.positive("intermediate_size", intermediateSize);
            HfConfig.positive("num_hidden_layers", numHiddenLayers);
            HfConfig.positive("num_attention_heads", numAttentionHeads);
            HfConfig.positive("num_key_value_heads", numKeyValueHeads);
            HfConfig.positive("head_dim", headDim);
            HfConfig.positive("max_position_embeddings", maxPositionEmbeddings);
            HfConfig.product("num_attention_heads", numAttentionHeads, "head_dim", headDim);
            HfConfig.divides("num_key_value_heads", numKeyValueHeads, "num_attention_heads", numAttentionHeads);
            if (headDim % 2 != 0) {
                throw new IllegalArgumentException("head_dim is " + headDim + ", must be even");
            }
            HfConfig.activation(hiddenAct);
        }

        /// A model of these sizes with Llama's defaults: as many heads of keys and values as of queries, silu, no
        /// biases, tied head, theta 10000, norm eps 1e-5.
        public static Config of(
                int vocabSize, int hiddenSize, int intermediateSize, int layers, int heads, int maxPositions) {
            return of(vocabSize, hiddenSize, intermediateSize, layers, heads, heads, maxPositions);
        }

        /// As above, with fewer heads of keys and values, each for several of the queries.
        public static Config of(
                int vocabSize,
                int hiddenSize,
                int intermediateSize,
                int layers,
                int heads,
                int keyValueHeads,
                int maxPositions) {
            HfConfig.divides("num_attention_heads", heads, "hidden_size", hiddenSize);
            return new Config(
                    vocabSize,
                    hiddenSize,
                    intermediateSize,
                    layers,
                    heads,
                    keyValueHeads,
                    hiddenSize / heads,
                    maxPositions,
                    "silu",
                    1e-5,
                    new Rope.Default(10_000),
                    false,
                    false,
                    true,
                    0.02);
        }

        static Config read(HfConfig c) {
            c.only(
                    "architectures",
                    "[\"LlamaForCausalLM\"]",
                    "[\"LlamaModel\"]",
                    "[\"LlamaForSequenceClassification\"]");
            c.only("sliding_window");
            int hidden = c.integer("hidden_size");
            int heads = c.integer("num_attention_heads");
            return new Config(
                    c.integer("vocab_size"),
                    hidden,
                    c.integer("intermediate_size"),
                    c.integer("num_hidden_layers"),
                    heads,
                    c.integer("num_key_value_heads", heads),
                    c.integer("head_dim", hidden / Math.max(1, heads)),
                    c.integer("max_position_embeddings", 2048),
                    c.activationName("hidden_act", "silu"),
                    c.number("rms_norm_eps", 1e-6),
                    Rope.read(c),
                    c.flag("attention_bias", false),
                    c.flag("mlp_bias", false),
                    c.flag("tie_word_embeddings", false),
                    c.number("initializer_range", 0.02));
        }

        private Config withVocabSize(int rows) {
            return new Config(
                    rows,
                    hiddenSize,
                    intermediateSize,
                    numHiddenLayers,
                    numAttentionHeads,
                    numKeyValueHeads,
                    headDim,
                    maxPositionEmbeddings,
                    hiddenAct,
                    rmsNormEps,
                    rope,
                    attentionBias,
                    mlpBias,
                    tieWordEmbeddings,
                    initializerRange);
        }

        ObjectNode json(boolean head) {
            ObjectNode json = HfConfig.object().put("model_type", "llama");
            json.putArray("architectures").add(head ? "LlamaForCausalLM" : "LlamaModel");
            json.put("vocab_size", vocabSize)
                    .put("hidden_size", hiddenSize)
                    .put("intermediate_size", intermediateSize)
                    .put("num_hidden_layers", numHiddenLayers)
                    .put("num_attention_heads", numAttentionHeads)
                    .put("num_key_value_heads", numKeyValueHeads)
                    .put("head_dim", headDim)
                    .put("max_position_embeddings", maxPositionEmbeddings)
                    .put("hidden_act", hiddenAct)
                    .put("rms_norm_eps", rmsNormEps)
                    .put("attention_bias", attentionBias)
                    .put("mlp_bias", mlpBias)
                    .put("tie_word_embeddings", tieWordEmbeddings)
                    .put("initializer_range", initializerRange);
            return json.set("rope_parameters", rope.json());
        }
    }

    /// @param bare whether there is no head at all; nothing then stands before the modules' names
    /// @param labels classes of a classification head, which then stands in the place of the other; 0 for none
    LlamaModel(Config config, Weights w, boolean bare, int labels) {
        this.config = config;
        String top = bare ? "" : "model.";
        double std = config.initializerRange;
        int hidden = config.hiddenSize;
        embedTokens = child(top + "embed_tokens", w.embedding(top + "embed_tokens", config.vocabSize, hidden, std));
        angles = new Angles(config, this);
        for (int i = 0; i < config.numHiddenLayers; i++) {
            String name = top + "layers." + i;
            layers.add(child(name, new LlamaBlock(config, angles, w.under(name))));
        }
        norm = child(top + "norm", w.rmsNorm(top + "norm", hidden, config.rmsNormEps));
        lmHead = bare || labels > 0
                ? null
                : child(
                        "lm_head",
                        config.tieWordEmbeddings
                                ? new Linear(embedTokens.weight(), null, false)
                                : w.linear("lm_head", hidden, config.vocabSize, false, std));
        if (labels > 0) {
            classifier(w.linear(classifierName(), hidden, labels, false, std));
        }
    }

    /// A model with random weights: linear layers and tables from N(0, initializerRange²), norms as the identity.
    public static LlamaModel random(Config config, Backend backend, DType dtype, long seed) {
        return new LlamaModel(config, Weights.random(backend, dtype, seed), false, 0);
    }

    /// One block: x + attention(norm(x)), then the same with the gated network.
    private static final class LlamaBlock extends Block {
        private final int headDim;
        private final Angles angles;
        private final UnaryFn activation;
        private final Linear q;
        private final Linear k;
        private final Linear v;
        private final Linear o;
        private final Linear gate;
        private final Linear up;
        private final Linear down;
        private final RmsNorm inputNorm;
        private final RmsNorm postAttentionNorm;

        LlamaBlock(Config c, Angles angles, Weights w) {
            int hidden = c.hiddenSize;
            int width = c.numAttentionHeads * c.headDim;
            int kvWidth = c.numKeyValueHeads * c.headDim;
            int inner = c.intermediateSize;
            double std = c.initializerRange;
            this.headDim = c.headDim;
            this.angles = angles;
            activation = HfConfig.activation(c.hiddenAct);
            q = child("self_attn.q_proj", w.linear("self_attn.q_proj", hidden, width, c.attentionBias, std));
            k = child("self_attn.k_proj", w.linear("self_attn.k_proj", hidden, kvWidth, c.attentionBias, std));
            v = child("self_attn.v_proj", w.linear("self_attn.v_proj", hidden, kvWidth, c.attentionBias, std));
            o = child("self_attn.o_proj", w.linear("self_attn.o_proj", width, hidden, c.attentionBias, std));
            gate = child("mlp.gate_proj", w.linear("mlp.gate_proj", hidden, inner, c.mlpBias, std));
            up = child("mlp.up_proj", w.linear("mlp.up_proj", hidden, inner, c.mlpBias, std));
            down = child("mlp.down_proj", w.linear("mlp.down_proj", inner, hidden, c.mlpBias, std));
            inputNorm = child("input_layernorm", w.rmsNorm("input_layernorm", hidden, c.rmsNormEps));
            postAttentionNorm =
                    child("post_attention_layernorm", w.rmsNorm("post_attention_layernorm", hidden, c.rmsNormEps));
        }

        @Override
        protected Tensor forward(Tensor x, @Nullable Tensor mask, @Nullable Prefix prefix) {
            try (Scope scope = Scope.open()) {
                Tensor a = inputNorm.forward(x);
                NormedSum attended = postAttentionNorm.forward(x, adaptAttention(attention(a, mask, prefix), a));
                Tensor m = attended.norm();
                return scope.keep(attended.sum().add(adaptFeedForward(feedForward(m), m)));
            }
        }

        private Tensor attention(Tensor x, @Nullable Tensor mask, @Nullable Prefix prefix) {
            int from = prefix == null ? 0 : prefix.length();
            List<Tensor> qkv = Linear.forward(x, List.of(q, k, v));
            Tensor queries = angles.turn(heads(qkv.get(0), headDim), from);
            Tensor keys = angles.turn(heads(qkv.get(1), headDim), from);
            Tensor values = heads(qkv.get(2), headDim);
            return o.forward(attend(queries, keys, values, mask, prefix, true));
        }

        private Tensor feedForward(Tensor x) {
            List<Tensor> both = Linear.forward(x, List.of(gate, up));
            return down.forward(Functional.gated(activation, both.get(0), both.get(1)));
        }
    }

    /// cos and sin of the positions' angles, each (positions, D / 2), for as many positions as were asked for so far.
    private static final class Angles implements AutoCloseable {
        private final Config config;
        private final Model model;
        private final Backend backend;
        private final DType dtype;
        private @Nullable Tensor cos;
        private @Nullable Tensor sin;

        Angles(Config config, Model model) {
            this.config = config;
            this.model = model;
            this.backend = model.backend();
            this.dtype = model.dtype();
        }

        /// x (B, T, H, D) turned as its positions ask: from, from + 1, …, or those of its row where rows differ.
        Tensor turn(Tensor x, int from) {
            int to = from + x.shape().dim(1);
            boolean alike = model.rows().isEmpty();
            List<Tensor> both = upTo(to);
            Tensor cosines = both.getFirst();
            Tensor sines = both.getLast();
            return alike
                    ? Functional.rope(x, cosines.slice(0, from, to), sines.slice(0, from, to))
                    : turnRows(x, cosines, sines);
        }

        /// Both tables up to position `to`: views that hold, whoever lets the tables grow meanwhile.
        private synchronized List<Tensor> upTo(int to) {
            if (cos == null || sin == null || cos.shape().dim(0) < to) {
                int rows = cos == null ? 512 : 2 * cos.shape().dim(0);
                close();
                rows = Math.max(to, Math.min(config.maxPositionEmbeddings, rows));
                cos = table(rows, Math::cos);
                sin = table(rows, Math::sin);
            }
            int rows = cos.shape().dim(0);
            return List.of(cos.slice(0, 0, rows), sin.slice(0, 0, rows));
        }

        private Tensor turnRows(Tensor x, Tensor cosines, Tensor sines) {
            Shape s = x.shape();
            int[] ids = model.positionsOfRows(s.dim(1));
            Tensor at = Tensor.ofInts(backend, ids, ids.length);
            // As one text, whose tokens stand where those of the rows do. What is before a row's first position becomes
            // zero, and is seen by nobody.
            Tensor turned = Functional.rope(
                    x.reshape(1, ids.length, s.dim(2), s.dim(3)),
                    Functional.embedding(cosines, at),
                    Functional.embedding(sines, at));
            return turned.reshape(s.dims());
        }

        private Tensor table(int rows, DoubleUnaryOperator fn) {
            // Not before: the files have then shown that the head is as wide as the config says.
            float[] frequencies = config.rope.frequencies(config.headDim);
            int half = frequencies.length;
            double[] values = new double[rows * half];
            for (int position = 0; position < rows; position++) {
                for (int i = 0; i < half; i++) {
                    // The product in F32, as the frequencies are.
                    values[position * half + i] = fn.applyAsDouble((float) position * frequencies[i]);
                }
            }
            return Tensor.of(backend, dtype, values, rows, half).detachFromScope();
        }

        @Override
        public void close() {
            if (cos != null && sin != null) {
                cos.close();
                sin.close();
            }
        }
    }

    @Override
    Tensor embed(Tensor words, int from) {
        return words;
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
                "llama",
                config.hiddenSize,
                config.numHiddenLayers,
                config.numAttentionHeads,
                config.numKeyValueHeads,
                config.headDim,
                config.vocabSize,
                config.maxPositionEmbeddings);
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
        return lmHead == null ? json : json.put("tie_word_embeddings", lmHead.weight() == embedTokens.weight());
    }

    @Override
    public List<Block> blocks() {
        return Collections.unmodifiableList(layers);
    }

    @Override
    public Embedding tokenEmbedding() {
        return embedTokens;
    }

    @Override
    public void close() {
        super.close();
        angles.close();
    }
}
