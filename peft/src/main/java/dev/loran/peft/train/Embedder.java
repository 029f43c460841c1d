package dev.loran.peft.train;

import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.nn.Layer;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.DataLoader;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.model.Guard;
import dev.loran.peft.task.EmbedTask;
import dev.loran.peft.task.TaskCard;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;
import java.util.function.BiConsumer;

/// Computes the vectors of many texts by a model of task `embed`.
///
/// Texts are buffered and delivered in order as by [Predictor], whose rules for threads hold here too.
///
/// ```java
/// List<float[]> vectors = Embedder.vectors(classifier, tokenizer, List.of("red shoes", "blue boots"), 32);
/// System.out.println(vectors.getFirst().length);
/// ```
public final class Embedder {
    private static final int WAITING_BATCHES = 50;

    private final TaskModel model;
    private final Tokenizer tokenizer;
    private final Examples.Options reading;
    private final int batchSize;
    private final BiConsumer<String, float[]> each;
    private final List<Row.Unlabelled> waiting = new ArrayList<>();
    private int truncated;

    /// @param model its card says how texts are read
    /// @param batchSize texts per batch
    /// @param each receives the texts, each with its vector (C)
    /// @throws IllegalArgumentException if the model is for another task
    public Embedder(TaskModel model, Tokenizer tokenizer, int batchSize, BiConsumer<String, float[]> each) {
        TaskCard card = model.card();
        if (!(card.task() instanceof EmbedTask)) {
            throw new IllegalArgumentException(
                    "embedder: the model is for task " + card.task().name() + ", not embed");
        }
        int room = model.model().facts().maxPositions() - model.virtualTokens();
        this.model = model;
        this.tokenizer = tokenizer;
        this.reading = Examples.Options.of(card.maxLength() > 0 ? Math.min(card.maxLength(), room) : room)
                .withTextPrefix(card.textPrefix());
        this.batchSize = batchSize;
        this.each = each;
    }

    /// The vectors of a few texts, in their order.
    public static List<float[]> vectors(TaskModel model, Tokenizer tokenizer, List<String> texts, int batchSize) {
        List<float[]> vectors = new ArrayList<>();
        Embedder embedder = new Embedder(model, tokenizer, batchSize, (text, vector) -> vectors.add(vector));
        texts.forEach(text -> embedder.add(new Row.Unlabelled(text, null)));
        embedder.finish();
        return vectors;
    }

    /// Adds a text. May deliver its vector and those of earlier texts immediately.
    ///
    /// @param text without a second one
    public void add(Row.Unlabelled text) {
        waiting.add(text);
        if (waiting.size() == (long) WAITING_BATCHES * batchSize) {
            finish();
        }
    }

    /// Delivers the vectors of all buffered texts, with the model in evaluation mode, whatever mode it is in.
    public void finish() {
        if (waiting.isEmpty()) {
            return;
        }
        Examples texts = EmbedTask.texts(waiting, tokenizer, reading);
        truncated += texts.truncated();
        float[][] vectors = new float[texts.size()][];
        List<Batch> batches = new DataLoader(texts, DataLoader.Options.evaluation(batchSize)).epoch(0);
        try (Guard.Use use = model.model().reading("embed");
                Autograd.Mode mode = Autograd.noGrad()) {
            Layer.evaluating(() -> {
                batches.forEach(batch -> embed(batch, vectors));
                return vectors;
            });
        }
        for (int i = 0; i < vectors.length; i++) {
            each.accept(waiting.get(i).text(), Objects.requireNonNull(vectors[i]));
        }
        waiting.clear();
    }

    private void embed(Batch batch, float[][] vectors) {
        float[] all;
        try (Scope scope = Scope.open()) {
            all = model.logits(batch).toFloats();
        }
        int width = all.length / batch.batchSize();
        for (int i = 0; i < batch.batchSize(); i++) {
            vectors[batch.rows()[i]] = Arrays.copyOfRange(all, i * width, (i + 1) * width);
        }
    }

    /// The number of texts that were longer than the model reads and were truncated.
    public int truncated() {
        return truncated;
    }
}
