package dev.loran.peft.task;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.Encoding;
import dev.loran.peft.data.Example;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Fields;
import dev.loran.peft.data.Labels;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.RowForm;
import dev.loran.peft.data.Target;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.Problem;
import dev.loran.peft.model.TaskType;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;

/// `regress`: a number for a text, or for a pair of texts, such as how similar two sentences are. Rows are
/// [Row.Scored]s; the loss is the mean squared error. The target of an example is the number, as
/// [Float#floatToIntBits].
public record RegressTask() implements Predicts {
    private static final Metric PEARSON = new Metric("pearson", true);

    @Override
    public String name() {
        return "regress";
    }

    @Override
    public String form() {
        return "{\"text\",\"score\"} or {\"text\",\"text_pair\",\"score\"}, with a number, which may be called"
                + " \"label\" too";
    }

    @Override
    public List<String> fields() {
        return List.of("text", "text_pair", "score", "label");
    }

    /// The number is `score` or, where there is none, `label`.
    @Override
    public Row row(Fields fields) {
        String field = fields.has("score") || !fields.has("label") ? "score" : "label";
        double number = fields.number(field);
        if (!Float.isFinite((float) number)) {
            throw fields.bad("field \"" + field + "\" is " + number + ", which is too large");
        }
        return new Row.Scored(fields.text("text"), fields.optional("text_pair"), number);
    }

    // ---- examples and batches

    @Override
    public Encoding encoding(Tokenizer tokenizer, Examples.Options options, @Nullable Labels labels) {
        LmTask.refuseConcatenation(this, options);
        return (row, out) -> {
            if (!(row instanceof Row.Scored(String text, String textPair, double score))) {
                throw out.bad("a row without a number");
            }
            Tokenizer.Encoded encoded = ClassifyTask.encode(tokenizer, options, text, textPair);
            out.note(
                    textPair == null ? text : text + '\0' + textPair,
                    String.valueOf(score),
                    encoded.ids(),
                    textPair == null ? tokenizer.aroundText() : tokenizer.aroundPair());
            out.example(Example.of(encoded, Float.floatToIntBits((float) score)));
        };
    }

    @Override
    public Targets targets(Examples examples, int[] rows, int length) {
        float[] numbers = new float[rows.length];
        for (int b = 0; b < rows.length; b++) {
            numbers[b] = Float.intBitsToFloat(examples.target(rows[b])[0]);
        }
        return new Targets(List.of(new Target.Floats(numbers, rows.length)), rows.length);
    }

    // ---- the head

    @Override
    public Head head(Site site) {
        return TextClassifier.at(site, Problem.REGRESSION, 1);
    }

    @Override
    public Problem problem(@Nullable Labels labels) {
        return Problem.REGRESSION;
    }

    @Override
    public @Nullable TaskCard card(Model model) {
        boolean fits = model.task() == TaskType.SEQ_CLS && model.problem() == Problem.REGRESSION;
        return fits ? TaskCard.of(this, 0) : null;
    }

    @Override
    public boolean pools() {
        return true;
    }

    // ---- answers

    @Override
    public RowForm unlabelled() {
        return new Texts(name(), true);
    }

    @Override
    public void answer(TaskCard card, Row row, Example example, double[] outputs, ObjectNode line) {
        line.put("score", outputs[0]);
    }

    // ---- metrics

    @Override
    public Metric headline() {
        return PEARSON;
    }

    /// `pearson`: the correlation of answers and numbers, which unlike the error does not depend on their scale;
    /// `spearman`: that of their ranks, equal values having the mean of theirs; both 0 if all answers or all numbers
    /// are equal. `rmse`: the root of the mean squared error.
    @Override
    public Meter meter(Examples rows) {
        return new Correlation(rows.size());
    }

    private static final class Correlation implements Meter {
        private final double[] answers;
        private final double[] numbers;
        private int rows;

        Correlation(int size) {
            answers = new double[size];
            numbers = new double[size];
        }

        @Override
        public void add(Batch batch, double[] answer) {
            float[] own = ((Target.Floats) batch.targets().getFirst()).values();
            for (int i = 0; i < own.length; i++) {
                answers[rows] = answer[i];
                numbers[rows++] = own[i];
            }
        }

        @Override
        public Evaluation evaluation() {
            double squares = 0;
            for (int i = 0; i < rows; i++) {
                squares += (answers[i] - numbers[i]) * (answers[i] - numbers[i]);
            }
            Map<String, Double> metrics = new LinkedHashMap<>();
            metrics.put(PEARSON.name(), pearson(answers, numbers));
            metrics.put("spearman", spearman(answers, numbers));
            metrics.put("rmse", Math.sqrt(squares / rows));
            return new Evaluation(rows, squares / rows, metrics, PEARSON);
        }
    }

    /// Pearson's correlation of x and y; 0 if either is constant.
    static double pearson(double[] x, double[] y) {
        double meanX = Arrays.stream(x).average().orElse(0);
        double meanY = Arrays.stream(y).average().orElse(0);
        double xx = 0;
        double yy = 0;
        double xy = 0;
        for (int i = 0; i < x.length; i++) {
            double dx = x[i] - meanX;
            double dy = y[i] - meanY;
            xx += dx * dx;
            yy += dy * dy;
            xy += dx * dy;
        }
        return xx == 0 || yy == 0 ? 0 : Math.clamp(xy / Math.sqrt(xx) / Math.sqrt(yy), -1, 1);
    }

    /// Spearman's correlation of x and y: [#pearson] of their [#ranks].
    static double spearman(double[] x, double[] y) {
        return pearson(ranks(x), ranks(y));
    }

    /// The ranks of the values, from 1; equal ones have the mean of theirs.
    static double[] ranks(double[] x) {
        int[] order = IntStream.range(0, x.length)
                .boxed()
                .sorted((a, b) -> Double.compare(x[a], x[b]))
                .mapToInt(i -> i)
                .toArray();
        double[] ranks = new double[x.length];
        int to;
        for (int from = 0; from < order.length; from = to) {
            to = from + 1;
            while (to < order.length && x[order[to]] == x[order[from]]) {
                to++;
            }
            for (int i = from; i < to; i++) {
                ranks[order[i]] = (from + 1 + to) / 2.0;
            }
        }
        return ranks;
    }

    @Override
    public String toString() {
        return name();
    }
}
