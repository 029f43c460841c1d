package dev.loran.peft.model.decoder;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.peft.model.Family;
import dev.loran.peft.model.HfConfig;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.Rope;
import dev.loran.peft.model.Weights;
import java.util.List;
import java.util.Map;

/// Llama: a causal model of pre-norm blocks with rotary positions, grouped-query attention and a gated feed-forward
/// network, without biases by default. **Paper**: Touvron et al., "LLaMA", 2023; grouped-query heads: Ainslie et al.,
/// "GQA", 2023.
public final class LlamaModel extends Decoder {
    /// What methods adapt by default, as in [Family#targets].
    static final Map<String, List<String>> TARGETS = Map.of(
            "LORA",
            List.of("q_proj", "v_proj"),
            "IA3",
            List.of("k_proj", "v_proj", "down_proj"),
            Family.FEED_FORWARD,
            List.of("down_proj"),
            "LN_TUNING",
            List.of("input_layernorm", "post_attention_layernorm", "norm"));

    /// The family's metadata.
    public static final Family FAMILY = new Family(
            "llama", "Llama", LlamaParts.CLASSES, LlamaParts.PREFIX, LlamaParts.BUFFERS, TARGETS, LlamaModel::read);

    private final Config config;

    /// The sizes, under Hugging Face's names.
    ///
    /// @param numKeyValueHeads number of heads of keys and values; divides `numAttentionHeads`
    /// @param headDim width of a head, even
    /// @param hiddenAct the activation's name
    /// @param attentionBias whether q, k, v and o have biases
    /// @param mlpBias whether gate, up and down have biases
    /// @param tieWordEmbeddings whether the head shares the token table
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

        /// As above, with fewer heads of keys and values, each shared by several query heads.
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

        Config withVocabSize(int rows) {
            return rows == vocabSize ? this : read(HfConfig.of(json().put("vocab_size", rows)));
        }

        public ObjectNode json() {
            ObjectNode json = HfConfig.object()
                    .put("vocab_size", vocabSize)
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

    private LlamaModel(Config config, Weights weights, Top top) {
        super(FAMILY, plan(config), top, weights, config.json());
        this.config = config;
    }

    private static Model read(HfConfig c, Weights weights, int labels) {
        c.only("sliding_window");
        Config config = Config.read(c);
        boolean isBare = FAMILY.isBare(c, weights, HEAD + ".weight", config.tieWordEmbeddings);
        return new LlamaModel(config, weights, new Top(isBare, labels));
    }

    /// A model with random weights: linear layers and tables from N(0, initializerRange²), norms initialized to the
    /// identity.
    public static LlamaModel random(Config config, Backend backend, DType dtype, long seed) {
        return new LlamaModel(config, Weights.random(backend, dtype, seed), Top.TOKENS);
    }

    private static Plan plan(Config c) {
        return LlamaParts.plan("llama", c, Scales.NONE, (weights, layer, turning) -> {
            LlamaParts p = new LlamaParts(c, weights);
            boolean bias = c.attentionBias;
            return p.block(p.attention(bias, bias, p.scoring(0), turning, c.rope, null), p.feedForward());
        });
    }

    public Config config() {
        return config.withVocabSize(facts().vocabSize());
    }
}
