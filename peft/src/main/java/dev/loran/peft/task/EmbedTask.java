package dev.loran.peft.task;

import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.functional.Functional;
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
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.WithPooler;
import dev.loran.peft.task.TextClassifier.Pooling;
import java.nio.IntBuffer;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.function.Predicate;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;

/// `embed`: vectors of texts such that the cosine of two of them says how well the texts belong together. Nothing is
/// added to the model; a text's vector is its pooled hidden states. The form of the rows determines the loss; x ranges
/// over vectors divided by their lengths, s is the inverse of the temperature:
///
/// - [Pair]s, with hard negatives or without: cross-entropy of each row's positive among the positives and negatives of
///   all rows of the batch, for the scores s · ⟨anchor, candidate⟩ (in-batch negatives: van den Oord et al. 2018;
///   Henderson et al. 2017; `MultipleNegativesRankingLoss` of sentence-transformers). A candidate is left out if
///   it is not wrong: if it is the anchor itself, or the positive of any row with the same anchor.
/// - Pairs with a score, [Row.Scored], the greater the better they belong together: log(1 + Σ exp(s · (cos_j − cos_i)))
///   over all pairs of rows of the batch with score_i > score_j (CoSENT: Su 2022; `CoSENTLoss`).
/// - Texts with a label, [Row.Classify], of which a few of each are enough: the mean, over the texts of the batch with
///   the same label, of the cross-entropy of that text among all others of the batch, for the scores s · ⟨a, b⟩
///   (supervised contrastive loss: Khosla et al. 2020, equation 2; `SupConLoss` of setfit). A text whose label
///   no other one has is only compared with.
///
/// A batch that is larger is another loss, not only a smoother one; with gradient accumulation, only the rows of the
/// same part are compared. With a mini-batch, a batch may exceed memory: its texts pass the model in parts of that
/// size, of which only the vectors are kept, and pass it again as the gradients are computed (GradCache: Gao et al.
/// 2021; `CachedMultipleNegativesRankingLoss`). The loss and the gradients are those of the whole batch, except that
/// all parts get the same dropout masks.
///
/// @param kind the form of the rows, for which memory is planned
/// @param temperature what the cosines are divided by
/// @param miniBatch the most texts that pass the model together while training; 0 for all of a batch
/// @param queryPrefix what an encoder such as e5 expects before anchors, and before texts of rows with scores or labels
/// @param passagePrefix what it expects before positives and negatives; if both are empty, all texts have the prefix of
///     [Examples.Options]
public record EmbedTask(Kind kind, double temperature, int miniBatch, String queryPrefix, String passagePrefix)
        implements Predicts {
    private static final double TEMPERATURE = 0.05;
    private static final String TEMPERATURE_NAME = "temperature";
    private static final String MINI_BATCH = "mini_batch";

    /// The names of the prefixes as settings.
    public static final String QUERY_PREFIX = "query_prefix";

    public static final String PASSAGE_PREFIX = "passage_prefix";

    /// Added to the score of what is left out; exp of it is 0.
    private static final float MASKED = -1e9f;

    /// What rows are.
    public enum Kind {
        PAIRS("pairs of anchor and positive"),
        TRIPLETS("triplets with a negative"),
        SCORES("pairs with a score"),
        LABELS("texts with a label");

        private final String title;

        Kind(String title) {
            this.title = title;
        }

        static Kind of(Row row, Encoding.Sink out) {
            return switch (row) {
                case Pair pair -> pair.negative == null ? PAIRS : TRIPLETS;
                case Row.Scored scored -> SCORES;
                case Row.Classify labelled -> LABELS;
                default ->
                    throw out.bad(
                            "a row of another form, " + row.getClass().getSimpleName() + ", among rows of task embed");
            };
        }

        static Kind of(Example row) {
            return switch (row.texts().size()) {
                case 1 -> LABELS;
                case 2 -> row.target().length == 1 ? SCORES : PAIRS;
                default -> TRIPLETS;
            };
        }

        /// The number of texts of a row.
        int texts() {
            return switch (this) {
                case LABELS -> 1;
                case PAIRS, SCORES -> 2;
                case TRIPLETS -> 3;
            };
        }
    }

    /// A text, another that belongs to it, and possibly one that does not, although it may seem so.
    public record Pair(
            String anchor, String positive, @Nullable String negative) implements Row {}

    public EmbedTask {
        if (!(temperature > 0 && Double.isFinite(temperature))) {
            throw new InputException("temperature " + temperature + " must be positive");
        }
        if (miniBatch < 0) {
            throw new InputException("mini batch " + miniBatch + " must be positive, or 0 for the whole batch");
        }
    }

    /// For rows of any form, at a temperature of 0.05, as sentence-transformers has it (`scale=20`).
    public EmbedTask() {
        this(Kind.TRIPLETS, TEMPERATURE, 0, "", "");
    }

    /// Whether queries and passages have prefixes of their own.
    public boolean hasPrefixes() {
        return !queryPrefix.isEmpty() || !passagePrefix.isEmpty();
    }

    private String prefix(boolean isPassage, Examples.Options options) {
        return !hasPrefixes() ? options.textPrefix() : isPassage ? passagePrefix : queryPrefix;
    }

    @Override
    public String name() {
        return "embed";
    }

    @Override
    public String form() {
        return "{\"anchor\",\"positive\"}, {\"anchor\",\"positive\",\"negative\"},"
                + " {\"text\",\"text_pair\",\"score\"} or {\"text\",\"label\"}";
    }

    @Override
    public List<String> fields() {
        return List.of("anchor", "positive", "negative", "text", "text_pair", "score", "label");
    }

    @Override
    public Row row(Fields fields) {
        if (fields.has("label") && !fields.has("anchor") && !fields.has("score")) {
            return new Row.Classify(fields.text("text"), fields.optional("text_pair"), fields.label("label"));
        }
        if (!fields.has("score")) {
            return new Pair(fields.text("anchor"), fields.text("positive"), fields.optional("negative"));
        }
        if (fields.has("anchor")) {
            throw fields.bad(
                    "there are both \"anchor\" and \"score\": is this a pair that belongs together, or one with"
                            + " a score? For the latter, name the texts \"text\" and \"text_pair\"");
        }
        return new Row.Scored(fields.text("text"), fields.text("text_pair"), fields.number("score"));
    }

    // ---- settings

    /// Those that differ from the defaults.
    @Override
    public Map<String, String> settings() {
        Map<String, String> settings = new LinkedHashMap<>();
        if (temperature != TEMPERATURE) {
            settings.put(TEMPERATURE_NAME, String.valueOf(temperature));
        }
        if (miniBatch > 0) {
            settings.put(MINI_BATCH, String.valueOf(miniBatch));
        }
        if (hasPrefixes()) {
            settings.put(QUERY_PREFIX, queryPrefix);
            settings.put(PASSAGE_PREFIX, passagePrefix);
        }
        return settings;
    }

    @Override
    public Task with(Map<String, String> settings) {
        Map<String, Object> known = Map.of(
                TEMPERATURE_NAME, temperature,
                MINI_BATCH, miniBatch,
                QUERY_PREFIX, queryPrefix,
                PASSAGE_PREFIX, passagePrefix);
        Settings all = Settings.of(this, known, settings);
        return new EmbedTask(
                kind,
                all.number(TEMPERATURE_NAME),
                all.integer(MINI_BATCH),
                all.text(QUERY_PREFIX),
                all.text(PASSAGE_PREFIX));
    }

    // ---- examples and batches

    /// Each text of a row is an input of its own; the target of a row is its score, or the number of its label, if it
    /// has one.
    @Override
    public Encoding encoding(Tokenizer tokenizer, Examples.Options options, @Nullable Labels labels) {
        LmTask.refuseConcatenation(this, options);
        return new Encoding() {
            private final Map<String, Integer> numbers = new HashMap<>();
            private @Nullable Kind first;

            @Override
            public void add(Row row, Sink out) {
                Kind kind = Kind.of(row, out);
                first = first == null ? kind : first;
                if (kind != first) {
                    throw out.bad("the rows are " + first.title + ", but this one is one of the " + kind.title
                            + "; put them into files of their own");
                }
                switch (row) {
                    case Pair(String anchor, String positive, String negative) ->
                        add(out, negative == null ? List.of(anchor, positive) : List.of(anchor, positive, negative));
                    case Row.Classify(String text, String textPair, String label)
                    when textPair == null ->
                        add(out, List.of(text), numbers.computeIfAbsent(label, l -> numbers.size()));
                    case Row.Scored(String text, String textPair, double score)
                    when textPair != null -> add(out, List.of(text, textPair), Float.floatToIntBits((float) score));
                    case Row.Classify two -> throw out.bad("a pair of texts with a label; task classify takes these");
                    default -> throw out.bad("a score without a second text");
                }
            }

            private void add(Sink out, List<String> texts, int... target) {
                List<Example.Text> encoded = new ArrayList<>();
                boolean truncated = false;
                boolean symmetric = target.length > 0;
                for (String text : texts) {
                    String prefix = prefix(!symmetric && !encoded.isEmpty(), options);
                    Tokenizer.Encoded ids = tokenizer.encode(prefix + text, options.maxLength());
                    encoded.add(new Example.Text(ids.ids(), ids.tokenTypes()));
                    truncated |= ids.truncated();
                }
                String others = String.join("\0", texts.subList(1, texts.size()));
                out.note(texts.getFirst(), others, encoded.getFirst().ids(), tokenizer.aroundText());
                out.example(new Example(encoded, target, truncated));
            }
        };
    }

    /// For pairs, the index of each row's candidate, (rows), and what is added to the scores, (rows, candidates): 0, or
    /// a large negative number for a candidate that is left out. For scored pairs, the same for the differences (rows,
    /// rows) of the CoSENT loss, and the scores, (rows). For labels, what [#supervised] needs.
    @Override
    public Targets targets(Examples examples, int[] rows, int length) {
        List<Example> of = IntStream.of(rows).mapToObj(examples::row).toList();
        int n = rows.length;
        Kind form = Kind.of(of.getFirst());
        if (form == Kind.LABELS) {
            return labelled(of.stream().mapToInt(row -> row.target()[0]).toArray());
        }
        if (form != Kind.SCORES) {
            int candidates = n * (of.getFirst().texts().size() - 1);
            return new Targets(
                    List.of(
                            new Target.Ints(IntStream.range(0, n).toArray(), n),
                            new Target.Floats(besides(of, candidates), n, candidates)),
                    n);
        }
        float[] scores = new float[n];
        for (int i = 0; i < n; i++) {
            scores[i] = Float.intBitsToFloat(of.get(i).target()[0]);
        }
        float[] mask = new float[n * n];
        for (int i = 0; i < n; i++) {
            for (int j = 0; j < n; j++) {
                mask[i * n + j] = scores[i] > scores[j] ? 0 : MASKED;
            }
        }
        return new Targets(List.of(new Target.Floats(mask, n, n), new Target.Floats(scores, n)), n);
    }

    /// For labels: the first other text with the same label, or [Batch#IGNORE], (n); and (2, n, n) what is added to the
    /// scores, which leaves out a text itself, and by what the scores are multiplied in the rest of the loss: the
    /// cross-entropy of the first positive is (lse − its score), but wanted is (lse − the mean of all positives').
    private static Targets labelled(int[] labels) {
        int n = labels.length;
        int[] first = new int[n];
        float[] both = new float[2 * n * n];
        int[][] positives = new int[n][];
        int compared = 0;
        for (int i = 0; i < n; i++) {
            int own = i;
            positives[i] = IntStream.range(0, n)
                    .filter(j -> j != own && labels[j] == labels[own])
                    .toArray();
            compared += positives[i].length > 0 ? 1 : 0;
        }
        for (int i = 0; i < n; i++) {
            both[i * n + i] = MASKED;
            first[i] = positives[i].length == 0 ? Batch.IGNORE : positives[i][0];
            for (int j : positives[i]) {
                both[(n + i) * n + j] = (float) (((j == first[i] ? 1.0 : 0) - 1.0 / positives[i].length) / compared);
            }
        }
        return new Targets(List.of(new Target.Ints(first, n), new Target.Floats(both, 2, n, n)), compared);
    }

    /// The candidates are all positives, then all negatives. Left out is what stands beside the same anchor in any row.
    private static float[] besides(List<Example> rows, int candidates) {
        int n = rows.size();
        float[] mask = new float[n * candidates];
        Map<IntBuffer, Set<IntBuffer>> fitting = new HashMap<>();
        for (Example row : rows) {
            IntBuffer anchor = ids(row, 0);
            fitting.computeIfAbsent(anchor, a -> new HashSet<>(Set.of(a))).add(ids(row, 1));
        }
        for (int c = 0; c < candidates; c++) {
            IntBuffer candidate = ids(rows.get(c % n), 1 + c / n);
            for (int i = 0; i < n; i++) {
                boolean fits =
                        Objects.requireNonNull(fitting.get(ids(rows.get(i), 0))).contains(candidate);
                mask[i * candidates + c] = c != i && fits ? MASKED : 0;
            }
        }
        return mask;
    }

    static IntBuffer ids(Example row, int text) {
        return IntBuffer.wrap(row.texts().get(text).ids());
    }

    @Override
    public Example dummy(int length) {
        List<Example.Text> texts = new ArrayList<>();
        for (int i = 0; i < kind.texts(); i++) {
            texts.add(new Example.Text(new int[length], null));
        }
        return new Example(texts, new int[kind == Kind.SCORES || kind == Kind.LABELS ? 1 : 0], false);
    }

    @Override
    public TaskCard card(Examples train, Tokenizer tokenizer, int maxLength) {
        return TaskCard.of(
                new EmbedTask(Kind.of(train.row(0)), temperature, miniBatch, queryPrefix, passagePrefix),
                null,
                maxLength);
    }

    @Override
    public boolean pools() {
        return true;
    }

    @Override
    public Pooling pooling(Model model) {
        return model instanceof WithPooler ? Pooling.MEAN : Pooling.LAST;
    }

    // ---- the vectors and the loss

    @Override
    public Head head(Site site) {
        TaskCard card = site.card();
        if (card.pooling() == Pooling.POOLER) {
            throw new InputException("task embed: sentence-transformers knows no pooling by a pooler; choose mean, cls,"
                    + " max, mean_sqrt_len or last");
        }
        return new Vectors(this, new TextPooling(site.model(), card.pooling(), card.normalize(), false));
    }

    private static final class Vectors extends Head {
        private final EmbedTask task;
        private final TextPooling pooling;

        Vectors(EmbedTask task, TextPooling pooling) {
            super(null);
            this.task = task;
            this.pooling = pooling;
        }

        /// The vectors of all texts, (B, C).
        @Override
        public Tensor logits(Feed batch) {
            return pooling.pooled(batch);
        }

        @Override
        public Tensor loss(Feed batch) {
            return task.loss(pooling.pooled(batch, task.miniBatch), batch.target(0), batch.target(1));
        }
    }

    /// The loss of vectors (B, C) for the [#targets] of their rows.
    Tensor loss(Tensor vectors, Tensor first, Tensor second) {
        Tensor x = TextPooling.normalized(vectors);
        Tensor texts = x.reshape(first.shape().dim(0), -1, x.shape().dim(1));
        if (second.shape().rank() == 3) {
            return supervised(x, first, second);
        }
        return first.dtype() == DType.I32
                ? ranking(texts, first, second)
                : cosent(text(texts, 0).mul(text(texts, 1)).sum(1), first);
    }

    /// The factor of the cosines.
    double scale() {
        return 1 / temperature;
    }

    private static Tensor text(Tensor texts, int which) {
        return texts.slice(1, which, which + 1)
                .reshape(texts.shape().dim(0), texts.shape().dim(2));
    }

    private Tensor ranking(Tensor texts, Tensor labels, Tensor mask) {
        Tensor candidates = texts.shape().dim(1) == 2
                ? text(texts, 1)
                : Functional.concat(List.of(text(texts, 1), text(texts, 2)), 0);
        Tensor scores = Functional.matmul(text(texts, 0), candidates, false, true);
        return Functional.crossEntropy(scores.scale(scale()).add(mask), labels, Batch.IGNORE);
    }

    /// The loss of texts with labels, see [#labelled].
    private Tensor supervised(Tensor texts, Tensor labels, Tensor both) {
        int n = labels.shape().dim(0);
        Tensor scores = Functional.matmul(texts, texts, false, true).scale(scale());
        Tensor mask = both.slice(0, 0, 1).reshape(n, n);
        Tensor factors = both.slice(0, 1, 2).reshape(n, n);
        return Functional.crossEntropy(scores.add(mask), labels, Batch.IGNORE)
                .add(scores.mul(factors).sum());
    }

    /// log(1 + Σ exp(x)) is the cross-entropy of the first class for the logits 0, x.
    private Tensor cosent(Tensor cosines, Tensor mask) {
        int n = mask.shape().dim(0);
        Tensor scores = cosines.scale(scale());
        Tensor over = scores.reshape(1, n).sub(scores.reshape(n, 1)).add(mask);
        Tensor zero = Tensor.zeros(scores.backend(), scores.dtype(), 1, 1);
        Tensor logits = Functional.concat(List.of(zero, over.reshape(1, n * n)), 1);
        return Functional.crossEntropy(logits, Tensor.full(scores.backend(), DType.I32, 0, 1), Batch.IGNORE);
    }

    // ---- answers

    /// A text that answers queries, as opposed to a query or any other text ([Row.Unlabelled]).
    public record Passage(String text) implements Row {}

    @Override
    public RowForm unlabelled() {
        return new Unlabelled(this);
    }

    private record Unlabelled(EmbedTask task) implements RowForm {
        @Override
        public String name() {
            return task.name();
        }

        @Override
        public String form() {
            return "{\"text\"}, {\"query\"} or {\"passage\"}";
        }

        @Override
        public List<String> fields() {
            return List.of("text", "query", "passage");
        }

        @Override
        public Row row(Fields fields) {
            return fields.has("passage")
                    ? new Passage(fields.text("passage"))
                    : new Row.Unlabelled(fields.text(fields.has("query") ? "query" : "text"), null);
        }

        @Override
        public Encoding encoding(Tokenizer tokenizer, Examples.Options options, @Nullable Labels labels) {
            return (row, out) -> {
                if (row instanceof Row.Unlabelled(String text, String textPair) && textPair != null) {
                    throw out.bad("field \"text_pair\": task embed takes one text; leave it out");
                }
                String prefix = task.prefix(row instanceof Passage, options);
                out.example(Example.of(tokenizer.encode(prefix + text(row), options.maxLength())));
            };
        }
    }

    /// The text of a row of [#unlabelled].
    public static String text(Row row) {
        return row instanceof Passage(String text) ? text : ((Row.Unlabelled) row).text();
    }

    @Override
    public void answer(TaskCard card, Row row, Example example, double[] outputs, ObjectNode line) {
        ArrayNode vector = line.putArray("embedding");
        for (double x : outputs) {
            vector.add((float) x);
        }
    }

    // ---- metrics and files

    @Override
    public Metric headline() {
        return VectorMeter.NDCG;
    }

    /// That of scored pairs is `spearman`.
    @Override
    public Metric headline(Predicate<String> measured) {
        return measured.test(VectorMeter.SPEARMAN.name()) ? VectorMeter.SPEARMAN : VectorMeter.NDCG;
    }

    @Override
    public Meter meter(Examples rows) {
        return new VectorMeter(rows, scale());
    }

    /// Writes what sentence-transformers needs to open the folder of a model.
    @Override
    public void describe(Path folder, Model model, TaskCard card) {
        new SentencePooling(card.pooling(), card.normalize())
                .write(folder, model.facts().hiddenSize(), card.maxLength());
        if (hasPrefixes()) {
            // sentence-transformers has used both names for the second.
            SentencePooling.writePrompts(
                    folder, null, Map.of("query", queryPrefix, "document", passagePrefix, "passage", passagePrefix));
        } else if (!card.textPrefix().isEmpty()) {
            SentencePooling.writePrompts(folder, "text", Map.of("text", card.textPrefix()));
        }
    }

    @Override
    public String toString() {
        return name();
    }
}
