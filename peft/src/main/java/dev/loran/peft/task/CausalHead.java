package dev.loran.peft.task;

import dev.loran.engine.Tensor;
import dev.loran.peft.data.Batch;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.TaskType;
import java.util.Map;

/// The model's own head for next-token prediction. The target of a batch is (B, T): the next tokens, as in
/// [Batch#labels].
final class CausalHead extends Head {
    static final Metric PERPLEXITY = new Metric("perplexity", false);

    private CausalHead() {
        super(null);
    }

    /// @throws InputException if the model has no such head
    static CausalHead of(Site site) {
        TaskType kind = site.model().task();
        if (kind != TaskType.CAUSAL_LM) {
            throw new InputException("task " + site.card().task().name() + " needs a causal language model, not the "
                    + (kind == TaskType.SEQ_CLS ? "classifier " : "encoder ")
                    + site.model().facts().modelType());
        }
        return new CausalHead();
    }

    @Override
    public Tensor logits(Feed batch) {
        return batch.model().logits(batch.ids(), batch.mask(), batch.tokenTypes());
    }

    @Override
    public Tensor loss(Feed batch) {
        return batch.model().loss(batch.ids(), batch.mask(), batch.target(0));
    }

    /// Measures the mean loss over all predicted tokens and its exponential, the perplexity. Its input is the loss.
    static Meter meter(int rows) {
        return new Meter() {
            private double sum;
            private double terms;

            @Override
            public void add(Batch batch, double[] answer) {
                sum += answer[0] * batch.lossTerms();
                terms += batch.lossTerms();
            }

            @Override
            public Evaluation evaluation() {
                double loss = sum / terms;
                return new Evaluation(rows, loss, Map.of(PERPLEXITY.name(), Math.exp(loss)), PERPLEXITY);
            }
        };
    }
}
