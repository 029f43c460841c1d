package dev.loran.peft.model;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Scope;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.UnaryFn;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.nn.Embedding;
import dev.loran.engine.nn.LayerNorm;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.io.InputException;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.function.Predicate;
import org.jspecify.annotations.Nullable;

/// BERT: an encoder of post-norm blocks with learned positions, with or without a classification head. Token types
/// distinguish the two texts of a pair. **Paper**: Devlin et al., "BERT", 2019.
///
/// With a head ([TaskType#SEQ_CLS]) module names start with `bert.` and the class is computed from the pooled first
/// position (the first virtual token, if there are any). Without one ([TaskType#FEATURE_EXTRACTION]) names have no
/// prefix, and the output is the mean of the hidden states.
public final class BertModel extends Model implements WithPooler {
    private static final String POOLER = "pooler.dense";

    /// The family's metadata.
    public static final Family FAMILY = new Family(
            "bert",
            "Bert",
            List.of("ForSequenceClassification", "Model", "ForMaskedLM", "ForPreTraining"),
            "bert.",
            "(bert\\.)?embeddings\\.(position_ids|token_type_ids)",
            Map.of(
                    "LORA",
                    List.of("query", "value"),
                    "IA3",
                    List.of("key", "value", "output.dense"),
                    Family.FEED_FORWARD,
                    List.of("output.dense"),
                    "LN_TUNING",
                    List.of("LayerNorm"),
                    "BOTTLENECK",
                    List.of("attention.output", "output")),
            (config, weights, labels) ->
                    new BertModel(Config.read(config, weights.has(POOLER + ".weight"), labels), weights));

