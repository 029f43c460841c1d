package dev.loran.peft.task;

import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Tensor;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.Encoding;
import dev.loran.peft.data.Example;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Fields;
import dev.loran.peft.data.Labels;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.RowForm;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.Problem;
import dev.loran.peft.model.TaskType;
import dev.loran.peft.model.WithPooler;
import java.text.BreakIterator;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.function.UnaryOperator;
import org.jspecify.annotations.Nullable;

/// `tag`: a tag for each word of a text, such as those of named entities (`B-PER`, `I-PER`, `O`). Rows are
/// [Row.Tagged]s. Each word is encoded for itself; its tag is that of its first piece, and the other pieces, like the
/// special tokens, have [Batch#IGNORE]. The target of an example is a tag, or that, for each id.
public record TagTask() implements Predicts {
    private static final Metric F1 = new Metric("f1", true);

    @Override
    public String name() {
        return "tag";
    }

    @Override
    public String form() {
        return "{\"tokens\",\"tags\"}, two lists of the same length";
    }

    @Override
    public List<String> fields() {
        return List.of("tokens", "tags");
    }

    @Override
    public Row row(Fields fields) {
        List<String> tokens = words(fields);
        List<String> tags = fields.names("tags");
        if (tokens.size() != tags.size()) {
            throw fields.bad("field \"tokens\" has " + tokens.size() + " words but field \"tags\" has " + tags.size()
                    + " tags; each word needs one");
        }
        return new Row.Tagged(tokens, tags);
    }

    static List<String> words(Fields fields) {
        List<String> tokens = fields.strings("tokens");
        if (tokens.isEmpty()) {
            throw fields.bad("field \"tokens\" is an empty list; leave such rows out");
        }
        return tokens;
    }

    @Override
    public void check(@Nullable Labels labels) {
        if (labels == null) {
            throw new InputException("task " + name() + " needs tags");
        }
    }

    // ---- examples and batches

    @Override
    public Encoding encoding(Tokenizer tokenizer, Examples.Options options, @Nullable Labels labels) {
        LmTask.refuseConcatenation(this, options);
        return new Tagged(tokenizer, options, labels);
    }

    private static final class Tagged implements Encoding {
        private final Tokenizer tokenizer;
        private final Examples.Options options;
        private @Nullable Labels labels;

        /// Tags in order of first appearance; targets are indices here until all tags are known.
        private final Map<String, Integer> places = new LinkedHashMap<>();

        Tagged(Tokenizer tokenizer, Examples.Options options, @Nullable Labels given) {
            this.tokenizer = tokenizer;
            this.options = options;
            this.labels = given;
        }

        @Override
        public void add(Row row, Sink out) {
            if (!(row instanceof Row.Tagged(List<String> tokens, List<String> tags))) {
                throw out.bad("a row without tags");
            }
            Tokenizer.Words words = tokenizer.encodeWords(tokens, options.maxLength());
            int[] ids = words.encoded().ids();
            int[] target = new int[ids.length];
            Arrays.fill(target, Batch.IGNORE);
            for (int w = 0; w < tokens.size(); w++) {
                int place = place(tags.get(w), out);
                if (words.starts()[w] >= 0) {
                    target[words.starts()[w]] = place;
                } else if (!words.encoded().truncated()) {
                    throw out.bad("field \"tokens\": word %d, \"%s\", is nothing to the tokenizer; leave it out"
                            .formatted(w + 1, tokens.get(w)));
                }
            }
            out.note(String.join(" ", tokens), String.join(" ", tags), ids, tokenizer.aroundText());
            out.example(Example.of(words.encoded(), target));
        }

        private int place(String tag, Sink out) {
            String name = named(tag, out);
            Integer place = places.putIfAbsent(name, places.size());
            return place == null ? places.size() - 1 : place;
        }

        /// The tag of a model that an integer counts, which without names says nothing.
        private String named(String tag, Sink out) {
            Labels known = labels;
            if (known != null && known.names().contains(tag)) {
                return tag;
            }
            if (!tag.matches("[0-9]{1,9}")) {
                if (known != null) {
                    throw out.bad("field \"tags\": " + unknown(tag, known));
                }
                return tag;
            }
            if (known == null || Integer.parseInt(tag) >= known.size()) {
                throw out.bad(
                        "field \"tags\": tag " + tag + " is a number without a name; write names: O, B-PER, I-PER");
            }
            return known.names().get(Integer.parseInt(tag));
        }

        private static String unknown(String tag, Labels known) {
            return "tag \"" + tag + "\" is not one of the " + known.size() + " that the model gives: "
                    + String.join(", ", known.names());
        }

        @Override
        public UnaryOperator<Example> end(Sink out) {
            Labels all = labels;
            if (all == null) {
                if (places.size() < 2) {
                    throw new InputException(out.source() + ": field \"tags\": all words have the tag "
                            + places.keySet() + "; there is nothing to tell apart");
                }
                all = Labels.of(places.keySet());
            }
            labels = all;
            int[] ids = places.keySet().stream().mapToInt(all::id).toArray();
            return e -> new Example(
                    e.texts(),
                    Arrays.stream(e.target())
                            .map(place -> place == Batch.IGNORE ? place : ids[place])
                            .toArray(),
                    e.truncated());
        }

