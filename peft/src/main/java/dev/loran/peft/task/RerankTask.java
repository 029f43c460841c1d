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
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/// `rerank`: how well a passage answers a query, from both read together (a cross-encoder: Nogueira and Cho 2019). Rows
/// are [Passage]s, or [Ranked]s, each of which gives an example for each of its passages. The head has one output, the
/// logit; the loss is the binary cross-entropy of its sigmoid and the label, which may be any number from 0 to 1. The
/// head is the family's own where the model has what is before it, whatever pooling its files ask for, so that
/// transformers and sentence-transformers' `CrossEncoder` read a merged model.
///
/// A text prefix comes before the query.
///
/// The target of an example is its label, as [Float#floatToIntBits], and the number of its query.
public record RerankTask() implements Predicts {
    private static final Metric NDCG = new Metric("ndcg@10", true);

    /// A passage is relevant for `mrr@10` from this label on.
    private static final double RELEVANT = 0.5;

    /// A query, and a passage with its label, from 0 to 1. Rows of one query are held out together.
    public record Passage(String query, String passage, double label) implements Row {
        @Override
        public String group() {
            return query;
        }
    }

    /// A query, the passages that answer it, and some that do not.
    public record Ranked(String query, List<String> positives, List<String> negatives) implements Row {
        public Ranked {
            positives = List.copyOf(positives);
            negatives = List.copyOf(negatives);
        }

        @Override
        public String group() {
            return query;
        }
    }

    @Override
    public String name() {
        return "rerank";
    }

    @Override
    public String form() {
        return "{\"query\",\"passage\",\"label\"}, with a label from 0 to 1, which may be called \"score\" too, or"
                + " {\"query\",\"positives\",\"negatives\"}";
    }

    @Override
    public List<String> fields() {
        return List.of("query", "passage", "label", "score", "positives", "negatives");
    }

    @Override
    public Row row(Fields fields) {
        String query = fields.text("query");
        if (!fields.has("passage") && fields.has("positives")) {
            List<String> negatives = fields.has("negatives") ? fields.strings("negatives") : List.of();
            Ranked ranked = new Ranked(query, fields.strings("positives"), negatives);
            if (ranked.positives.isEmpty() && negatives.isEmpty()) {
                throw fields.bad("\"positives\" and \"negatives\" are empty; a query needs a passage");
            }
            return ranked;
        }
        String passage = fields.text("passage");
        String field = fields.has("label") || !fields.has("score") ? "label" : "score";
        double label = fields.number(field);
        if (!(label >= 0 && label <= 1)) {
            throw fields.bad(
                    "field \"" + field + "\" is " + label + ", which is not from 0 to 1; divide grades by the highest");
        }
        return new Passage(query, passage, label);
    }

    // ---- examples and batches

    @Override
    public Encoding encoding(Tokenizer tokenizer, Examples.Options options, @Nullable Labels labels) {
        LmTask.refuseConcatenation(this, options);
        Map<String, Integer> queries = new HashMap<>();
        return new Encoding() {
            @Override
            public void add(Row row, Sink out) {
                switch (row) {
                    case Passage(String query, String passage, double label) -> add(query, passage, label, out);
                    case Ranked(String query, List<String> positives, List<String> negatives) -> {
                        positives.forEach(passage -> add(query, passage, 1, out));
                        negatives.forEach(passage -> add(query, passage, 0, out));
                    }
                    default -> throw out.bad("a row without a query");
                }
            }

            private void add(String query, String passage, double label, Sink out) {
                Tokenizer.Encoded pair = ClassifyTask.encode(tokenizer, options, query, passage);
                out.note(query + '\0' + passage, String.valueOf(label), pair.ids(), tokenizer.aroundPair());
                int number = queries.computeIfAbsent(query, q -> queries.size());
                out.example(Example.of(pair, Float.floatToIntBits((float) label), number));
            }
        };
    }

    private static float label(Examples examples, int row) {
        return Float.intBitsToFloat(examples.target(row)[0]);
    }

    @Override
    public Targets targets(Examples examples, int[] rows, int length) {
        float[] labels = new float[rows.length];
        for (int b = 0; b < rows.length; b++) {
            labels[b] = label(examples, rows[b]);
        }
        return new Targets(List.of(new Target.Floats(labels, rows.length, 1)), rows.length);
    }

    // ---- the head

    @Override
    public Head head(Site site) {
        TaskCard card = site.card().withPooling(pooling(site.model()));
        return TextClassifier.at(site.with(card), Problem.MULTI_LABEL, 1);
    }

    /// That of one label which applies or does not, for which transformers has the same loss.
    @Override
    public Problem problem(@Nullable Labels labels) {
        return Problem.MULTI_LABEL;
    }

