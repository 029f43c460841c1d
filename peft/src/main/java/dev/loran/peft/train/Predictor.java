package dev.loran.peft.train;

import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Labels;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.task.ClassifyTask;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.task.TextClassifier;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/// Predicts the classes of many unlabeled texts, and returns the vectors that the predictions are based on.
///
/// ```java
/// Predictor predictor = new Predictor(classifier, tokenizer, 32, answer -> System.out.println(answer.label()));
/// texts.forEach(predictor::add);
/// predictor.finish();
/// ```
///
/// **Threads**: [#answers] may be called from all of those that share the model.
public final class Predictor extends BufferedAnswers<Row.Unlabelled, Predictor.Answer> {
    private final TextClassifier classifier;
    private final Labels labels;

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
        super(model, tokenizer, batchSize, each);
        TaskCard card = model.card();
        if (card.labels() == null || !(model.head() instanceof TextClassifier own)) {
            throw new IllegalArgumentException(
                    "predictor: the model is for task " + card.task().name() + ", not classify");
        }
        this.classifier = own;
        this.labels = card.labels();
    }

    /// Answers a few texts at once. For pairs of texts, use [BufferedAnswers#add].
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

    @Override
    Examples encoded(List<Row.Unlabelled> rows, Tokenizer tokenizer, Examples.Options reading) {
        return ClassifyTask.unlabelled(rows, tokenizer, reading);
    }

    @Override
    List<Answer> answers(Batch batch, List<Row.Unlabelled> rows, Examples examples) {
        float[] vectors;
        double[] logits;
        try (Scope scope = Scope.open()) {
            Tensor pooled = model().pooled(batch);
            vectors = pooled.toFloats();
            logits = classifier.logits(pooled).toDoubles();
        }
        model().requireFinite(logits);
        int classes = labels.size();
        int width = vectors.length / batch.batchSize();
        List<Answer> answers = new ArrayList<>();
        for (int i = 0; i < batch.batchSize(); i++) {
            double[] own = Arrays.copyOfRange(logits, i * classes, (i + 1) * classes);
            float[] vector = Arrays.copyOfRange(vectors, i * width, (i + 1) * width);
            answers.add(answer(rows.get(batch.rows()[i]), own, vector));
        }
        return answers;
    }

    private Answer answer(Row.Unlabelled row, double[] logits, float[] vector) {
        double[] probabilities = labels.several()
                ? Arrays.stream(logits).map(ClassifyTask::probability).toArray()
                : softmax(logits);
        int best = 0;
        for (int c = 1; c < probabilities.length; c++) {
            best = probabilities[c] > probabilities[best] ? c : best;
        }
        String label = labels.names().get(best);
        return new Answer(
                row.text(),
                row.textPair(),
                label,
                labels.several() ? over(probabilities) : List.of(label),
                probabilities[best],
                probabilities,
                vector);
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
