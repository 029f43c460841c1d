package dev.loran.peft.task;

import dev.loran.engine.Tensor;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Labels;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.io.InputException;
import java.util.Arrays;
import org.jspecify.annotations.Nullable;

/// A task of a causal language model: predict the next token of each row, from the row's second token on, or from the
/// first token after a prompt. The target of an example is the length of its prompt, 0 for none; that of a batch is
/// (B, T): the next tokens, as in [Batch#labels]. An evaluation uses the loss.
public interface CausalTask extends Task {
    @Override
    default void check(@Nullable Labels labels) {
        if (labels != null) {
            throw new InputException("task " + name() + " has no labels");
        }
    }

    /// The ids of each row after its prompt; a row's first token is never predicted.
    @Override
    default Targets targets(Examples examples, int[] rows, int length) {
        int[] labels = new int[rows.length * length];
        Arrays.fill(labels, Batch.IGNORE);
        int terms = 0;
        for (int b = 0; b < rows.length; b++) {
            int[] ids = examples.ids(rows[b]);
            int prompt = examples.target(rows[b])[0];
            System.arraycopy(ids, prompt, labels, b * length + prompt, ids.length - prompt);
            terms += ids.length - Math.max(prompt, 1);
        }
        return Targets.of(labels, terms, rows.length, length);
    }

    /// The model's own head.
    @Override
    default Head head(Site site) {
        return CausalHead.of(site);
    }

    @Override
    default Tensor asked(Forward model, Batch batch) {
        return model.loss(batch);
    }

    /// Measures the mean loss over all predicted tokens and its exponential, the perplexity.
    @Override
    default Meter meter(Examples rows) {
        return CausalHead.meter(rows.size());
    }

    @Override
    default Metric headline() {
        return CausalHead.PERPLEXITY;
    }

    @Override
    default TaskCard card(Examples train, Tokenizer tokenizer, int maxLength) {
        return TaskCard.of(this, maxLength).withAnswers(train.answerRoom(), tokenizer.eosToken());
    }
}
