package dev.loran.peft.task;

import dev.loran.peft.data.Batch;
import dev.loran.peft.data.Encoding;
import dev.loran.peft.data.Example;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Fields;
import dev.loran.peft.data.Labels;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.RowSource;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.Problem;
import dev.loran.peft.model.TaskType;
import dev.loran.peft.model.WithPooler;
import dev.loran.peft.task.TextClassifier.Pooling;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.function.UnaryOperator;
import org.jspecify.annotations.Nullable;

/// `classify`: one label for a text, or for a pair of texts. Rows are [Row.Classify]s; the target of an example is the
/// id of its class, or [Batch#IGNORE] if the class is unknown.
public record ClassifyTask() implements Task {
    private static final Metric ACCURACY = new Metric("accuracy", true);

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
        return new Row.Classify(fields.text("text"), fields.optional("text_pair"), fields.label("label"));
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
        LmTask.refusePacking(this, options);
        return new Labelled(tokenizer, options, labels);
    }

    private static Tokenizer.Encoded encode(
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

        Labelled(Tokenizer tokenizer, Examples.Options options, @Nullable Labels given) {
            this.tokenizer = tokenizer;
            this.options = options;
            this.labels = given;
        }

        @Override
        public void add(Row row, Sink out) {
            if (row instanceof Row.Unlabelled) {
                throw out.bad("a row without a label");
            }
            if (!(row instanceof Row.Classify(String text, String textPair, String label))) {
                throw out.bad(
                        "a row of another form, " + row.getClass().getSimpleName() + ", among rows of task classify");
            }
            if (labels != null) {
                requireKnown(label, labels, out);
            }
            Integer place = places.putIfAbsent(label, places.size());
            Tokenizer.Encoded encoded = encode(tokenizer, options, text, textPair);
            if (textPair == null) {
                out.note(text, label, encoded.ids(), tokenizer.aroundText());
            } else {
                out.note(text + '\0' + textPair, label, encoded.ids(), tokenizer.aroundPair());
            }
            out.example(Example.of(encoded, place == null ? places.size() - 1 : place));
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
                    all = Labels.of(places.keySet());
                } catch (InputException e) {
                    throw new InputException(out.source() + ": field \"label\": " + e.getMessage(), e);
                }
            }
            labels = all;
            int[] ids = places.keySet().stream().mapToInt(all::id).toArray();
            return e -> new Example(e.texts(), new int[] {ids[e.target()[0]]}, e.truncated());
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

    @Override
    public Targets targets(Examples examples, int[] rows, int length) {
        int[] labels = new int[rows.length];
        for (int b = 0; b < rows.length; b++) {
            labels[b] = examples.target(rows[b])[0];
        }
        return Targets.of(labels, rows.length, rows.length);
    }

    @Override
    public boolean hasShippedRows() {
        return true;
    }

    // ---- the head

    /// The model's own head if it has one; a new one of the family's kind if that pools as the card says; otherwise a
    /// separate one.
    @Override
    public Head head(Site site) {
        Model model = site.model();
        TaskCard card = site.card();
        Labels labels = Objects.requireNonNull(card.labels());
        requireOneLabel(model);
        boolean own;
        if (site.saved() != null) {
            own = model.classifier() != null && !Head.isIn(site.saved());
        } else if (model.classifier() != null && !model.hasNewClassifier()) {
            own = true;
        } else {
            boolean family = card.pooling() == Pooling.of(model) && !card.normalize();
            own = family && site.addClassifier(labels.size());
        }
        return own ? ofModel(model, labels) : TextClassifier.beside(site, labels.size());
    }

    /// Refuses a model's own head for something else.
    private static void requireOneLabel(Model model) {
        Problem problem = model.problem();
        if (problem != null && (model.ofTokens() || problem != Problem.SINGLE_LABEL)) {
            throw new InputException("task classify: the head of " + model.title() + " gives "
                    + (model.ofTokens()
                            ? "classes of tokens"
                            : problem == Problem.REGRESSION ? "a number" : "several labels")
                    + ", not one class for a text; use a model with another head, or without one");
        }
    }

    private static TextClassifier ofModel(Model model, Labels labels) {
        int classes = model.labels().size();
        if (classes != labels.size()) {
            throw new InputException("the model's classifier has " + classes + " classes but the data has "
                    + labels.size() + " labels: " + labels
                    + "; use rows of the model's classes, or a model without a head");
        }
        model.labels(labels.names());
        return TextClassifier.of(model);
    }

    @Override
    public @Nullable TaskCard card(Model model) {
        return model.task() == TaskType.SEQ_CLS ? TaskCard.classify(new Labels(model.labels()), 0) : null;
    }

    @Override
    public @Nullable Labels labels(Model model) {
        List<String> names = model.labels();
        return model.task() != TaskType.SEQ_CLS
                        || names.isEmpty()
                        || names.getFirst().equals("LABEL_0")
                ? null
                : new Labels(names);
    }

    @Override
    public boolean pools() {
        return true;
    }

    /// As for the family's own head, if the model has everything for that; or else the mean.
    @Override
    public Pooling pooling(Model model) {
        return model instanceof WithPooler with && !with.takesHead() ? Pooling.MEAN : Pooling.of(model);
    }

    // ---- metrics

    @Override
    public Metric headline() {
        return ACCURACY;
    }

    @Override
    public Meter meter(Examples rows) {
        return new Confusion(rows.labels().size());
    }

    /// `accuracy`: the share of the rows that are classified correctly. `macro_f1`: the mean, over the classes that
    /// appear in the rows or in the answers, of the harmonic mean of precision and recall.
    private static final class Confusion implements Meter {
        private final int classes;
        private final int[] right;
        private final int[] answered;
        private final int[] there;
        private double loss;
        private int rows;

        Confusion(int classes) {
            this.classes = classes;
            right = new int[classes];
            answered = new int[classes];
            there = new int[classes];
        }

        @Override
        public void add(Batch batch, double[] logits) {
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

        @Override
        public Evaluation evaluation() {
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
            Map<String, Double> metrics = new LinkedHashMap<>();
            metrics.put(ACCURACY.name(), (double) correct / rows);
            metrics.put("macro_f1", f1 / appearing);
            return new Evaluation(rows, loss / rows, metrics, ACCURACY);
        }
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