        @Override
        public @Nullable Labels labels() {
            return labels;
        }
    }

    @Override
    public Targets targets(Examples examples, int[] rows, int length) {
        int[] tags = new int[rows.length * length];
        Arrays.fill(tags, Batch.IGNORE);
        int terms = 0;
        for (int b = 0; b < rows.length; b++) {
            int[] own = examples.target(rows[b]);
            System.arraycopy(own, 0, tags, b * length, own.length);
            terms += (int) Arrays.stream(own).filter(tag -> tag != Batch.IGNORE).count();
        }
        return Targets.of(tags, terms, rows.length, length);
    }

    @Override
    public Example dummy(int length) {
        return Example.of(new int[length], null, new int[length]);
    }

    // ---- the head

    /// The model's own head if it has one; a new one of the family's kind for an encoder; otherwise a separate one.
    @Override
    public Head head(Site site) {
        Model model = site.model();
        int tags = Objects.requireNonNull(site.card().labels()).size();
        if (model.classifier() != null && !model.ofTokens()) {
            throw new InputException("task tag: the head of " + model.title()
                    + " is for a whole text, not for each token; use a model with another head, or without one");
        }
        boolean own;
        if (site.saved() != null) {
            own = model.classifier() != null && !Head.isIn(site.saved());
        } else if (model.classifier() != null && !model.hasNewClassifier()) {
            own = true;
        } else {
            own = model instanceof WithPooler encoder
                    && encoder.takesTokenHead()
                    && site.addClassifier(TaskType.TOKEN_CLS, tags);
        }
        if (own) {
            TextClassifier.requireOutputs(model, site.card(), tags);
            return new OfTokens(null);
        }
        int width = model.facts().hiddenSize();
        return new OfTokens(Head.newLinear(model.backend(), model.dtype().accumulator(), width, tags, site.random()))
                .from(site);
    }

    private static final class OfTokens extends Head {
        private final @Nullable Linear layer;

        /// @param layer null for the model's own head
        OfTokens(@Nullable Linear layer) {
            super(layer);
            this.layer = layer;
        }

        /// (B, T, tags), without the virtual tokens.
        @Override
        public Tensor logits(Feed batch) {
            int length = batch.ids().shape().dim(1);
            if (layer == null) {
                return text(batch.model().logits(batch.ids(), batch.mask(), batch.tokenTypes()), length);
            }
            Tensor hidden = text(batch.hidden(), length);
            return layer.forward(Functional.cast(hidden, hidden.dtype().accumulator()));
        }

        private static Tensor text(Tensor x, int length) {
            int positions = x.shape().dim(1);
            return positions == length ? x : x.slice(1, positions - length, positions);
        }

        /// Cross-entropy of the tags, the batch's target (B, T).
        @Override
        public Tensor loss(Feed batch) {
            Tensor logits = logits(batch);
            return Functional.crossEntropy(
                    logits.reshape(-1, logits.shape().dim(2)), batch.target(0).reshape(-1), Batch.IGNORE);
        }
    }

    @Override
    public Problem problem(@Nullable Labels labels) {
        return Problem.SINGLE_LABEL;
    }

    @Override
    public @Nullable TaskCard card(Model model) {
        return model.ofTokens() ? TaskCard.of(this, new Labels(model.labels()), 0) : null;
    }

    @Override
    public @Nullable Labels labels(Model model) {
        return !model.ofTokens() || model.labels().getFirst().equals("LABEL_0") ? null : new Labels(model.labels());
    }

    // ---- answers

    @Override
    public RowForm unlabelled() {
        return new Untagged();
    }

    /// `tags` has null for words that were cut.
    @Override
    public void answer(TaskCard card, Row row, Example example, double[] outputs, ObjectNode line) {
        Untagged.Words words = (Untagged.Words) row;
        List<String> names = Objects.requireNonNull(card.labels()).names();
        words.tokens().forEach(line.putArray("tokens")::add);
        ArrayNode tags = line.putArray("tags");
        List<String> read = new ArrayList<>();
        for (int start : example.target()) {
            if (start < 0) {
                tags.addNull();
                continue;
            }
            String tag = names.get(largest(outputs, start * names.size(), names.size()));
            tags.add(tag);
            read.add(tag);
        }
        ArrayNode entities = line.putArray("entities");
        for (Entities.Entity e : Entities.of(read, Entities.areChunks(names))) {
            ObjectNode entity = entities.addObject().put("type", e.type()).put("text", words.text(e.from(), e.to()));
            entity.put("first", e.from()).put("last", e.to());
            if (words.text() != null) {
                entity.put("start", words.from()[e.from()]).put("end", words.to()[e.to()]);
            }
        }
    }

    private static int largest(double[] values, int from, int n) {
        int best = 0;
        for (int i = 1; i < n; i++) {
            best = values[from + i] > values[from + best] ? i : best;
        }
        return best;
    }

