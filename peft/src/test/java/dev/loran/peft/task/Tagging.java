package dev.loran.peft.task;

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
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.io.InputException;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.TreeSet;
import java.util.function.UnaryOperator;
import org.jspecify.annotations.Nullable;

/// A task as a user may write one: a tag for each word, predicted from the hidden state of its first piece.
public final class Tagging implements Task {
    private static final Metric RIGHT = new Metric("right", true);

    /// Words, and a tag for each.
    public record Tagged(List<String> words, List<String> tags) implements Row {}

    @Override
    public String form() {
        return "{\"words\",\"tags\"}";
    }

    @Override
    public List<String> fields() {
        return List.of("words", "tags");
    }

    @Override
    public Row row(Fields fields) {
        Tagged row = new Tagged(fields.strings("words"), fields.strings("tags"));
        if (row.words.size() != row.tags.size()) {
            throw fields.bad("there are " + row.words.size() + " words but " + row.tags.size() + " tags");
        }
        return row;
    }

    /// The target of an example is a tag for each id.
    @Override
    public Encoding encoding(Tokenizer tokenizer, Examples.Options options, @Nullable Labels given) {
        return new Encoding() {
            private final TreeSet<String> names = new TreeSet<>();
            private final java.util.ArrayList<String> places = new java.util.ArrayList<>();
            private @Nullable Labels labels = given;

            @Override
            public void add(Row row, Sink out) {
                Tagged tagged = (Tagged) row;
                int[] ids = new int[options.maxLength()];
                int[] tags = new int[options.maxLength()];
                int length = 0;
                boolean cut = false;
                for (int w = 0; w < tagged.words.size(); w++) {
                    int[] pieces = tokenizer.body(tagged.words.get(w));
                    cut |= length + pieces.length > ids.length;
                    for (int p = 0; p < pieces.length && length < ids.length; p++) {
                        ids[length] = pieces[p];
                        tags[length++] = p == 0 ? place(tagged.tags.get(w)) : Batch.IGNORE;
                    }
                }
                int[] kept = Arrays.copyOf(ids, length);
                out.note(String.join(" ", tagged.words), String.join(" ", tagged.tags), kept, 0);
                out.example(new Example(List.of(new Example.Text(kept, null)), Arrays.copyOf(tags, length), cut));
            }

            private int place(String tag) {
                names.add(tag);
                if (!places.contains(tag)) {
                    places.add(tag);
                }
                return places.indexOf(tag);
            }

            @Override
            public UnaryOperator<Example> end(Sink out) {
                Labels all = labels == null ? new Labels(List.copyOf(names)) : labels;
                labels = all;
                return e -> new Example(
                        e.texts(),
                        Arrays.stream(e.target())
                                .map(place -> place == Batch.IGNORE ? place : all.id(places.get(place)))
                                .toArray(),
                        e.truncated());
            }

            @Override
            public @Nullable Labels labels() {
                return labels;
            }
        };
    }

    @Override
    public Targets targets(Examples examples, int[] rows, int length) {
        int[] tags = new int[rows.length * length];
        Arrays.fill(tags, Batch.IGNORE);
        for (int b = 0; b < rows.length; b++) {
            int[] own = examples.target(rows[b]);
            System.arraycopy(own, 0, tags, b * length, own.length);
        }
        int terms = (int) Arrays.stream(tags).filter(tag -> tag != Batch.IGNORE).count();
        return Targets.of(tags, terms, rows.length, length);
    }

    @Override
    public Example dummy(int length) {
        return Example.of(new int[length], null, new int[length]);
    }

    @Override
    public void check(@Nullable Labels labels) {
        if (labels == null) {
            throw new InputException("tagging needs tags");
        }
    }

    @Override
    public Head head(Site site) {
        int tags = Objects.requireNonNull(site.card().labels()).size();
        Linear layer = Head.newLinear(
                site.model().backend(),
                site.model().dtype().accumulator(),
                site.model().facts().hiddenSize(),
                tags,
                site.random());
        return new OfEachToken(layer).from(site);
    }

    private static final class OfEachToken extends Head {
        private final Linear layer;

        OfEachToken(Linear layer) {
            super(layer);
            this.layer = layer;
        }

        /// (B, T, tags), without the virtual tokens.
        @Override
        public Tensor logits(Feed batch) {
            Tensor hidden = batch.hidden();
            int positions = hidden.shape().dim(1);
            int length = batch.ids().shape().dim(1);
            Tensor text = hidden.slice(1, positions - length, positions);
            return layer.forward(Functional.cast(text, hidden.dtype().accumulator()));
        }

        @Override
        public Tensor loss(Feed batch) {
            Tensor logits = logits(batch);
            int tags = logits.shape().dim(2);
            return Functional.crossEntropy(
                    logits.reshape(-1, tags), batch.target(0).reshape(-1), Batch.IGNORE);
        }
    }

    @Override
    public Metric headline() {
        return RIGHT;
    }

    /// The share of the words with the right tag.
    @Override
    public Meter meter(Examples rows) {
        int tags = rows.labels().size();
        return new Meter() {
            private double loss;
            private int right;
            private int words;

            @Override
            public void add(Batch batch, double[] answer) {
                for (int i = 0; i < batch.labels().length; i++) {
                    int tag = batch.labels()[i];
                    if (tag == Batch.IGNORE) {
                        continue;
                    }
                    double[] scores = Arrays.copyOfRange(answer, i * tags, (i + 1) * tags);
                    double sum = Arrays.stream(scores).map(Math::exp).sum();
                    loss += Math.log(sum) - scores[tag];
                    right += Arrays.stream(scores).allMatch(s -> s <= scores[tag]) ? 1 : 0;
                    words++;
                }
            }

            @Override
            public Evaluation evaluation() {
                double share = (double) right / words;
                return new Evaluation(
                        rows.size(), loss / words, Map.of("right", share, "words", (double) words), RIGHT);
            }
        };
    }
}
