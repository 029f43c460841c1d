package dev.loran.peft.task;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.loran.peft.data.Batch;
import dev.loran.peft.data.DataLoader;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Labels;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.RowSource;
import dev.loran.peft.data.Target;
import dev.loran.peft.data.TinyTokenizers;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.io.InputException;
import java.io.ByteArrayInputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/// The rows and the metrics of tasks, on cases that were worked out by hand.
class TaskMetricsTest {
    private static Examples examples(Task task, List<? extends Row> rows, @Nullable Labels labels) {
        try (Tokenizer tokenizer = TinyTokenizers.wordPiece()) {
            return Examples.of(task, rows, tokenizer, Examples.Options.of(12), labels);
        }
    }

    private static Batch batch(Examples rows) {
        return new DataLoader(rows, new DataLoader.Options(rows.size(), false, 0, false, false, 1))
                .epoch(0)
                .getFirst();
    }

    private static void refused(Task task, String lines, String why) {
        byte[] bytes = lines.getBytes(StandardCharsets.UTF_8);
        try (Tokenizer tokenizer = TinyTokenizers.wordPiece()) {
            assertThatThrownBy(() -> Examples.read(
                            RowSource.stream(new ByteArrayInputStream(bytes), "rows.jsonl"),
                            task,
                            tokenizer,
                            Examples.Options.of(12),
                            null))
                    .isInstanceOf(InputException.class)
                    .hasMessageStartingWith(why);
        }
    }

    // ---- several labels

    @Test
    void severalLabelsAreCountedOneByOne() {
        List<Row.Labelled> rows = List.of(
                new Row.Labelled("red", null, List.of("b", "a")),
                new Row.Labelled("shoes", null, List.of()),
                new Row.Labelled("buy", null, List.of("c")));
        Examples examples = examples(new ClassifyTask(), rows, null);
        assertThat(examples.labels().names()).containsExactly("a", "b", "c");
        assertThat(examples.labels().several()).isTrue();
        assertThat(examples.target(0)).containsExactly(0, 1);
        assertThat(examples.target(1)).isEmpty();
        Batch batch = batch(examples);
        Target.Floats target = (Target.Floats) batch.targets().getFirst();
        assertThat(target.dims()).containsExactly(3, 3);
        assertThat(target.values()).containsExactly(1, 1, 0, 0, 0, 0, 0, 0, 1);
        assertThat(batch.lossTerms()).isEqualTo(3);

        Meter meter = new ClassifyTask().meter(examples);
        meter.add(batch, new double[] {1, -1, -2, -1, -1, 1, -1, -1, 2});
        Evaluation e = meter.evaluation();
        // Right: a of row 1, c of row 3. Missed: b of row 1. Wrong: c of row 2.
        assertThat(e.headline().name()).isEqualTo("micro_f1");
        assertThat(e.metric("micro_f1")).isCloseTo(2 * 2 / 6.0, within(1e-12));
        assertThat(e.metric("macro_f1")).isCloseTo((1 + 0 + 2 / 3.0) / 3, within(1e-12));
        assertThat(e.metric("accuracy")).isCloseTo(1 / 3.0, within(1e-12));
        double wrong = Math.log1p(Math.exp(1));
        double right = Math.log1p(Math.exp(-1));
        double two = Math.log1p(Math.exp(-2));
        assertThat(e.loss())
                .isCloseTo((right + wrong + two + right + right + wrong + right + right + two) / 9, within(1e-12));
        assertThat(e.tables().getFirst().rows().get("c")).containsExactly(0.5, 1.0, 2 / 3.0, 1L);
    }

    @Test
    void listsAndNamesAreNotMixed() {
        ClassifyTask task = new ClassifyTask();
        refused(
                task,
                "{\"text\":\"red\",\"label\":[\"a\"]}\n{\"text\":\"red\",\"label\":\"b\"}",
                "rows.jsonl:2: field \"label\" is one name, but a list in the rows before; write lists in all rows");
        refused(
                task,
                "{\"text\":\"red\",\"label\":\"b\"}\n{\"text\":\"red\",\"label\":[]}",
                "rows.jsonl:2: field \"label\" is a list, but one name in the rows before; write lists in all rows");
        refused(task, "{\"text\":\"red\",\"label\":[\"a\",\"a\"]}", "rows.jsonl:1: field \"label\" has a label twice");
        refused(
                task,
                "{\"text\":\"red\",\"label\":[\" \"]}",
                "rows.jsonl:1: field \"label\" must be a list of strings");
        refused(task, "{\"text\":\"red\",\"label\":[]}", "rows.jsonl: field \"label\": labels: a classifier needs two");
        Row table = RowSource.stream(
                        new ByteArrayInputStream("text,label\nred,\"[\"\"a\"\", 3]\"".getBytes(StandardCharsets.UTF_8)),
                        "t.csv")
                .toList(task)
                .getFirst();
        assertThat(table).isEqualTo(new Row.Labelled("red", null, List.of("a", "3")));
    }

