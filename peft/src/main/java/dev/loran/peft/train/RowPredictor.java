package dev.loran.peft.train;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Scope;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.task.Predicts;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.function.Consumer;

/// Answers many rows of a task that [Predicts], each by a line of JSON.
public final class RowPredictor extends BufferedAnswers<Row, ObjectNode> {
    private final Predicts task;
    private final ObjectMapper json = new ObjectMapper();

    /// @param batchSize rows per batch
    /// @param each receives the answers, in the order of the rows
    /// @throws IllegalArgumentException if the model's task does not predict
    public RowPredictor(TaskModel model, Tokenizer tokenizer, int batchSize, Consumer<ObjectNode> each) {
        super(model, tokenizer, batchSize, each);
        if (!(model.card().task() instanceof Predicts predicts)) {
            throw new IllegalArgumentException("predictor: the model is for task "
                    + model.card().task().name() + ", which has no answers to write");
        }
        this.task = predicts;
    }

    @Override
    Examples encoded(List<Row> rows, Tokenizer tokenizer, Examples.Options reading) {
        return Examples.of(task.unlabelled(), rows, tokenizer, reading, null);
    }

    @Override
    List<ObjectNode> answers(Batch batch, List<Row> rows, Examples examples) {
        double[] outputs;
        try (Scope scope = Scope.open()) {
            outputs = model().logits(batch).toDoubles();
        }
        model().requireFinite(outputs);
        int width = outputs.length / batch.batchSize();
        List<ObjectNode> lines = new ArrayList<>();
        for (int i = 0; i < batch.batchSize(); i++) {
            double[] own = Arrays.copyOfRange(outputs, i * width, (i + 1) * width);
            int row = batch.rows()[i];
            ObjectNode line = json.createObjectNode();
            task.answer(model().card(), rows.get(row), examples.row(row), own, line);
            lines.add(line);
        }
        return lines;
    }
}
