package dev.loran.peft.task;

import dev.loran.peft.data.Batch;
import dev.loran.peft.data.Encoding;
import dev.loran.peft.data.Example;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Fields;
import dev.loran.peft.data.Labels;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.RowSource;
import dev.loran.peft.data.Target;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.Problem;
import dev.loran.peft.model.TaskType;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.function.Predicate;
import java.util.function.UnaryOperator;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;

/// `classify`: one label for a text, or for a pair of texts; or, where the rows have lists, any number of labels. Rows
/// are [Row.Classify]s or [Row.Labelled]s. The target of an example is the id of its class, or [Batch#IGNORE] if the
/// class is unknown; with several labels, the ids of all of them in ascending order.
public record ClassifyTask() implements Task {
    private static final Metric ACCURACY = new Metric("accuracy", true);
    private static final Metric MICRO_F1 = new Metric("micro_f1", true);

    /// A label is given if its probability is higher.
    public static final double THRESHOLD = 0.5;

    @Override
    public String name() {
        return "classify";
    }

    @Override
    public String form() {
        return "{\"text\",\"label\"} or {\"text\",\"text_pair\",\"label\"}";
    }

    @Override
    public List<String> fields() {
        return List.of("text", "text_pair", "label");
    }

    @Override
    public Row row(Fields fields) {
        String text = fields.text("text");
        String textPair = fields.optional("text_pair");
        if (!fields.isList("label")) {
            return new Row.Classify(text, textPair, fields.label("label"));
        }
        List<String> labels = fields.names("label");
        if (labels.stream().distinct().count() < labels.size()) {
            throw fields.bad("field \"label\" has a label twice: " + labels);
        }
        return new Row.Labelled(text, textPair, labels);
    }

    @Override
    public void check(@Nullable Labels labels) {
        if (labels == null) {
            throw new InputException("task " + name() + " needs labels");
        }
    }

    // ---- examples and batches

    @Override
    public Encoding encoding(Tokenizer tokenizer, Examples.Options options, @Nullable Labels labels) {
        LmTask.refuseConcatenation(this, options);
        return new Labelled(tokenizer, options, labels);
    }

    static Tokenizer.Encoded encode(
            Tokenizer tokenizer, Examples.Options options, String text, @Nullable String textPair) {
        String first = options.textPrefix() + text;
        return textPair == null
                ? tokenizer.encode(first, options.maxLength())
                : tokenizer.encode(first, textPair, options.maxLength());
    }

    private static final class Labelled implements Encoding {
        private final Tokenizer tokenizer;
        private final Examples.Options options;
        private @Nullable Labels labels;

        /// Classes in order of first appearance; the target of an example is an index here until all classes are known.
        private final Map<String, Integer> places = new LinkedHashMap<>();

        /// Whether rows have lists of labels; null before the first.
        private @Nullable Boolean lists;

        Labelled(Tokenizer tokenizer, Examples.Options options, @Nullable Labels given) {
            this.tokenizer = tokenizer;
            this.options = options;
            this.labels = given;
        }

        @Override
        public void add(Row row, Sink out) {
            switch (row) {
                case Row.Classify one -> {
                    requireForm(false, out);
                    add(one.text(), one.textPair(), one.label(), List.of(one.label()), out);
                }
                case Row.Labelled any -> {
                    requireForm(true, out);
                    String answer = any.labels().stream().sorted().collect(Collectors.joining("\0"));
                    add(any.text(), any.textPair(), answer, any.labels(), out);
                }
                case Row.Unlabelled _ -> throw out.bad("a row without a label");
                default ->
                    throw out.bad("a row of another form, " + row.getClass().getSimpleName()
                            + ", among rows of task classify");
            }
        }

        private void add(String text, @Nullable String textPair, String answer, List<String> names, Sink out) {
            int[] target = new int[names.size()];
            for (int i = 0; i < target.length; i++) {
                String name = names.get(i);
                if (labels != null) {
                    requireKnown(name, labels, out);
                }
                Integer place = places.putIfAbsent(name, places.size());
                target[i] = place == null ? places.size() - 1 : place;
            }
            Tokenizer.Encoded encoded = encode(tokenizer, options, text, textPair);
            if (textPair == null) {
                out.note(text, answer, encoded.ids(), tokenizer.aroundText());
            } else {
                out.note(text + '\0' + textPair, answer, encoded.ids(), tokenizer.aroundPair());
            }
            out.example(Example.of(encoded, target));
        }