    @Test
    void oneClassATextHasItsTables() {
        Examples examples = examples(
                new ClassifyTask(),
                List.of(new Row.Classify("red", "a"), new Row.Classify("buy", "a"), new Row.Classify("shoes", "b")),
                null);
        Meter meter = new ClassifyTask().meter(examples);
        meter.add(batch(examples), new double[] {1, 0, 0, 1, 0, 1});
        Evaluation e = meter.evaluation();
        assertThat(e.tables().get(0).rows().get("a")).containsExactly(1.0, 0.5, 2 / 3.0, 2L);
        assertThat(e.tables().get(0).rows().get("b")).containsExactly(0.5, 1.0, 2 / 3.0, 1L);
        assertThat(e.tables().get(1).rows().get("a")).containsExactly(1, 1);
        assertThat(e.tables().get(1).rows().get("b")).containsExactly(0, 1);
    }

    // ---- numbers

    @Test
    void correlations() {
        double[] x = {1, 2, 2, 5};
        double[] y = {10, 30, 20, 20};
        assertThat(RegressTask.ranks(x)).containsExactly(1, 2.5, 2.5, 4);
        assertThat(RegressTask.ranks(y)).containsExactly(1, 4, 2.5, 2.5);
        // Deviations of x: -1.5, -0.5, -0.5, 2.5; of y: -10, 10, 0, 0: 10 / √(9 · 200).
        assertThat(RegressTask.pearson(x, y)).isCloseTo(10 / Math.sqrt(1800), within(1e-12));
        // Of the ranks: -1.5, 0, 0, 1.5 and -1.5, 1.5, 0, 0: 2.25 / 4.5.
        assertThat(RegressTask.pearson(RegressTask.ranks(x), RegressTask.ranks(y)))
                .isCloseTo(0.5, within(1e-12));
        assertThat(RegressTask.pearson(new double[] {1, 1}, new double[] {1, 2}))
                .isZero();

        Examples rows = examples(
                new RegressTask(), List.of(new Row.Scored("red", null, 1), new Row.Scored("buy", "shoes", -2.5)), null);
        Batch batch = batch(rows);
        assertThat(((Target.Floats) batch.targets().getFirst()).values()).containsExactly(1, -2.5f);
        Meter meter = new RegressTask().meter(rows);
        meter.add(batch, new double[] {2, -3.5});
        Evaluation e = meter.evaluation();
        assertThat(e.loss()).isEqualTo(1);
        assertThat(e.metric("rmse")).isEqualTo(1);
        assertThat(e.headlineValue()).isCloseTo(1, within(1e-12));
        assertThat(e.headline()).isEqualTo(new Metric("pearson", true));
    }

    @Test
    void numbersAreNumbers() {
        RegressTask task = new RegressTask();
        refused(
                task,
                "{\"text\":\"red\",\"score\":\"3\"}",
                "rows.jsonl:1: field \"score\" must be a number, found string");
        refused(task, "{\"text\":\"red\",\"score\":NaN}", "rows.jsonl:1: not JSON at column");
        refused(
                task,
                "{\"text\":\"red\",\"score\":1e999}",
                "rows.jsonl:1: field \"score\" must be a number that is finite");
        refused(
                task,
                "{\"text\":\"red\",\"label\":1e39}",
                "rows.jsonl:1: field \"label\" is 1.0E39, which is too large");
        refused(task, "{\"text\":\"red\"}", "rows.jsonl:1: field \"score\" is missing, found \"text\"; a row of task");
    }

    // ---- tags

    private static final Labels TAGS = new Labels(List.of("O", "B-PER", "I-PER", "B-LOC", "I-LOC"));

    private static Row.Tagged tagged(String words, String tags) {
        return new Row.Tagged(List.of(words.split(" ")), List.of(tags.split(" ")));
    }

