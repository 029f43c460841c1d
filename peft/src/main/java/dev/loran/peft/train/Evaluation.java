package dev.loran.peft.train;

import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.DataLoader;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Task;
import java.util.Objects;
import java.util.function.BooleanSupplier;
import org.jspecify.annotations.Nullable;

/// How well a model does on some rows.
///
/// @param loss mean over the rows, or over the predicted tokens of a language model
/// @param accuracy share of the rows whose class is right; NaN but for [Task#CLASSIFY]
/// @param macroF1 mean over the classes that appear, in the rows or in the answers, of the harmonic mean of precision and
///     recall; NaN but for [Task#CLASSIFY]
public record Evaluation(Task task, int rows, double loss, double accuracy, double macroF1) {
    /// Of a language model: e to the loss.
    public double perplexity() {
        return Math.exp(loss);
    }

    /// Evaluates `learner`, which is in evaluation mode afterwards.
    public static Evaluation of(Learner learner, Examples examples, int batchSize) {
        return Objects.requireNonNull(of(learner, examples, batchSize, () -> false));
    }

    /// As above, given up once `stop` says so, which is asked before each batch: null.
    static @Nullable Evaluation of(Learner learner, Examples examples, int batchSize, BooleanSupplier stop) {
        DataLoader loader = new DataLoader(examples, DataLoader.Options.evaluation(batchSize));
        learner.train(false);
        try (Autograd.Mode mode = Autograd.noGrad()) {
            return learner.task() == Task.CLASSIFY
                    ? classification(learner, loader, stop)
                    : languageModel(learner, loader, stop);
        }
    }

    private static @Nullable Evaluation languageModel(Learner learner, DataLoader loader, BooleanSupplier stop) {
        double sum = 0;
        long terms = 0;
        for (Batch batch : loader.epoch(0)) {
            if (stop.getAsBoolean()) {
                return null;
            }
            try (Scope scope = Scope.open()) {
                sum += learner.loss(batch).item() * batch.lossTerms();
            }
            terms += batch.lossTerms();
        }
        return new Evaluation(learner.task(), loader.examples().size(), sum / terms, Double.NaN, Double.NaN);
    }

    private static @Nullable Evaluation classification(Learner learner, DataLoader loader, BooleanSupplier stop) {
        int classes = loader.examples().labels().size();
        int[] right = new int[classes];
        int[] answered = new int[classes];
        int[] there = new int[classes];
        double loss = 0;
        int rows = 0;
        for (Batch batch : loader.epoch(0)) {
            if (stop.getAsBoolean()) {
                return null;
            }
            double[] logits;
            try (Scope scope = Scope.open()) {
                logits = learner.logits(batch).toDoubles();
            }
            for (int row = 0; row < batch.batchSize(); row++) {
                int label = batch.labels()[row];
                int answer = largest(logits, row * classes, classes);
                there[label]++;
                answered[answer]++;
                right[label] += answer == label ? 1 : 0;
                loss += crossEntropy(logits, row * classes, classes, label);
            }
            rows += batch.batchSize();
        }
        int correct = 0;
        double f1 = 0;
        int appearing = 0;
        for (int c = 0; c < classes; c++) {
            correct += right[c];
            if (there[c] + answered[c] > 0) {
                f1 += 2.0 * right[c] / (there[c] + answered[c]);
                appearing++;
            }
        }
        return new Evaluation(Task.CLASSIFY, rows, loss / rows, (double) correct / rows, f1 / appearing);
    }

    private static int largest(double[] values, int from, int n) {
        int best = 0;
        for (int i = 1; i < n; i++) {
            if (values[from + i] > values[from + best]) {
                best = i;
            }
        }
        return best;
    }

    /// log Σ exp(logits) − logits of the label, in double precision.
    private static double crossEntropy(double[] logits, int from, int n, int label) {
        double max = logits[from + largest(logits, from, n)];
        double sum = 0;
        for (int i = 0; i < n; i++) {
            sum += Math.exp(logits[from + i] - max);
        }
        return max + Math.log(sum) - logits[from + label];
    }
}
