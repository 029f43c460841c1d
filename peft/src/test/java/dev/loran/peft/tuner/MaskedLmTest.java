package dev.loran.peft.tuner;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.io.SafeTensors;
import dev.loran.peft.Fixtures;
import dev.loran.peft.hf.HfModels;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.TaskType;
import dev.loran.peft.model.encoder.BertModel;
import dev.loran.peft.model.encoder.MaskedLmHead;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;

/// A folder of `BertForMaskedLM`, which has a head for masked tokens and no pooler, and adapters that peft made on it;
/// the expected outputs are from transformers 5.18.0 and peft 0.21.0.
class MaskedLmTest {
    private final Backend backend = new ReferenceBackend();
    private final Path folder = Fixtures.root("masked");

    private void assertAnswers(String name, Inputs answer) {
        try (SafeTensors reference = SafeTensors.open(folder.resolve("ref.safetensors"));
                Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.noGrad()) {
            Tensor given = answer.of(
                    reference.copy(backend, "input_ids", DType.I32),
                    reference.copy(backend, "attention_mask", DType.I32));
            Tensor expected = reference.copy(backend, name, DType.F32);
            assertThat(given.shape()).isEqualTo(expected.shape());
            double[] a = given.toDoubles();
            double[] e = expected.toDoubles();
            for (int i = 0; i < a.length; i++) {
                assertThat(a[i]).as(name + " at " + i).isCloseTo(e[i], within(1e-4));
            }
        }
    }

    private interface Inputs {
        Tensor of(Tensor ids, Tensor mask);
    }

    @Test
    void theHeadAnswersForHiddenTokensWithAndWithoutAnAdapter() {
        try (BertModel model = (BertModel) HfModels.load(folder, backend);
                MaskedLmHead head = MaskedLmHead.load(folder, model)) {
            assertThat(model.task()).isEqualTo(TaskType.FEATURE_EXTRACTION);
            assertAnswers("logits", (ids, mask) -> head.logits(model.hidden(ids, mask)));
            try (PeftModel peft = new PeftModel(model, 1)) {
                peft.loadAdapter("default", folder.resolve("adapter"));
                assertAnswers("adapted", (ids, mask) -> head.logits(model.hidden(ids, mask)));
            }
            assertAnswers("logits", (ids, mask) -> head.logits(model.hidden(ids, mask)));
        }
    }

    @Test
    void anAdapterMayBringThePoolerThatTheBaseLacks() {
        try (BertModel model = (BertModel) HfModels.load(folder, backend)) {
            assertThat(model.hasPooler()).isFalse();
            try (PeftModel peft = new PeftModel(model, 1)) {
                peft.loadAdapter("default", folder.resolve("with-pooler"));
                assertAnswers("classes", peft::logits);
            }
            assertThat(model.hasPooler()).isFalse();
            assertThat(model.task()).isEqualTo(TaskType.FEATURE_EXTRACTION);
        }
    }

    @Test
    void aFolderWithoutTheHeadIsRefused() {
        Path bert = Fixtures.base("bert");
        try (BertModel model = (BertModel) HfModels.load(bert, backend)) {
            assertThatThrownBy(() -> MaskedLmHead.load(bert, model))
                    .isInstanceOf(InputException.class)
                    .hasMessageContaining("cls.predictions.transform.dense.weight is missing");
        }
    }
}