    @Test
    void aTagIsThatOfTheFirstPieceOfItsWord() {
        List<Row.Tagged> rows =
                List.of(tagged("red shoes", "O B-LOC"), tagged("buy red shoes online cheap", "B-PER 2 O B-LOC 4"));
        Examples examples = examples(new TagTask(), rows, TAGS);
        try (Tokenizer tokenizer = TinyTokenizers.wordPiece()) {
            assertThat(examples.ids(0))
                    .isEqualTo(tokenizer.encode("red shoes", 12).ids());
        }
        Batch batch = batch(examples);
        assertThat(Arrays.stream(batch.labels()).filter(t -> t >= 0).toArray()).containsExactly(0, 3, 1, 2, 0, 3, 4);
        assertThat(batch.labels()[0]).isEqualTo(Batch.IGNORE);
        assertThat(batch.lossTerms()).isEqualTo(7);

        int[] answers = {0, 3, 1, 2, 2, 0, 4};
        double[] logits = new double[batch.labels().length * 5];
        int at = 0;
        for (int i = 0; i < batch.labels().length; i++) {
            if (batch.labels()[i] >= 0) {
                logits[i * 5 + answers[at++]] = 3;
            }
        }
        Meter meter = new TagTask().meter(examples);
        meter.add(batch, logits);
        Evaluation e = meter.evaluation();
        // There: LOC of row 1; PER 0-1 and LOC 3-4 of row 2. Answered: LOC of row 1; PER 0-2 and LOC 4-4 of row 2.
        assertThat(e.metric("precision")).isCloseTo(1 / 3.0, within(1e-12));
        assertThat(e.metric("recall")).isCloseTo(1 / 3.0, within(1e-12));
        assertThat(e.headlineValue()).isCloseTo(1 / 3.0, within(1e-12));
        assertThat(e.metric("accuracy")).isCloseTo(5 / 7.0, within(1e-12));
        assertThat(e.tables().getFirst().rows().get("LOC")).containsExactly(0.5, 0.5, 0.5, 2L);
        assertThat(e.tables().getFirst().rows().get("PER")).containsExactly(0.0, 0.0, 0.0, 1L);
    }

    @Test
    void longTextsAreCutWordByWord() {
        try (Tokenizer tokenizer = TinyTokenizers.wordPiece()) {
            Tokenizer.Words words =
                    tokenizer.encodeWords(List.of("red", "shoes", "online"), tokenizer.aroundText() + 2);
            assertThat(words.encoded().truncated()).isTrue();
            assertThat(words.encoded().ids()).hasSize(tokenizer.aroundText() + 2);
            assertThat(words.starts()).containsExactly(1, 2, -1);
        }
    }

    /// Byte-level tokens begin with the blank before them; a word alone has none.
    @Test
    void wordsAreEncodedAsInAText(@TempDir Path folder) {
        try (Tokenizer bytes = TinyTokenizers.bytes(folder)) {
            Tokenizer.Words words = bytes.encodeWords(List.of("ab", "c", "de"), 20);
            assertThat(words.encoded().ids()).isEqualTo(bytes.body("ab c de"));
            assertThat(words.starts()).containsExactly(0, 2, 4);
        }
    }

    @Test
    void badTags() {
        TagTask task = new TagTask();
        refused(
                task,
                "{\"tokens\":[\"red\"],\"tags\":[\"O\",\"O\"]}",
                "rows.jsonl:1: field \"tokens\" has 1 words but field \"tags\" has 2 tags");
        refused(
                task,
                "{\"tokens\":[\"red\"],\"tags\":[3]}",
                "rows.jsonl:1: field \"tags\": tag 3 is a number without a name; write names");
        refused(task, "{\"tokens\":[],\"tags\":[]}", "rows.jsonl:1: field \"tokens\" is an empty list");
        refused(
                task,
                "{\"tokens\":[\"red\"],\"tags\":[\"O\"]}",
                "rows.jsonl: field \"tags\": all words have the tag [O]; there is nothing to tell apart");
        assertThatThrownBy(() -> examples(task, List.of(tagged("red", "B-ORG")), TAGS))
                .hasMessage("rows:1: field \"tags\": tag \"B-ORG\" is not one of the 5 that the model gives: O, B-PER,"
                        + " I-PER, B-LOC, I-LOC");
    }
}
