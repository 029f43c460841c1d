package dev.loran.peft.model.encoder;

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
import dev.loran.peft.model.Weights;
import java.util.List;
import java.util.Map;

/// DistilBERT: BERT's computation in fewer blocks, without token types. **Paper**: Sanh et al., "DistilBERT", 2019.
public final class DistilBertModel extends Encoder {
    /// The family's metadata.
    public static final Family FAMILY = new Family(
            "distilbert",
            "DistilBert",
            List.of("ForSequenceClassification", "Model", "ForMaskedLM", "ForTokenClassification"),
            "distilbert.",
            "(distilbert\\.)?embeddings\\.position_ids|vocab_(transform|layer_norm|projector)\\..*",
            Map.of(
                    "LORA",
                    List.of("q_lin", "v_lin"),
                    "IA3",
                    List.of("k_lin", "v_lin", "lin2"),
                    Family.FEED_FORWARD,
                    List.of("lin2"),
                    "LN_TUNING",
                    List.of("sa_layer_norm", "output_layer_norm")),
            DistilBertModel::read);

    private DistilBertModel(HfConfig config, Weights weights, int labels) {
        super(FAMILY, plan(config), weights, labels);
    }

    private static Model read(HfConfig config, Weights weights, int labels) {
        return new DistilBertModel(config, weights, labels);
    }

    private static Plan plan(HfConfig c) {
        // With sinusoids, files hold the values that they had when they were computed.
        c.only("sinusoidal_pos_embds", "false", "true");
        int heads = c.integer("n_heads");
        HfConfig.divides("n_heads", heads, "dim", c.integer("dim"));
        Sizes sizes = new Sizes(
                c.integer("vocab_size"),
                c.integer("dim"),
                c.integer("n_layers"),
                heads,
                c.integer("hidden_dim"),
                c.integer("max_position_embeddings", 512),
                c.activationName("activation", "gelu"),
                1e-12,
                c.number("initializer_range", 0.02));
        return new Plan(
                c,
                sizes.facts(FAMILY, sizes.positions()),
                sizes.std(),
                parts -> sizes.input(parts, 0, -1),
                "transformer.layer",
                (weights, input, index) -> block(sizes, weights),
                null,
                Form.of("pre_classifier", UnaryFn.RELU, "classifier"),
                false);
    }

    private static Block block(Sizes s, Weights weights) {
        Parts p = new Parts(weights, s.std());
        int hidden = s.hidden();
        List<Linear> qkv = List.of(
                p.linear("attention.q_lin", hidden, hidden, true),
                p.linear("attention.k_lin", hidden, hidden, true),
                p.linear("attention.v_lin", hidden, hidden, true));
        Linear out = p.linear("attention.out_lin", hidden, hidden, true);
        Norm attentionNorm = p.layerNorm("sa_layer_norm", hidden, s.eps());
        Linear up = p.linear("ffn.lin1", hidden, s.inner(), true);
        Linear down = p.linear("ffn.lin2", s.inner(), hidden, true);
        Norm norm = p.layerNorm("output_layer_norm", hidden, s.eps());
        return new PostNormBlock(
                p,
                new Attention(qkv, out, s.headDim(), false, null, null)::forward,
                attentionNorm,
                new FeedForward(List.of(up), down, HfConfig.activation(s.activation())),
                norm);
    }
}
