package dev.loran.peft.model.encoder;

import dev.loran.engine.backend.UnaryFn;
import dev.loran.peft.model.Family;
import dev.loran.peft.model.HfConfig;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.Weights;
import java.util.List;
import java.util.Map;

/// RoBERTa: BERT's blocks with positions that count from behind the padding token's id, usually one token type, and a
/// head of two layers of its own. **Paper**: Liu et al., "RoBERTa", 2019.
public final class RobertaModel extends Encoder {
    /// Names in files of what no model here uses: the head for pretraining, and beside another head the pooler.
    static final String UNUSED = "(roberta\\.)?(embeddings\\.(position_ids|token_type_ids)|pooler\\.dense\\..*)"
            + "|lm_head\\.(dense|layer_norm|decoder|bias).*";

    /// The family's metadata.
    public static final Family FAMILY = new Family(
            "roberta",
            "Roberta",
            List.of("ForSequenceClassification", "Model", "ForMaskedLM", "ForTokenClassification"),
            "roberta.",
            UNUSED,
            Map.of(
                    "LORA",
                    List.of("query", "value"),
                    "ADALORA",
                    List.of("query", "key", "value", "dense"),
                    "IA3",
                    List.of("key", "value", "output.dense"),
                    Family.FEED_FORWARD,
                    List.of("output.dense"),
                    "LN_TUNING",
                    List.of("LayerNorm"),
                    "BOTTLENECK",
                    List.of("attention.output", "output")),
            RobertaModel::read);

    private RobertaModel(HfConfig config, Weights weights, int labels) {
        super(FAMILY, plan(FAMILY, config), weights, labels);
    }

    private static Model read(HfConfig config, Weights weights, int labels) {
        return new RobertaModel(config, weights, labels);
    }

    /// The encoder of a config, for this family and those that differ only in training.
    static Plan plan(Family family, HfConfig c) {
        Sizes sizes = Sizes.read(c);
        int types = c.integer("type_vocab_size", 2);
        int padding = c.integer("pad_token_id", 1);
        HfConfig.positive("type_vocab_size", types);
        return new Plan(
                c,
                sizes.facts(family, sizes.positions() - padding - 1),
                sizes.std(),
                parts -> sizes.input(parts, types, padding),
                "encoder.layer",
                (weights, input, index) -> sizes.block(weights),
                null,
                Form.of("classifier.dense", UnaryFn.TANH, "classifier.out_proj"),
                false);
    }
}
