package dev.loran.peft.train;

import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.nn.Layer;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.DataLoader;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Labels;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.model.Guard;
import dev.loran.peft.task.ClassifyTask;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.task.TextClassifier;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/// Predicts the classes of many unlabeled texts, and returns the vectors that the predictions are based on.
///
/// Texts are added one by one and buffered until there are 50 batches of them. Batches are formed from texts of similar
/// length, so that there is little padding, and the answers are delivered in the order in which the texts were added.
/// Only the buffered texts are in memory, so a stream may have any length. Except for rounding, an answer does not
/// depend on the other texts in its batch.
///
/// ```java
/// Predictor predictor = new Predictor(classifier, tokenizer, 32, answer -> System.out.println(answer.label()));
/// texts.forEach(predictor::add);
/// predictor.finish();
/// ```
///
/// **Threads**: a predictor belongs to one thread. Model and tokenizer may be shared by any number of predictors on as
/// many threads, and [#answers] may be called from all of them; changing the model fails meanwhile.
public final class Predictor {
    private static final int WAITING_BATCHES = 50;

    private final TaskModel model;
    private final TextClassifier classifier;
    private final Labels labels;
    private final Tokenizer tokenizer;
    private final Examples.Options reading;
    private final int batchSize;
    private final Consumer<Answer> each;
    private final List<Row.Unlabelled> waiting = new ArrayList<>();
    private int truncated;

    /// @param textPair the second text of a pair; null for a single text
    /// @param label the most probable class
    /// @param labels where a text may have several: those with a probability over [ClassifyTask#THRESHOLD]; otherwise
    ///     `label`
    /// @param probability the probability of `label`
    /// @param probabilities of all classes, in the order of the label ids; they sum to 1 if a text has one of
    ///     them
    /// @param embedding the pooled vector that is the head's input, (C)
    public record Answer(
            String text,
            @Nullable String textPair,
            String label,
            List<String> labels,
            double probability,
            double[] probabilities,
            float[] embedding) {}

    /// @param model classifies with a [TextClassifier]; its card says how texts are read
    /// @param batchSize texts per batch
    /// @param each receives the answers
    /// @throws IllegalArgumentException if the model is for another task
    public Predictor(TaskModel model, Tokenizer tokenizer, int batchSize, Consumer<Answer> each) {
        TaskCard card = model.card();
        if (card.labels() == null || !(model.head() instanceof TextClassifier classifier)) {
            throw new IllegalArgumentException(
                    "predictor: the model is for task " + card.task().name() + ", not classify");
        }
        int room = model.model().facts().maxPositions() - model.virtualTokens();
        this.model = model;
        this.classifier = classifier;
        this.labels = card.labels();
        this.tokenizer = tokenizer;
        this.reading = Examples.Options.of(card.maxLength() > 0 ? Math.min(card.maxLength(), room) : room)
                .withTextPrefix(card.textPrefix());
        this.batchSize = batchSize;
        this.each = each;
    }

    /// Answers a few texts at once. For pairs of texts, use [#add(Row.Unlabelled)].
    public static List<Answer> answers(TaskModel model, Tokenizer tokenizer, List<String> texts, int batchSize) {
        List<Answer> answers = new ArrayList<>();
        Predictor predictor = new Predictor(model, tokenizer, batchSize, answers::add);
        texts.forEach(predictor::add);
        predictor.finish();
        return answers;
    }

    /// Adds a text. May deliver the answers to it and to earlier texts immediately.
    public void add(String text) {
        add(new Row.Unlabelled(text, null));
    }

    /// As above, with a text or a pair of texts.
    public void add(Row.Unlabelled row) {
        waiting.add(row);
        if (waiting.size() == (long) WAITING_BATCHES * batchSize) {
            finish();
        }
    }

    /// Answers all buffered texts with the model in evaluation mode, whatever mode it is in.
    public void finish() {
        if (waiting.isEmpty()) {
            return;
        }
        Examples texts = ClassifyTask.unlabelled(waiting, tokenizer, reading);
        truncated += texts.truncated();
        Answer[] answers = new Answer[texts.size()];
        List<Batch> batches = new DataLoader(texts, DataLoader.Options.evaluation(batchSize)).epoch(0);
        // All batches see the same state of the model: changing it in between is refused.
        try (Guard.Use use = model.model().reading("predict");
                Autograd.Mode mode = Autograd.noGrad()) {
            Layer.evaluating(() -> {
                batches.forEach(batch -> answer(batch, answers));
                return answers;
            });
        }
        waiting.clear();
        for (Answer answer : answers) {
            each.accept(Objects.requireNonNull(answer));
        }
    }

    /// The number of texts that were longer than the model can read and were truncated.
    public int truncated() {
        return truncated;
    }

    private void answer(Batch batch, Answer[] answers) {
        float[] vectors;
        double[] logits;
        try (Scope scope = Scope.open()) {
            Tensor pooled = model.pooled(batch);
            vectors = pooled.toFloats();
            logits = classifier.logits(pooled).toDoubles();
        }
        int classes = labels.size();
        int width = vectors.length / batch.batchSize();
        for (int i = 0; i < batch.batchSize(); i++) {
            double[] own = Arrays.copyOfRange(logits, i * classes, (i + 1) * classes);
            double[] probabilities = labels.several()
                    ? Arrays.stream(own).map(ClassifyTask::probability).toArray()
                    : softmax(own);
            int best = 0;
            for (int c = 1; c < classes; c++) {
                best = probabilities[c] > probabilities[best] ? c : best;
            }
            int row = batch.rows()[i];
            answers[row] = new Answer(
                    waiting.get(row).text(),
                    waiting.get(row).textPair(),
                    labels.names().get(best),
                    labels.several()
                            ? over(probabilities)
                            : List.of(labels.names().get(best)),
                    probabilities[best],
                    probabilities,
                    Arrays.copyOfRange(vectors, i * width, (i + 1) * width));
        }
    }

    private List<String> over(double[] probabilities) {
        List<String> over = new ArrayList<>();
        for (int c = 0; c < probabilities.length; c++) {
            if (probabilities[c] > ClassifyTask.THRESHOLD) {
                over.add(labels.names().get(c));
            }
        }
        return over;
    }

    private static double[] softmax(double[] logits) {
        double max = Arrays.stream(logits).max().orElse(0);
        double[] e = Arrays.stream(logits).map(x -> Math.exp(x - max)).toArray();
        double sum = Arrays.stream(e).sum();
        return Arrays.stream(e).map(x -> x / sum).toArray();
    }
}
