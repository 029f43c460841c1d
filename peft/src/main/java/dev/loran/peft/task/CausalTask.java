package dev.loran.peft.task;

import dev.loran.engine.Tensor;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.Example;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Target;
import dev.loran.peft.data.Tokenizer;
import java.util.Arrays;
import java.util.List;
import java.util.stream.IntStream;

/// A task of a causal language model: predict the next token of each row, from the row's second token on, or from the
/// first token after a prompt. The target of an example is the length of its prompt, 0 for none, or for each of several
/// joined texts its length and that of its prompt. The target of a batch is (B, T): the next tokens, as in
/// [Batch#labels]. An evaluation uses the loss.
public interface CausalTask extends Task {
    /// The ids of each text after its prompt; a text's first token is never predicted.
    @Override
    default Targets targets(Examples examples, int[] rows, int length) {
        int[] labels = new int[rows.length * length];
        int[] texts = new int[rows.length * length];
        Arrays.fill(labels, Batch.IGNORE);
        int terms = 0;
        for (int b = 0; b < rows.length; b++) {
            int[] ids = examples.ids(rows[b]);
            int[] target = examples.target(rows[b]);
            int[] lengths = target.length == 1 ? new int[] {ids.length, target[0]} : target;
            int from = 0;
            for (int text = 0; text < lengths.length / 2; text++) {
                int end = from + lengths[2 * text];
                int prompt = lengths[2 * text + 1];
                int learnt = from + Math.max(prompt, 1);
                // The first id of a row has nothing before it to be predicted from, but that of a later text has.
                int copied = from == 0 ? prompt : learnt;
                System.arraycopy(ids, copied, labels, b * length + copied, end - copied);
                Arrays.fill(texts, b * length + from, b * length + end, text + 1);
                terms += end - learnt;
                from = end;
            }
        }
        List<Target> next = List.of(new Target.Ints(labels, rows.length, length));
        return new Targets(next, terms, examples.isPacked() ? texts : null);
    }

    @Override
    default Example join(List<Example> rows) {
        int[] lengths = rows.stream()
                .flatMapToInt(row -> IntStream.of(row.texts().getFirst().ids().length, row.target()[0]))
                .toArray();
        return Example.of(ids(rows), null, lengths);
    }

    /// The ids of several examples of one text, one after another.
    static int[] ids(List<Example> rows) {
        return rows.stream()
                .flatMapToInt(row -> Arrays.stream(row.texts().getFirst().ids()))
                .toArray();
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
