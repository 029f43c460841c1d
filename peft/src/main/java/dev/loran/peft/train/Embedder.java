package dev.loran.peft.train;

import dev.loran.engine.Scope;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.task.EmbedTask;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Consumer;

/// Computes the vectors of many texts by a model of task `embed`.
///
/// ```java
/// List<float[]> vectors = Embedder.vectors(classifier, tokenizer, List.of("red shoes", "blue boots"), 32);
/// System.out.println(vectors.getFirst().length);
/// ```
public final class Embedder extends BufferedAnswers<Row.Unlabelled, Embedder.Vector> {
    /// @param values (C)
    public record Vector(String text, float[] values) {}

    /// @param model its card says how texts are read
    /// @param batchSize texts per batch
    /// @param each receives the texts, each with its vector; a text must not have a second one
    /// @throws IllegalArgumentException if the model is for another task
    public Embedder(TaskModel model, Tokenizer tokenizer, int batchSize, Consumer<Vector> each) {
        super(model, tokenizer, batchSize, each);
        if (!(model.card().task() instanceof EmbedTask)) {
            throw new IllegalArgumentException(
                    "embedder: the model is for task " + model.card().task().name() + ", not embed");
        }
    }

    /// The vectors of a few texts, in their order.
    public static List<float[]> vectors(TaskModel model, Tokenizer tokenizer, List<String> texts, int batchSize) {
        List<float[]> vectors = new ArrayList<>();
        Embedder embedder = new Embedder(model, tokenizer, batchSize, vector -> vectors.add(vector.values()));
        texts.forEach(text -> embedder.add(new Row.Unlabelled(text, null)));
        embedder.finish();
        return vectors;
    }

    @Override
    Examples encoded(List<Row.Unlabelled> rows, Tokenizer tokenizer, Examples.Options reading) {
        return Examples.of(new EmbedTask().unlabelled(), rows, tokenizer, reading, null);
    }

    @Override
    List<Vector> answers(Batch batch, List<Row.Unlabelled> rows, Examples examples) {
        double[] all;
        try (Scope scope = Scope.open()) {
            all = model().logits(batch).toDoubles();
        }
        model().requireFinite(all);
        int width = all.length / batch.batchSize();
        List<Vector> vectors = new ArrayList<>();
        for (int i = 0; i < batch.batchSize(); i++) {
            String text = rows.get(batch.rows()[i]).text();
            float[] values = new float[width];
            for (int c = 0; c < width; c++) {
                values[c] = (float) all[i * width + c];
            }
            vectors.add(new Vector(text, values));
        }
        return vectors;
    }
}
