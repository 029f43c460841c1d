package dev.loran.peft.model.decoder;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.model.Attention;
import dev.loran.peft.model.Block;
import dev.loran.peft.model.Family;
import dev.loran.peft.model.FeedForward;
import dev.loran.peft.model.HfConfig;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.Norm;
import dev.loran.peft.model.Parts;
import dev.loran.peft.model.ResidualBlock;
import dev.loran.peft.model.Weights;
import java.util.List;
import java.util.Map;

/// GPT-2: a causal model of pre-norm blocks with learned positions; one layer computes queries, keys and values, and
/// the head is tied to the token table. Files hold its linear layers transposed. **Paper**: Radford et al., "Language
/// Models are Unsupervised Multitask Learners", 2019.
public final class Gpt2Model extends Decoder {
    /// The family's metadata.
    public static final Family FAMILY = new Family(
            "gpt2",
            "GPT2",
            List.of("LMHeadModel", "Model", "ForSequenceClassification"),
            "transformer.",
            "(transformer\\.)?h\\.\\d+\\.attn\\.(bias|masked_bias)",
            Map.of(
                    "LORA",
                    List.of("c_attn"),
                    "IA3",
                    List.of("c_attn", "mlp.c_proj"),
                    Family.FEED_FORWARD,
                    List.of("mlp.c_proj"),
                    "LN_TUNING",
                    List.of("ln_1", "ln_2", "ln_f")),
            Gpt2Model::read);

    private final Config config;

    /// The sizes, under Hugging Face's names.
    ///
    /// @param nInner width of the feed-forward network; 4 · nEmbd by default
    /// @param activationFunction the activation's name
    /// @param tieWordEmbeddings whether the head shares the token table
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
            return rows == vocabSize ? this : read(HfConfig.of(json().put("vocab_size", rows)));
        }

        ObjectNode json() {
            return HfConfig.object()
                    .put("vocab_size", vocabSize)
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

    private Gpt2Model(Config config, Weights weights, Top top) {
        super(FAMILY, plan(config), top, weights, config.json());
        this.config = config;
    }

    private static Model read(HfConfig c, Weights weights, int labels) {
        Config config = Config.read(c);
        boolean isBare = FAMILY.isBare(c, weights, HEAD + ".weight", config.tieWordEmbeddings);
        return new Gpt2Model(config, weights, new Top(isBare, labels));
    }

    /// A model with random weights: tables and linear layers from N(0, initializerRange²), those that write to the
    /// residual stream divided by √(2 · layers), norms initialized to the identity, biases to zero.
    public static Gpt2Model random(Config config, Backend backend, DType dtype, long seed) {
        return new Gpt2Model(config, Weights.random(backend, dtype, seed), Top.TOKENS);
    }

    private static Plan plan(Config c) {
        int headDim = c.nEmbd / c.nHead;
        Facts facts = new Facts("gpt2", c.nEmbd, c.nLayer, c.nHead, c.nHead, headDim, c.vocabSize, c.nPositions);
        return new Plan(
                facts,
                c.initializerRange,
                new Names("wte", "wpe", "h"),
                c.tieWordEmbeddings,
                Scales.NONE,
                parts -> parts.layerNorm("ln_f", c.nEmbd, c.layerNormEpsilon),
                (weights, layer, turning) -> block(c, weights));
    }

    private static Block block(Config c, Weights weights) {
        Parts p = new Parts(weights, c.initializerRange);
        int width = c.nEmbd;
        double std = c.initializerRange;
        double residualStd = std / Math.sqrt(2 * c.nLayer);
        Norm attentionNorm = p.layerNorm("ln_1", width, c.layerNormEpsilon);
        Linear qkv = p.conv1d("attn.c_attn", width, 3 * width, std);
        Linear out = p.conv1d("attn.c_proj", width, width, residualStd);
        Norm feedForwardNorm = p.layerNorm("ln_2", width, c.layerNormEpsilon);
        Linear up = p.conv1d("mlp.c_fc", width, c.nInner, std);
        Linear down = p.conv1d("mlp.c_proj", c.nInner, width, residualStd);
        return new ResidualBlock(
                p,
                attentionNorm,
                new Attention(List.of(qkv), out, width / c.nHead, true, null, null),
                feedForwardNorm,
                new FeedForward(List.of(up), down, HfConfig.activation(c.activationFunction)));
    }

    public Config config() {
        return config.withVocabSize(facts().vocabSize());
    }
}
