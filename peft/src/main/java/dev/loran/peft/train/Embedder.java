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
import java.util.stream.Stream;

/// Computes the vectors of many texts by a model of task `embed`.
///
/// ```java
/// List<float[]> vectors = Embedder.vectors(classifier, tokenizer, List.of("red shoes", "blue boots"), 32);
/// System.out.println(vectors.getFirst().length);
/// ```
public final class Embedder extends BufferedAnswers<Row, Embedder.Vector> {
    private final EmbedTask task;

    /// @param values (C)
    public record Vector(String text, float[] values) {}

    /// @param model its card says how texts are read
    /// @param batchSize texts per batch
    /// @param each receives the texts, each with its vector: [Row.Unlabelled] without a second text, or
    ///     [EmbedTask.Passage]
    /// @throws IllegalArgumentException if the model is for another task
    public Embedder(TaskModel model, Tokenizer tokenizer, int batchSize, Consumer<Vector> each) {
        super(model, tokenizer, batchSize, each);
        if (!(model.card().task() instanceof EmbedTask embed)) {
            throw new IllegalArgumentException(
                    "embedder: the model is for task " + model.card().task().name() + ", not embed");
        }
        this.task = embed;
    }

    /// The vectors of a few texts, in their order: queries, where the model tells these from passages.
    public static List<float[]> vectors(TaskModel model, Tokenizer tokenizer, List<String> texts, int batchSize) {
        return vectors(model, tokenizer, batchSize, texts.stream().<Row>map(text -> new Row.Unlabelled(text, null)));
    }

    /// The vectors of a few passages, in their order.
    public static List<float[]> passages(TaskModel model, Tokenizer tokenizer, List<String> texts, int batchSize) {
        return vectors(model, tokenizer, batchSize, texts.stream().<Row>map(EmbedTask.Passage::new));
    }

    private static List<float[]> vectors(TaskModel model, Tokenizer tokenizer, int batchSize, Stream<Row> texts) {
        List<float[]> vectors = new ArrayList<>();
        Embedder embedder = new Embedder(model, tokenizer, batchSize, vector -> vectors.add(vector.values()));
        texts.forEach(embedder::add);
        embedder.finish();
        return vectors;
    }

    @Override
    Examples encoded(List<Row> rows, Tokenizer tokenizer, Examples.Options reading) {
        return Examples.of(task.unlabelled(), rows, tokenizer, reading, null);
    }

    @Override
    List<Vector> answers(Batch batch, List<Row> rows, Examples examples) {
        double[] all;
        try (Scope scope = Scope.open()) {
            all = model().logits(batch).toDoubles();
        }
        model().requireFinite(all);
        int width = all.length / batch.batchSize();
        List<Vector> vectors = new ArrayList<>();
        for (int i = 0; i < batch.batchSize(); i++) {
            String text = EmbedTask.text(rows.get(batch.rows()[i]));
            float[] values = new float[width];
            for (int c = 0; c < width; c++) {
                values[c] = (float) all[i * width + c];
            }
            vectors.add(new Vector(text, values));
        }
        return vectors;
    }
}