        private void requireForm(boolean list, Sink out) {
            String what = "field \"label\" is " + (list ? "a list" : "one name");
            if (labels != null && labels.several() != list) {
                throw out.bad(what
                        + (list
                                ? ", but the model gives one class for a text; give one name"
                                : ", but the model gives any number of labels; write a list: [\"a\"]"));
            }
            if (lists != null && lists != list) {
                throw out.bad(what + ", but " + (lists ? "a list" : "one name")
                        + " in the rows before; write lists in all rows: [\"a\"]");
            }
            lists = list;
        }

        private static void requireKnown(String label, Labels given, Sink out) {
            try {
                given.id(label);
            } catch (InputException e) {
                throw out.bad("field \"label\": " + e.getMessage());
            }
        }

        @Override
        public UnaryOperator<Example> end(Sink out) {
            Labels all = labels;
            if (all == null) {
                try {
                    all = Labels.of(places.keySet(), Boolean.TRUE.equals(lists));
                } catch (InputException e) {
                    throw new InputException(out.source() + ": field \"label\": " + e.getMessage(), e);
                }
            }
            labels = all;
            int[] ids = places.keySet().stream().mapToInt(all::id).toArray();
            return e -> new Example(
                    e.texts(),
                    Arrays.stream(e.target()).map(place -> ids[place]).sorted().toArray(),
                    e.truncated());
        }

        @Override
        public @Nullable Labels labels() {
            return labels;
        }
    }

    /// Texts whose classes are unknown.
    public static Examples unlabelled(List<Row.Unlabelled> texts, Tokenizer tokenizer, Examples.Options options) {
        Encoding encoding = (row, out) -> {
            Row.Unlabelled text = (Row.Unlabelled) row;
            out.example(Example.of(encode(tokenizer, options, text.text(), text.textPair()), Batch.IGNORE));
        };
        return Examples.read(RowSource.of(texts), new ClassifyTask(), encoding, tokenizer, options);
    }

    /// With [Labels#weights], there is a second target: for one class, the weight of each row's class at its place in
    /// (rows, labels), all together 1; for several labels, the factors of
    /// [dev.loran.peft.model.Losses#weightedBinaryCrossEntropy].
    @Override
    public Targets targets(Examples examples, int[] rows, int length) {
        Labels classes = examples.labelsOrNull();
        double[] weights = classes == null ? null : classes.weights();
        if (classes != null && classes.several()) {
            return several(examples, rows, classes.size(), weights);
        }
        int[] labels = new int[rows.length];
        double sum = 0;
        for (int b = 0; b < rows.length; b++) {
            labels[b] = examples.target(rows[b])[0];
            sum += weights == null || labels[b] == Batch.IGNORE ? 0 : weights[labels[b]];
        }
        if (weights == null) {
            return Targets.of(labels, rows.length, rows.length);
        }
        float[] shares = new float[rows.length * weights.length];
        for (int b = 0; b < rows.length; b++) {
            if (labels[b] != Batch.IGNORE) {
                shares[b * weights.length + labels[b]] = (float) (weights[labels[b]] / sum);
            }
        }
        return new Targets(
                List.of(new Target.Ints(labels, rows.length), new Target.Floats(shares, rows.length, weights.length)),
                sum);
    }

    private static Targets several(Examples examples, int[] rows, int classes, double @Nullable [] weights) {
        float[] hot = new float[rows.length * classes];
        float[] factors = new float[hot.length];
        Arrays.fill(factors, 1);
        for (int b = 0; b < rows.length; b++) {
            for (int label : examples.target(rows[b])) {
                hot[b * classes + label] = 1;
                factors[b * classes + label] = weights == null ? 1 : (float) weights[label];
            }
        }
        Target there = new Target.Floats(hot, rows.length, classes);
        Target factor = new Target.Floats(factors, rows.length, classes);
        return new Targets(weights == null ? List.of(there) : List.of(there, factor), rows.length);
    }

    @Override
    public boolean hasShippedRows() {
        return true;
    }

    // ---- the head

    @Override
    public Head head(Site site) {
        Labels labels = Objects.requireNonNull(site.card().labels());
        return TextClassifier.at(site, problem(labels), labels.size());
    }

    @Override
    public Problem problem(@Nullable Labels labels) {
        return labels != null && labels.several() ? Problem.MULTI_LABEL : Problem.SINGLE_LABEL;
    }

    @Override
    public @Nullable TaskCard card(Model model) {
        Labels labels = isClassifier(model) ? named(model) : null;
        return labels == null ? null : TaskCard.classify(labels, 0);
    }

    @Override
    public @Nullable Labels labels(Model model) {
        return !isClassifier(model) || model.labels().getFirst().equals("LABEL_0") ? null : named(model);
    }

    private static boolean isClassifier(Model model) {
        return model.task() == TaskType.SEQ_CLS
                && model.problem() != Problem.REGRESSION
                && model.labels().size() > 1;
    }