    /// Texts whose words are to be tagged. The target of an example is, for each word, the index of its first id, or −1
    /// if the word was cut.
    private record Untagged() implements RowForm {
        /// @param text null if only the words were given
        /// @param from where each word begins in the text
        /// @param to where it ends
        record Words(@Nullable String text, List<String> tokens, int[] from, int[] to) implements Row {
            /// The words of a text, as Unicode divides it (UAX 29): a punctuation mark is a word of its own.
            static Words of(String text) {
                BreakIterator breaks = BreakIterator.getWordInstance(Locale.ROOT);
                breaks.setText(text);
                List<String> tokens = new ArrayList<>();
                int[] from = new int[text.length()];
                int[] to = new int[text.length()];
                int start = breaks.first();
                for (int end = breaks.next(); end != BreakIterator.DONE; end = breaks.next()) {
                    String word = text.substring(start, end);
                    if (!word.isBlank()) {
                        from[tokens.size()] = start;
                        to[tokens.size()] = end;
                        tokens.add(word);
                    }
                    start = end;
                }
                return new Words(text, tokens, from, to);
            }

            /// The text from one word to another.
            String text(int first, int last) {
                return text == null
                        ? String.join(" ", tokens.subList(first, last + 1))
                        : text.substring(from[first], to[last]);
            }
        }

        @Override
        public String name() {
            return "tag";
        }

        @Override
        public String form() {
            return "{\"tokens\"}, a list of words, or {\"text\"}";
        }

        @Override
        public List<String> fields() {
            return List.of("tokens", "text");
        }

        @Override
        public Row row(Fields fields) {
            if (fields.has("tokens") || !fields.has("text")) {
                return new Words(null, TagTask.words(fields), new int[0], new int[0]);
            }
            Words words = Words.of(fields.text("text"));
            if (words.tokens().isEmpty()) {
                throw fields.bad("field \"text\" has no words");
            }
            return words;
        }

        @Override
        public Encoding encoding(Tokenizer tokenizer, Examples.Options options, @Nullable Labels labels) {
            return (row, out) -> {
                Tokenizer.Words words = tokenizer.encodeWords(((Words) row).tokens(), options.maxLength());
                out.example(Example.of(words.encoded(), words.starts()));
            };
        }
    }

    // ---- metrics

    @Override
    public Metric headline() {
        return F1;
    }

    /// `f1`, `precision` and `recall` of the [Entities], which count if type, first and last word are right, over all
    /// types, as seqeval's default mode has them; `accuracy`: the share of the words with the right tag. All are of the
    /// words that were read: what was cut is not counted.
    @Override
    public Meter meter(Examples rows) {
        return new OfEntities(rows.labels().names());
    }

    private static final class OfEntities implements Meter {
        private final List<String> tags;
        private final boolean chunks;
        private final List<String> types;
        private final ClassCounts counts;
        private double loss;
        private int right;
        private int words;
        private int rows;

        OfEntities(List<String> tags) {
            this.tags = tags;
            chunks = Entities.areChunks(tags);
            types = tags.stream()
                    .map(tag -> Entities.type(tag, chunks))
                    .filter(type -> !type.isEmpty())
                    .distinct()
                    .sorted()
                    .toList();
            counts = new ClassCounts(types);
        }

        @Override
        public void add(Batch batch, double[] logits) {
            int n = tags.size();
            for (int row = 0; row < batch.batchSize(); row++) {
                List<String> there = new ArrayList<>();
                List<String> answered = new ArrayList<>();
                for (int at = row * batch.length(); at < (row + 1) * batch.length(); at++) {
                    int tag = batch.labels()[at];
                    if (tag != Batch.IGNORE) {
                        int answer = largest(logits, at * n, n);
                        there.add(tags.get(tag));
                        answered.add(tags.get(answer));
                        right += answer == tag ? 1 : 0;
                        words++;
                        loss += crossEntropy(logits, at * n, n, tag);
                    }
                }
                count(there, answered);
            }
            rows += batch.batchSize();
        }

        private void count(List<String> there, List<String> answered) {
            Set<Entities.Entity> own = new HashSet<>(Entities.of(there, chunks));
            Set<Entities.Entity> found = new HashSet<>(Entities.of(answered, chunks));
            own.forEach(e -> counts.add(types.indexOf(e.type()), true, found.contains(e)));
            found.removeAll(own);
            found.forEach(e -> counts.add(types.indexOf(e.type()), false, true));
        }

        private static double crossEntropy(double[] logits, int from, int n, int tag) {
            double max = logits[from + largest(logits, from, n)];
            double sum = 0;
            for (int i = 0; i < n; i++) {
                sum += Math.exp(logits[from + i] - max);
            }
            return max + Math.log(sum) - logits[from + tag];
        }

        @Override
        public Evaluation evaluation() {
            Map<String, Double> metrics = new LinkedHashMap<>();
            metrics.put(F1.name(), counts.microF1());
            metrics.put("precision", counts.precision());
            metrics.put("recall", counts.recall());
            metrics.put("accuracy", (double) right / words);
            return new Evaluation(rows, loss / words, metrics, F1, List.of(counts.table("entities", "entities")));
        }
    }

    @Override
    public String toString() {
        return name();
    }
}
