package dev.loran.peft.train;

import dev.loran.engine.Autograd;
import dev.loran.engine.nn.Layer;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.DataLoader;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.model.Guard;
import dev.loran.peft.task.TaskCard;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.function.Consumer;

/// Answers rows that are added one by one. They are buffered until there are 50 batches of them. Batches are formed
/// from rows of similar length, so that there is little padding, and the answers are delivered in the order in which
/// the rows were added. Only the buffered rows are in memory, so a stream may have any length. Except for rounding, an
/// answer does not depend on the other rows in its batch.
///
/// **Threads**: it belongs to one thread. Model and tokenizer may be shared by any number of these on as many threads;
/// changing the model fails meanwhile.
///
/// @param <R> the rows
/// @param <A> the answers
public abstract sealed class BufferedAnswers<R extends Row, A> permits Predictor, RowPredictor, Embedder {
    private static final int WAITING_BATCHES = 50;

    private final TaskModel model;
    private final Tokenizer tokenizer;
    private final Examples.Options reading;
    private final int batchSize;
    private final Consumer<A> each;
    private final List<R> waiting = new ArrayList<>();
    private int truncated;

    /// @param model its card says how rows are read
    /// @param batchSize rows per batch
    /// @param each receives the answers
    BufferedAnswers(TaskModel model, Tokenizer tokenizer, int batchSize, Consumer<A> each) {
        TaskCard card = model.card();
        int room = model.model().facts().maxPositions() - model.virtualTokens();
        this.model = model;
        this.tokenizer = tokenizer;
        this.reading = Examples.Options.of(card.maxLength() > 0 ? Math.min(card.maxLength(), room) : room)
                .withTextPrefix(card.textPrefix());
        this.batchSize = batchSize;
        this.each = each;
    }

    final TaskModel model() {
        return model;
    }

    /// The rows' ids.
    abstract Examples encoded(List<R> rows, Tokenizer tokenizer, Examples.Options reading);

    /// The answers to the rows of a batch, in its order.
    ///
    /// @param rows all that are buffered, and `examples` their ids; [Batch#rows] are places in them
    abstract List<A> answers(Batch batch, List<R> rows, Examples examples);

    /// Adds a row. May deliver the answers to it and to earlier rows immediately.
    public final void add(R row) {
        waiting.add(row);
        if (waiting.size() == (long) WAITING_BATCHES * batchSize) {
            finish();
        }
    }

    /// Answers all buffered rows with the model in evaluation mode, whatever mode it is in.
    public final void finish() {
        if (waiting.isEmpty()) {
            return;
        }
        Examples examples = encoded(waiting, tokenizer, reading);
        truncated += examples.truncated();
        Map<Integer, A> answers = new TreeMap<>(); // by row
        List<Batch> batches = new DataLoader(examples, DataLoader.Options.evaluation(batchSize)).epoch(0);
        // All batches see the same state of the model: changing it in between is refused.
        try (Guard.Use use = model.model().reading("predict");
                Autograd.Mode mode = Autograd.noGrad()) {
            Layer.evaluating(() -> {
                for (Batch batch : batches) {
                    List<A> own = answers(batch, waiting, examples);
                    for (int i = 0; i < own.size(); i++) {
                        answers.put(batch.rows()[i], own.get(i));
                    }
                }
                return answers;
            });
        }
        waiting.clear();
        answers.values().forEach(each);
    }

    /// The number of rows that were longer than the model can read and were truncated.
    public final int truncated() {
        return truncated;
    }
}