    private static Labels named(Model model) {
        return new Labels(model.labels(), model.problem() == Problem.MULTI_LABEL);
    }

    @Override
    public boolean pools() {
        return true;
    }

    // ---- metrics

    /// The metric of one class a text; with several labels, it is `micro_f1`.
    @Override
    public Metric headline() {
        return ACCURACY;
    }

    @Override
    public Metric headline(Predicate<String> measured) {
        return measured.test(MICRO_F1.name()) ? MICRO_F1 : ACCURACY;
    }

    @Override
    public Meter meter(Examples rows) {
        Labels labels = rows.labels();
        return labels.several() ? new Several(labels.names()) : new Single(labels.names());
    }

    /// `accuracy`: the share of the rows that are classified correctly. `macro_f1`: the mean, over the classes that
    /// appear in the rows or in the answers, of the harmonic mean of precision and recall.
    private static final class Single implements Meter {
        private final List<String> names;
        private final ClassCounts counts;
        /// How many rows of each class have each answer.
        private final int[][] confusion;

        private double loss;
        private int rows;

        Single(List<String> names) {
            this.names = names;
            counts = new ClassCounts(names);
            confusion = new int[names.size()][names.size()];
        }

        @Override
        public void add(Batch batch, double[] logits) {
            int classes = names.size();
            for (int row = 0; row < batch.batchSize(); row++) {
                int label = batch.labels()[row];
                int answer = largest(logits, row * classes, classes);
                for (int c = 0; c < classes; c++) {
                    counts.add(c, c == label, c == answer);
                }
                confusion[label][answer]++;
                loss += crossEntropy(logits, row * classes, classes, label);
            }
            rows += batch.batchSize();
        }

        @Override
        public Evaluation evaluation() {
            Map<String, List<Number>> table = new LinkedHashMap<>();
            int correct = 0;
            for (int c = 0; c < names.size(); c++) {
                correct += confusion[c][c];
                table.put(
                        names.get(c),
                        Arrays.stream(confusion[c]).<Number>mapToObj(n -> n).toList());
            }
            Map<String, Double> metrics = new LinkedHashMap<>();
            metrics.put(ACCURACY.name(), (double) correct / rows);
            metrics.put("macro_f1", counts.macroF1());
            return new Evaluation(
                    rows,
                    loss / rows,
                    metrics,
                    ACCURACY,
                    List.of(counts.table("classes", "rows"), new Evaluation.Table("confusion", names, table)));
        }
    }

    /// `micro_f1`: the harmonic mean of precision and recall over all labels of all rows. It is the headline, since
    /// every decision counts the same: the macro mean jumps with the few rows of a rare label. `macro_f1`: the mean of
    /// the labels' own, over those that appear in the rows or in the answers. `accuracy`: the share of the rows whose
    /// labels are all right, as in scikit-learn (exact match).
    private static final class Several implements Meter {
        private final ClassCounts counts;
        private final int labels;
        private double loss;
        private int exact;
        private int rows;

        Several(List<String> names) {
            counts = new ClassCounts(names);
            labels = names.size();
        }

        @Override
        public void add(Batch batch, double[] logits) {
            float[] there = ((Target.Floats) batch.targets().getFirst()).values();
            for (int row = 0; row < batch.batchSize(); row++) {
                boolean same = true;
                double sum = 0;
                for (int c = 0; c < labels; c++) {
                    double x = logits[row * labels + c];
                    boolean is = there[row * labels + c] > 0;
                    boolean answered = probability(x) > THRESHOLD;
                    counts.add(c, is, answered);
                    same &= is == answered;
                    sum += binaryCrossEntropy(x, is ? 1 : 0);
                }
                exact += same ? 1 : 0;
                loss += sum / labels;
            }
            rows += batch.batchSize();
        }

        @Override
        public Evaluation evaluation() {
            Map<String, Double> metrics = new LinkedHashMap<>();
            metrics.put(MICRO_F1.name(), counts.microF1());
            metrics.put("macro_f1", counts.macroF1());
            metrics.put(ACCURACY.name(), (double) exact / rows);
            return new Evaluation(rows, loss / rows, metrics, MICRO_F1, List.of(counts.table("classes", "rows")));
        }
    }

    /// The probability of one of several labels, from its logit: σ(x).
    public static double probability(double logit) {
        return 1 / (1 + Math.exp(-logit));
    }

    /// −y · log σ(x) − (1 − y) · log σ(−x), as softplus(x) − x · y, without overflow.
    static double binaryCrossEntropy(double x, double y) {
        return Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))) - x * y;
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

    @Override
    public String toString() {
        return name();
    }
}
