package dev.loran.peft.task;

import dev.loran.peft.data.Batch;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Labels;
import dev.loran.peft.io.InputException;
import java.util.Arrays;

/// How much the classes count in the loss of task `classify`, for rows of which some classes are rare.
public final class ClassWeights {
    /// Weights from the rows: of n rows with k classes, a class with m rows has n / (k · m), as scikit-learn's
    /// `balanced`; where rows have any number of labels, (n − m) / m, so that rows with and without a label count the
    /// same.
    public static final String BALANCED = "balanced";

    private ClassWeights() {}

    /// The same rows, to be trained on with weights ([Labels#weights]). Evaluations do not use them.
    ///
    /// @param weights [#BALANCED], or `label=weight,…`; labels that are not named have the weight 1
    /// @throws InputException if rows have no labels, and for weights that are none
    public static Examples of(String weights, Examples rows) {
        Labels labels = rows.labelsOrNull();
        if (labels == null) {
            throw new InputException("class weights are for task classify, not for task "
                    + rows.form().name() + "; leave them out");
        }
        double[] values = weights.strip().equals(BALANCED) ? balanced(rows, labels) : given(weights, labels);
        return rows.with(labels.withWeights(values));
    }

    private static double[] balanced(Examples rows, Labels labels) {
        int[] counts = new int[labels.size()];
        for (int row = 0; row < rows.size(); row++) {
            for (int label : rows.target(row)) {
                if (label != Batch.IGNORE) {
                    counts[label]++;
                }
            }
        }
        int total = rows.size();
        long classes = Arrays.stream(counts).filter(n -> n > 0).count();
        return Arrays.stream(counts)
                .mapToDouble(n -> {
                    if (n == 0 || labels.several() && n == total) {
                        return 1;
                    }
                    return labels.several() ? (double) (total - n) / n : (double) total / (classes * n);
                })
                .toArray();
    }

    private static double[] given(String weights, Labels labels) {
        double[] values = new double[labels.size()];
        Arrays.fill(values, 1);
        for (String pair : weights.split(",")) {
            int at = pair.lastIndexOf('=');
            try {
                double value = Double.parseDouble(pair.substring(at + 1).strip());
                if (at < 1 || !(value > 0) || Double.isInfinite(value)) {
                    throw new NumberFormatException();
                }
                values[labels.id(pair.substring(0, at).strip())] = value;
            } catch (NumberFormatException e) {
                throw new InputException(
                        "class weights: \"" + pair.strip()
                                + "\" is no label with a positive number; write balanced, or label=2,other=0.5",
                        e);
            }
        }
        return values;
    }
}
