package dev.loran.peft.model.encoder;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.UnaryFn;
import dev.loran.peft.model.Family;
import dev.loran.peft.model.HfConfig;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.Weights;
import java.util.List;
import java.util.Map;

/// BERT: an encoder of post-norm blocks with learned positions, with or without a classification head. Token types
/// distinguish the two texts of a pair. **Paper**: Devlin et al., "BERT", 2019.
///
/// With a head ([dev.loran.peft.model.TaskType#SEQ_CLS]) module names start with `bert.` and the class is computed from
/// the pooled first position (the first virtual token, if there are any). Without one
/// ([dev.loran.peft.model.TaskType#FEATURE_EXTRACTION]) names have no prefix, and the output is the mean of the hidden
/// states.
public final class BertModel extends Encoder {
    private static final String POOLER = "pooler.dense";

    /// What methods adapt by default, as in [Family#targets].
    static final Map<String, List<String>> TARGETS = Map.of(
            "LORA",
            List.of("query", "value"),
            "IA3",
            List.of("key", "value", "output.dense"),
            Family.FEED_FORWARD,
            List.of("output.dense"),
            "LN_TUNING",
            List.of("LayerNorm"),
            "BOTTLENECK",
            List.of("attention.output", "output"));

    /// The family's metadata.
    public static final Family FAMILY = new Family(
            "bert",
            "Bert",
            List.of("ForSequenceClassification", "Model", "ForMaskedLM", "ForPreTraining", "ForTokenClassification"),
            "bert.",
            "(bert\\.)?embeddings\\.(position_ids|token_type_ids)",
            TARGETS,
            BertModel::read);

    private final Config config;

    /// The sizes, under Hugging Face's names.
    ///
    /// @param hiddenAct the activation's name
    /// @param numLabels number of classes of the head; 0 for the encoder alone
    /// @param pooler whether there is a pooler; a head requires one
    /// @param initializerRange standard deviation of random weights
    public record Config(
            int vocabSize,
            int hiddenSize,
            int numHiddenLayers,
            int numAttentionHeads,
            int intermediateSize,
            int maxPositionEmbeddings,
            int typeVocabSize,
            String hiddenAct,
            double layerNormEps,
            int numLabels,
            boolean pooler,
            double initializerRange) {
        public Config {
            HfConfig.positive("vocab_size", vocabSize);
            HfConfig.positive("hidden_size", hiddenSize);
            HfConfig.positive("num_hidden_layers", numHiddenLayers);
            HfConfig.divides("num_attention_heads", numAttentionHeads, "hidden_size", hiddenSize);
            HfConfig.positive("intermediate_size", intermediateSize);
            HfConfig.positive("max_position_embeddings", maxPositionEmbeddings);
            HfConfig.positive("type_vocab_size", typeVocabSize);
            HfConfig.activation(hiddenAct);
            if (numLabels < 0) {
                throw new IllegalArgumentException("num_labels is " + numLabels + ", must not be negative");
            }
        }

        /// An encoder of these sizes with BERT's defaults: a feed-forward network of 4 · hiddenSize, gelu, norm eps
        /// 1e-12, two token types.
        ///
        /// @param numLabels number of classes of the head; 0 for the encoder alone, which then has no pooler
        public static Config of(int vocabSize, int hiddenSize, int layers, int heads, int maxPositions, int numLabels) {
            return new Config(
                    vocabSize,
                    hiddenSize,
                    layers,
                    heads,
                    4 * hiddenSize,
                    maxPositions,
                    2,
                    "gelu",
                    1e-12,
                    numLabels,
                    numLabels > 0,
                    0.02);
        }

        /// @param pooler whether the files hold a pooler
        /// @param labels number of classes of the head; 0 for the encoder alone
        static Config read(HfConfig c, boolean pooler, int labels) {
            Sizes s = Sizes.read(c);
            return new Config(
                    s.vocab(),
                    s.hidden(),
                    s.layers(),
                    s.heads(),
                    s.inner(),
                    s.positions(),
                    c.integer("type_vocab_size", 2),
                    s.activation(),
                    s.eps(),
                    labels,
                    labels > 0 || pooler,
                    s.std());
        }

        private Config withVocabSize(int rows) {
            return rows == vocabSize ? this : read(HfConfig.of(json().put("vocab_size", rows)), pooler, numLabels);
        }

        ObjectNode json() {
            return HfConfig.object()
                    .put("vocab_size", vocabSize)
                    .put("hidden_size", hiddenSize)
                    .put("num_hidden_layers", numHiddenLayers)
                    .put("num_attention_heads", numAttentionHeads)
                    .put("intermediate_size", intermediateSize)
                    .put("max_position_embeddings", maxPositionEmbeddings)
                    .put("type_vocab_size", typeVocabSize)
                    .put("hidden_act", hiddenAct)
                    .put("layer_norm_eps", layerNormEps)
                    .put("initializer_range", initializerRange);
        }
    }

    private BertModel(Config config, HfConfig json, Weights weights) {
        super(FAMILY, plan(config, json), weights, config.numLabels);
        this.config = config;
    }

    private static Model read(HfConfig c, Weights weights, int labels) {
        return new BertModel(Config.read(c, weights.has(POOLER + ".weight"), labels), c, weights);
    }

    private static Plan plan(Config c, HfConfig json) {
        Sizes sizes = new Sizes(
                c.vocabSize,
                c.hiddenSize,
                c.numHiddenLayers,
                c.numAttentionHeads,
                c.intermediateSize,
                c.maxPositionEmbeddings,
                c.hiddenAct,
                c.layerNormEps,
                c.initializerRange);
        return new Plan(
                json,
                sizes.facts(FAMILY, c.maxPositionEmbeddings),
                c.initializerRange,
                parts -> sizes.input(parts, c.typeVocabSize, -1),
                "encoder.layer",
                (weights, input, index) -> sizes.block(weights),
                null,
                new Form(POOLER, true, UnaryFn.TANH, null, "classifier", true, false),
                c.pooler);
    }

    /// A model with random weights: tables and linear layers from N(0, initializerRange²), norms initialized to the
    /// identity, biases to zero.
    public static BertModel random(Config config, Backend backend, DType dtype, long seed) {
        return new BertModel(config, HfConfig.of(config.json()), Weights.random(backend, dtype, seed));
    }

    public Config config() {
        return config.withVocabSize(facts().vocabSize());
    }

    @Override
    public ObjectNode sizes() {
        return config().json();
    }
}
