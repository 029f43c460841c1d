package dev.loran.peft.model.decoder;

import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.UnaryFn;
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

/// A small causal model for training from random weights on SEO text: pre-norm blocks with learned positions, a GELU
/// network of width 4 · hiddenSize, and a head tied to the token table. Its adapters' targets are `w_q w_k w_v w_o`.
public final class SeoTransformer extends Decoder {
    /// The family's metadata.
    public static final Family FAMILY = new Family(
            "seo",
            "Seo",
            List.of(),
            "",
            "",
            Map.of(
                    "LORA",
                    List.of("w_q", "w_v"),
                    "IA3",
                    List.of("w_k", "w_v", "down"),
                    Family.FEED_FORWARD,
                    List.of("down"),
                    "LN_TUNING",
                    List.of("attention_norm", "mlp_norm", "norm")),
            SeoTransformer::read);

    private static final double EPS = 1e-5;
    private static final double STD = 0.02;

    private final TransformerConfig config;

    private SeoTransformer(TransformerConfig config, boolean isTied, Weights weights, Top top) {
        super(FAMILY, plan(config, isTied), top, weights, config.json());
        this.config = config;
        gradientCheckpointing(config.gradientCheckpointing());
    }

    private static Model read(HfConfig c, Weights weights, int labels) {
        // The head shares the table unless an adapter was merged into one of the two.
        boolean isTied = c.flag("tie_word_embeddings", true);
        return new SeoTransformer(TransformerConfig.read(c), isTied, weights, new Top(false, labels));
    }

    /// A model with random weights: tables and linear layers from N(0, 0.02²), those that write to the residual stream
    /// divided by √(2 · layers), norms initialized to the identity, biases to zero.
    public static SeoTransformer random(TransformerConfig config, Backend backend, DType dtype, long seed) {
        return new SeoTransformer(config, true, Weights.random(backend, dtype, seed), Top.TOKENS);
    }

    private static Plan plan(TransformerConfig c, boolean isTied) {
        int headDim = c.hiddenSize() / c.numHeads();
        Facts facts = new Facts(
                "seo",
                c.hiddenSize(),
                c.numLayers(),
                c.numHeads(),
                c.numHeads(),
                headDim,
                c.vocabSize(),
                c.maxPositions());
        return new Plan(
                facts,
                STD,
                new Names("token_embedding", "position_embedding", "layers"),
                isTied,
                Scales.NONE,
                parts -> parts.layerNorm("norm", c.hiddenSize(), EPS),
                (weights, layer, turning) -> block(c, weights));
    }

    private static Block block(TransformerConfig c, Weights weights) {
        Parts p = new Parts(weights, STD);
        int hidden = c.hiddenSize();
        double residualStd = STD / Math.sqrt(2 * c.numLayers());
        Norm attentionNorm = p.layerNorm("attention_norm", hidden, EPS);
        List<Linear> qkv = List.of(
                p.linear("attention.w_q", hidden, hidden, true),
                p.linear("attention.w_k", hidden, hidden, true),
                p.linear("attention.w_v", hidden, hidden, true));
        Linear out = p.linear("attention.w_o", hidden, hidden, true, residualStd);
        Norm feedForwardNorm = p.layerNorm("mlp_norm", hidden, EPS);
        Linear up = p.linear("mlp.up", hidden, 4 * hidden, true);
        Linear down = p.linear("mlp.down", 4 * hidden, hidden, true, residualStd);
        return new ResidualBlock(
                p,
                attentionNorm,
                new Attention(qkv, out, hidden / c.numHeads(), true, null, null),
                feedForwardNorm,
                new FeedForward(List.of(up), down, UnaryFn.GELU));
    }

    public TransformerConfig config() {
        return config.withVocabSize(facts().vocabSize());
    }
}
