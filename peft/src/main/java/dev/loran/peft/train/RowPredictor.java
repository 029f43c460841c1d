package dev.loran.peft.train;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.nn.Layer;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.DataLoader;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Guard;
import dev.loran.peft.task.Predicts;
import dev.loran.peft.task.TaskCard;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;
import java.util.function.Consumer;

/// Answers many rows of a task that [Predicts], as a [Predictor] does those of a classifier: in their order, from
/// batches of rows of similar length, with 50 batches in memory.
///
/// **Threads**: as a [Predictor]'s.
public final class RowPredictor {
    private static final int WAITING_BATCHES = 50;

    private final TaskModel model;
    private final Predicts task;
    private final Tokenizer tokenizer;
    private final Examples.Options reading;
    private final int batchSize;
    private final Consumer<ObjectNode> each;
    private final ObjectMapper json = new ObjectMapper();
    private final List<Row> waiting = new ArrayList<>();
    private int truncated;

    /// @param batchSize rows per batch
    /// @param each receives the rows with their answers
    /// @throws IllegalArgumentException if the model's task does not predict
    public RowPredictor(TaskModel model, Tokenizer tokenizer, int batchSize, Consumer<ObjectNode> each) {
        TaskCard card = model.card();
        if (!(card.task() instanceof Predicts predicts)) {
            throw new IllegalArgumentException(
                    "predictor: the model is for task " + card.task().name() + ", which has no answers to write");
        }
        int room = model.model().facts().maxPositions() - model.virtualTokens();
        this.model = model;
        this.task = predicts;
        this.tokenizer = tokenizer;
        this.reading = Examples.Options.of(card.maxLength() > 0 ? Math.min(card.maxLength(), room) : room)
                .withTextPrefix(card.textPrefix());
        this.batchSize = batchSize;
        this.each = each;
    }

    /// Adds a row of [Predicts#unlabelled]. May deliver the answers to it and to earlier rows immediately.
    public void add(Row row) {
        waiting.add(row);
        if (waiting.size() == (long) WAITING_BATCHES * batchSize) {
            finish();
        }
    }

    /// Answers all buffered rows with the model in evaluation mode, whatever mode it is in.
    public void finish() {
        if (waiting.isEmpty()) {
            return;
        }
        Examples rows = Examples.of(task.unlabelled(), waiting, tokenizer, reading, null);
        truncated += rows.truncated();
        ObjectNode[] lines = new ObjectNode[rows.size()];
        List<Batch> batches = new DataLoader(rows, DataLoader.Options.evaluation(batchSize)).epoch(0);
        try (Guard.Use use = model.model().reading("predict");
                Autograd.Mode mode = Autograd.noGrad()) {
            Layer.evaluating(() -> {
                batches.forEach(batch -> answer(batch, rows, lines));
                return lines;
            });
        }
        waiting.clear();
        for (ObjectNode line : lines) {
            each.accept(Objects.requireNonNull(line));
        }
    }

    /// The number of rows that were longer than the model can read and were truncated.
    public int truncated() {
        return truncated;
    }

    private void answer(Batch batch, Examples rows, ObjectNode[] lines) {
        double[] outputs;
        try (Scope scope = Scope.open()) {
            outputs = model.logits(batch).toDoubles();
        }
        int width = outputs.length / batch.batchSize();
        for (int i = 0; i < batch.batchSize(); i++) {
            double[] own = Arrays.copyOfRange(outputs, i * width, (i + 1) * width);
            if (Double.isNaN(own[0])) {
                throw new InputException(
                        "the model answers with what is no number (NaN); its weights are damaged, or its"
                                + " training diverged; train again, with a lower --lr");
            }
            int row = batch.rows()[i];
            ObjectNode line = json.createObjectNode();
            task.answer(model.card(), waiting.get(row), rows.row(row), own, line);
            lines[row] = line;
        }
    }
}