    @Override
    public @Nullable TaskCard card(Model model) {
        boolean fits = model.task() == TaskType.SEQ_CLS && model.labels().size() == 1;
        return fits ? TaskCard.of(this, 0) : null;
    }

    // ---- answers

    @Override
    public RowForm unlabelled() {
        return new Pairs(name());
    }

    /// A query and a passage, as an [Row.Unlabelled] pair.
    private record Pairs(String name) implements RowForm {
        @Override
        public String form() {
            return "{\"query\",\"passage\"}";
        }

        @Override
        public List<String> fields() {
            return List.of("query", "passage");
        }

        @Override
        public Row row(Fields fields) {
            if (fields.has("text") && !fields.has("query")) {
                throw fields.bad(
                        "a model with one output ranks passages, for rows with \"query\" and \"passage\"; if it"
                                + " gives a number for a text, say so in its config.json: \"problem_type\": \"regression\"");
            }
            return new Row.Unlabelled(fields.text("query"), fields.text("passage"));
        }

        @Override
        public Encoding encoding(Tokenizer tokenizer, Examples.Options options, @Nullable Labels labels) {
            return new Texts(name, true).encoding(tokenizer, options, labels);
        }
    }

    /// The score is the sigmoid of the logit, as sentence-transformers' `CrossEncoder` gives it.
    @Override
    public void answer(TaskCard card, Row row, Example example, double[] outputs, ObjectNode line) {
        line.put("score", ClassifyTask.probability(outputs[0]));
    }

    // ---- metrics

    @Override
    public Metric headline() {
        return NDCG;
    }

    /// For each query, its passages are ranked by their scores; of equal scores, those with lower labels come first, so
    /// that a model which does not tell passages apart gains nothing. Means over the queries with a label that is
    /// not 0:
    ///
    /// `ndcg@10`: Σ label / log₂(1 + rank) up to rank 10, divided by the largest possible value; gains are the labels
    /// themselves, as in trec_eval and scikit-learn's `ndcg_score`. It is the headline since it knows grades.
    /// `mrr@10`: 1 / the rank of the first passage with a label of 0.5 or more, 0 beyond 10. Both are 0 if no query has
    /// such a label.
    @Override
    public Meter meter(Examples rows) {
        return new ByQuery(rows);
    }

    private static final class ByQuery implements Meter {
        private static final int DEPTH = 10;

        /// A passage of a query.
        private record Scored(double score, double label) {}

        private final Examples examples;
        private final Map<Integer, List<Scored>> queries = new LinkedHashMap<>();
        private double loss;

        ByQuery(Examples examples) {
            this.examples = examples;
        }

        @Override
        public void add(Batch batch, double[] logits) {
            for (int i = 0; i < logits.length; i++) {
                int row = batch.rows()[i];
                double label = label(examples, row);
                loss += ClassifyTask.binaryCrossEntropy(logits[i], label);
                queries.computeIfAbsent(examples.target(row)[1], q -> new ArrayList<>())
                        .add(new Scored(logits[i], label));
            }
        }

        @Override
        public Evaluation evaluation() {
            double ndcg = 0;
            double mrr = 0;
            int counted = 0;
            for (List<Scored> passages : queries.values()) {
                double[] labels = passages.stream()
                        .sorted(Comparator.comparingDouble((Scored p) -> -p.score)
                                .thenComparingDouble(Scored::label))
                        .mapToDouble(Scored::label)
                        .toArray();
                double ideal = gain(passages.stream()
                        .mapToDouble(Scored::label)
                        .boxed()
                        .sorted(Comparator.reverseOrder())
                        .mapToDouble(label -> label)
                        .toArray());
                if (ideal > 0) {
                    counted++;
                    ndcg += gain(labels) / ideal;
                    mrr += reciprocalRank(labels);
                }
            }
            Map<String, Double> metrics = new LinkedHashMap<>();
            metrics.put(NDCG.name(), ndcg / Math.max(1, counted));
            metrics.put("mrr@10", mrr / Math.max(1, counted));
            return new Evaluation(examples.size(), loss / examples.size(), metrics, NDCG);
        }

        private static double gain(double[] labels) {
            double sum = 0;
            for (int i = 0; i < labels.length && i < DEPTH; i++) {
                sum += labels[i] / VectorMeter.log2(2 + i);
            }
            return sum;
        }

        private static double reciprocalRank(double[] labels) {
            for (int i = 0; i < labels.length && i < DEPTH; i++) {
                if (labels[i] >= RELEVANT) {
                    return 1.0 / (i + 1);
                }
            }
            return 0;
        }
    }

    @Override
    public String toString() {
        return name();
    }
}
