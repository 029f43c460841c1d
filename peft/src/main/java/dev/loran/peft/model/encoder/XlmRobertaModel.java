package dev.loran.peft.model.encoder;

import dev.loran.peft.model.Family;
import dev.loran.peft.model.HfConfig;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.Weights;
import java.util.List;

/// XLM-RoBERTa: RoBERTa trained on a hundred languages; multilingual E5 and BGE-M3 have its form. **Paper**: Conneau et
/// al., "Unsupervised Cross-lingual Representation Learning at Scale", 2020.
public final class XlmRobertaModel extends Encoder {
    /// The family's metadata.
    public static final Family FAMILY = new Family(
            "xlm-roberta",
            "XLMRoberta",
            List.of("ForSequenceClassification", "Model", "ForMaskedLM", "ForTokenClassification"),
            "roberta.",
            RobertaModel.UNUSED,
            BertModel.TARGETS,
            XlmRobertaModel::read);

    private XlmRobertaModel(HfConfig config, Weights weights, int labels) {
        super(FAMILY, RobertaModel.plan(FAMILY, config), weights, labels);
    }

    private static Model read(HfConfig config, Weights weights, int labels) {
        return new XlmRobertaModel(config, weights, labels);
    }
}