    private final Config config;
    private final Embedding wordEmbeddings;
    private final Embedding positionEmbeddings;
    private final Embedding tokenTypeEmbeddings;
    private final LayerNorm embeddingsNorm;
    private final List<Block> layers = new ArrayList<>();
    private @Nullable Linear pooler;
    private boolean hasNewPooler;

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
            if (numLabels < 0 || numLabels > 0 && !pooler) {
                throw new IllegalArgumentException(
                        "num_labels is " + numLabels + " with pooler " + pooler + "; a head needs a pooler");
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
            c.only("position_embedding_type", "\"absolute\"");
            c.only("is_decoder", "false");
            c.only("add_cross_attention", "false");
            return new Config(
                    c.integer("vocab_size"),
                    c.integer("hidden_size"),
                    c.integer("num_hidden_layers"),
                    c.integer("num_attention_heads"),
                    c.integer("intermediate_size"),
                    c.integer("max_position_embeddings", 512),
                    c.integer("type_vocab_size", 2),
                    c.activationName("hidden_act", "gelu"),
                    c.number("layer_norm_eps", 1e-12),
                    labels,
                    labels > 0 || pooler,
                    c.number("initializer_range", 0.02));
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

    BertModel(Config config, Weights weights) {
        super(FAMILY);
        this.config = config;
        boolean head = config.numLabels > 0;
        String top = head ? "bert." : "";
        int hidden = config.hiddenSize;
        double std = config.initializerRange;
        String e = top + "embeddings.";
        wordEmbeddings =
                child(e + "word_embeddings", weights.embedding(e + "word_embeddings", config.vocabSize, hidden, std));
        positionEmbeddings = child(
                e + "position_embeddings",
                weights.embedding(e + "position_embeddings", config.maxPositionEmbeddings, hidden, std));
        tokenTypeEmbeddings = child(
                e + "token_type_embeddings",
                weights.embedding(e + "token_type_embeddings", config.typeVocabSize, hidden, std));
        embeddingsNorm = child(e + "LayerNorm", weights.layerNorm(e + "LayerNorm", hidden, config.layerNormEps));
        for (int i = 0; i < config.numHiddenLayers; i++) {
            String name = top + "encoder.layer." + i;
            layers.add(child(name, block(config, weights.below(name + "."))));
        }
        String p = top + POOLER;
        pooler = config.pooler ? child(p, weights.linear(p, hidden, hidden, true, std)) : null;
        if (head) {
            classifier(weights.linear(classifierName(), hidden, config.numLabels, true, std));
        }
    }

    /// A model with random weights: tables and linear layers from N(0, initializerRange²), norms initialized to the
    /// identity, biases to zero.
    public static BertModel random(Config config, Backend backend, DType dtype, long seed) {
        return new BertModel(config, Weights.random(backend, dtype, seed));
    }

    private static Block block(Config c, Weights weights) {
        Parts p = new Parts(weights, c.initializerRange);
        int hidden = c.hiddenSize;
        int inner = c.intermediateSize;
        List<Linear> qkv = List.of(
                p.linear("attention.self.query", hidden, hidden, true),
                p.linear("attention.self.key", hidden, hidden, true),
                p.linear("attention.self.value", hidden, hidden, true));
        Linear out = p.linear("attention.output.dense", hidden, hidden, true);
        Norm attentionNorm = p.layerNorm("attention.output.LayerNorm", hidden, c.layerNormEps);
        Linear up = p.linear("intermediate.dense", hidden, inner, true);
        Linear down = p.linear("output.dense", inner, hidden, true);
        Norm feedForwardNorm = p.layerNorm("output.LayerNorm", hidden, c.layerNormEps);
        return new PostNormBlock(
                p,
                new Attention(qkv, out, hidden / c.numAttentionHeads, false, null, null),
                attentionNorm,
                new FeedForward(List.of(up), down, HfConfig.activation(c.hiddenAct)),
                feedForwardNorm);
    }

    @Override
    public int tokenTypes() {
        return config.typeVocabSize;
    }

    @Override
    protected Tensor typed(Tensor words, @Nullable Tensor tokenTypes) {
        Tensor types = tokenTypes;
        if (types == null || config.typeVocabSize == 1) {
            types = Tensor.zeros(backend(), DType.I32, 1);
        } else if (types.shape().dim(1) < words.shape().dim(1)) {
            int virtual = words.shape().dim(1) - types.shape().dim(1);
            types = Functional.concat(
                    List.of(Tensor.zeros(backend(), DType.I32, types.shape().dim(0), virtual), types), 1);
        }
        return words.add(tokenTypeEmbeddings.forward(types));
    }

    @Override
    protected Tensor embed(Tensor words, int from) {
        return embeddingsNorm.forward(words.add(positionEmbeddings.forward(positions(words, from))));
    }

    @Override
    protected Tensor finish(Tensor x) {
        return x;
    }

    /// The class scores (B, labels) if there is a head, otherwise the mean-pooled hidden states (B, C).
    @Override
    public Tensor logits(Tensor inputIds, @Nullable Tensor attentionMask, @Nullable Tensor tokenTypes) {
        return classifier() == null
                ? embeddings(inputIds, attentionMask, tokenTypes, false)
                : super.logits(inputIds, attentionMask, tokenTypes);
    }

    @Override
    public boolean hasPooler() {
        return pooler != null;
    }

    /// {@inheritDoc}
    ///
    /// It is tanh of the pooler's output for the first position.
    @Override
    public Tensor pooled(Tensor hidden) {
        if (pooler == null) {
            throw new IllegalStateException("pooled: this encoder has no pooler");
        }
        return Functional.tanh(pooler.forward(positions().first(hidden)));
    }

    @Override
    protected Tensor pooled(Tensor hidden, Tensor inputIds, @Nullable Tensor attentionMask) {
        return pooled(hidden);
    }

    @Override
    public String classifierName() {
        return "classifier";
    }

    @Override
    protected void beforeClassifier(Predicate<String> brought) {
        if (pooler != null) {
            return;
        }
        if (!brought.test(POOLER)) {
            throw new InputException(
                    title() + ": has no pooler (pooler.dense.weight), through which a classification head"
                            + " sees the text; transformers draws one at random there,"
                            + " and an adapter's file does not hold it");
        }
        int hidden = config.hiddenSize;
        DType wide = dtype().accumulator();
        pooler = child(
                POOLER,
                new Linear(
                        Tensor.zeros(backend(), wide, hidden, hidden), Tensor.zeros(backend(), wide, hidden), false));
        hasNewPooler = true;
    }

    @Override
    protected void afterClassifier() {
        if (hasNewPooler && pooler != null) {
            removeChild(POOLER);
            pooler.close();
            pooler = null;
            hasNewPooler = false;
        }
    }

    /// The mean of the hidden states over the positions that the mask leaves visible, virtual tokens included: (B, C).
    /// A text without visible positions gives zeros.
    ///
    /// @param normalized divides each embedding by its Euclidean norm
    public Tensor embeddings(Tensor inputIds, @Nullable Tensor attentionMask, boolean normalized) {
        return embeddings(inputIds, attentionMask, null, normalized);
    }

    private Tensor embeddings(
            Tensor inputIds, @Nullable Tensor attentionMask, @Nullable Tensor tokenTypes, boolean normalized) {
        try (Scope scope = Scope.open()) {
            Tensor h = hidden(inputIds, attentionMask, tokenTypes);
            Tensor shown = positions().shown(attentionMask, h, 0);
            Tensor mean = shown == null ? h.mean(1) : mean(h, shown);
            return scope.keep(normalized ? normalized(mean) : mean);
        }
    }

    private Tensor mean(Tensor h, Tensor shown) {
        Shape s = h.shape();
        Tensor weights = Tensor.empty(backend(), dtype(), s.dim(0), s.dim(1)).copyFrom(shown);
        // Negligible against a single position; it only prevents division by zero for an empty text.
        Tensor count = weights.sum(1).add(Tensor.full(backend(), dtype(), 1e-9, 1));
        Tensor sum = weights.reshape(s.dim(0), 1, s.dim(1)).matmul(h).reshape(s.dim(0), s.dim(2));
        return sum.div(count.reshape(s.dim(0), 1));
    }

    private Tensor normalized(Tensor x) {
        Tensor squares = x.mul(x).sum(1).add(Tensor.full(backend(), dtype(), 1e-24, 1));
        return x.mul(Functional.unary(UnaryFn.RSQRT, squares).reshape(-1, 1));
    }

    @Override
    protected @Nullable Linear head() {
        return null;
    }

    @Override
    public Facts facts() {
        return new Facts(
                "bert",
                config.hiddenSize,
                config.numHiddenLayers,
                config.numAttentionHeads,
                config.numAttentionHeads,
                config.hiddenSize / config.numAttentionHeads,
                wordEmbeddings.weight().shape().dim(0),
                config.maxPositionEmbeddings);
    }

    public Config config() {
        return config.withVocabSize(facts().vocabSize());
    }

    @Override
    protected ObjectNode sizes() {
        return config().json();
    }

    @Override
    public List<Block> blocks() {
        return Collections.unmodifiableList(layers);
    }

    @Override
    public Embedding tokenEmbedding() {
        return wordEmbeddings;
    }
}
