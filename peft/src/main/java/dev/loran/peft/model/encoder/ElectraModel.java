package dev.loran.peft.model.encoder;

import dev.loran.engine.backend.UnaryFn;
import dev.loran.engine.nn.Embedding;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.model.Family;
import dev.loran.peft.model.HfConfig;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.Norm;
import dev.loran.peft.model.Parts;
import dev.loran.peft.model.Weights;
import java.util.List;

/// ELECTRA: BERT with tables of a width of their own, and a head of two layers. **Paper**: Clark et al., "ELECTRA",
/// 2020.
public final class ElectraModel extends Encoder {
    /// The family's metadata.
    public static final Family FAMILY = new Family(
            "electra",
            "Electra",
            List.of("ForSequenceClassification", "Model", "ForPreTraining", "ForMaskedLM", "ForTokenClassification"),
            "electra.",
            "(electra\\.)?embeddings\\.(position_ids|token_type_ids)"
                    + "|(discriminator_predictions|generator_predictions|generator_lm_head)\\..*",
            BertModel.TARGETS,
            ElectraModel::read);

    private ElectraModel(HfConfig config, Weights weights, int labels) {
        super(FAMILY, plan(config), weights, labels);
    }

    private static Model read(HfConfig config, Weights weights, int labels) {
        return new ElectraModel(config, weights, labels);
    }

    private static Plan plan(HfConfig c) {
        Sizes sizes = Sizes.read(c);
        int width = c.integer("embedding_size", 128);
        int types = c.integer("type_vocab_size", 2);
        HfConfig.positive("embedding_size", width);
        HfConfig.positive("type_vocab_size", types);
        return new Plan(
                c,
                sizes.facts(FAMILY, sizes.positions()),
                sizes.std(),
                parts -> input(sizes, width, types, parts),
                "encoder.layer",
                (weights, input, index) -> sizes.block(weights),
                null,
                Form.of("classifier.dense", UnaryFn.GELU, "classifier.out_proj"),
                false);
    }

    private static Input input(Sizes s, int width, int types, Parts p) {
        Embedding words = p.embedding("embeddings.word_embeddings", s.vocab(), width);
        Embedding positions = p.embedding("embeddings.position_embeddings", s.positions(), width);
        Embedding kinds = p.embedding("embeddings.token_type_embeddings", types, width);
        Norm norm = p.layerNorm("embeddings.LayerNorm", width, s.eps());
        Linear project = width == s.hidden() ? null : p.linear("embeddings_project", width, s.hidden(), true);
        return new Input(words, positions, kinds, norm, project, -1, null);
    }
}
