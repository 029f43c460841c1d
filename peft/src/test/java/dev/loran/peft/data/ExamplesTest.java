package dev.loran.peft.data;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.loran.peft.io.InputException;
import dev.loran.peft.task.ClassifyTask;
import dev.loran.peft.task.GenerateTask;
import dev.loran.peft.task.LmTask;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.IntStream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class ExamplesTest {
    @TempDir
    Path folder;

    private final Tokenizer words = TinyTokenizers.wordPiece();

    @AfterEach
    void close() {
        words.close();
    }

    private Path file(String content) throws IOException {
        return Files.writeString(folder.resolve("rows.jsonl"), content);
    }

    @Test
    void labelsAreSortedWhateverTheOrderOfTheRows() throws IOException {
        Path file = file("""
                {"text":"buy shoes","label":"b"}
                {"text":"run","label":"c"}
                {"text":"red","label":"a"}
                {"text":"cheap","label":"c"}
                """);
        Examples examples = Examples.read(file, new ClassifyTask(), words, Examples.Options.of(8), null);
        assertThat(examples.labels().names()).containsExactly("a", "b", "c");
        assertThat(examples.size()).isEqualTo(4);
        assertThat(new int[] {examples.target(0)[0], examples.target(1)[0], examples.target(2)[0], examples.target(3)[0]
                })
                .containsExactly(1, 2, 0, 2);
        assertThat(examples.ids(0)).containsExactly(2, 4, 6, 3);
        assertThat(examples.longest()).isEqualTo(4);
        assertThat(examples.truncated()).isZero();
    }

    @Test
    void aGivenHeadFixesTheIdsAndRefusesOtherLabels() throws IOException {
        Labels labels = new Labels(List.of("z", "a"));
        Path good = file("{\"text\":\"run\",\"label\":\"a\"}");
        Examples examples = Examples.read(good, new ClassifyTask(), words, Examples.Options.of(8), labels);
        assertThat(examples.target(0)[0]).isEqualTo(1);
        Path bad = file("{\"text\":\"run\",\"label\":\"a\"}\n{\"text\":\"run\",\"label\":\"b\"}");
        assertThatThrownBy(() -> Examples.read(bad, new ClassifyTask(), words, Examples.Options.of(8), labels))
                .isInstanceOf(InputException.class)
                .hasMessage(bad + ":2: field \"label\": label \"b\" is not one of the 2 labels of the model: z, a");
    }

    @Test
    void labelsMustBeTwoOrMoreAndDiffer() throws IOException {
        Path file = file("{\"text\":\"run\",\"label\":\"a\"}");
        assertThatThrownBy(() -> Examples.read(file, new ClassifyTask(), words, Examples.Options.of(8), null))
                .isInstanceOf(InputException.class)
                .hasMessage(file + ": field \"label\": labels: a classifier needs two labels or more, not [a]");
        assertThatThrownBy(() -> new Labels(List.of("a", "b", "a")))
                .isInstanceOf(InputException.class)
                .hasMessage("labels: \"a\" appears twice; name each once");
        Labels many = Labels.of(List.of("n m l k j i h g f e d c b a".split(" ")));
        assertThatThrownBy(() -> many.id("x"))
                .hasMessage("label \"x\" is not one of the 14 labels of the model: "
                        + "a, b, c, d, e, f, g, h, i, j, k, l and 2 more");
    }

    @Test
    void cutTextsAreCountedAndThePrefixComesFirst() {
        List<Row.Classify> rows = List.of(new Row.Classify("buy cheap red shoes", "a"), new Row.Classify("run", "b"));
        Examples examples = Examples.of(
                new ClassifyTask(), rows, words, Examples.Options.of(5).withTextPrefix("query: "), null);
        assertThat(examples.ids(0)).containsExactly(2, 11, 12, 4, 3);
        assertThat(examples.ids(1)).containsExactly(2, 11, 12, 7, 3);
        assertThat(examples.truncated()).isEqualTo(1);
    }

    @Test
    void whatStandsOutInRowsIsTold() throws IOException {
        Path train = Files.writeString(folder.resolve("train.jsonl"), """
                {"text": "buy red shoes", "label": "a", "lable": "b", "id": 3}
                {"text": "buy red shoes", "label": "a", "id": 4}
                {"text": "buy red shoes", "label": "b"}
                {"text": "zzz yyy", "label": "b"}
                {"text": "\\u0000", "label": "b"}
                """);
        Path held = Files.writeString(folder.resolve("held.jsonl"), """
                {"text": "buy red shoes", "label": "b"}
                {"text": "run", "label": "a"}
                """);
        try (Tokenizer tokenizer = TinyTokenizers.wordPiece()) {
            Examples rows = Examples.read(train, new ClassifyTask(), tokenizer, Examples.Options.of(4), null);
            assertThat(rows.notices(null))
                    .containsExactly(
                            train + ": 3 texts are longer than 4 tokens and were cut",
                            train + ": fields that are not read: id (2), lable (1); did you mean label?",
                            train + ": 1 of 5 rows repeat another one",
                            train + ": 1 of 5 rows have a text that another row has with another label",
                            train + ": 1 of 5 texts are empty for the tokenizer",
                            train
                                    + ": 1 of 5 texts are for the most part not in the tokenizer's vocabulary, 25.0 % of all"
                                    + " tokens; is it of their language?");
            Examples.Options reading = Examples.Options.of(9);
            Examples same = Examples.read(held, new ClassifyTask(), tokenizer, reading, rows.labels());
            assertThat(same.notices(null)).isEmpty();
            assertThat(same.notices(rows))
                    .containsExactly(held + ": 1 of 2 rows are among those to train on: results on them prove nothing");
        }
    }

    @Test
    void pairsAndSingleTextsMayStandTogether() throws IOException {
        Path file = file("""
                {"text":"buy","text_pair":"red shoes","label":"a"}
                {"text":"buy","label":"a"}
                {"text":"buy","text_pair":"shoes","label":"b"}
                {"text":"buy red shoes","text_pair":"buy red shoes","label":"b"}
                {"text":"buy","text_pair":"shoes","label":"b"}
                """);
        Examples examples = Examples.read(file, new ClassifyTask(), words, Examples.Options.of(8), null);
        assertThat(examples.ids(0)).containsExactly(2, 4, 3, 10, 6, 3);
        assertThat(examples.tokenTypes(0)).containsExactly(0, 0, 0, 1, 1, 1);
        assertThat(examples.ids(1)).containsExactly(2, 4, 3);
        assertThat(examples.tokenTypes(1)).isNull();
        assertThat(examples.hasTokenTypes()).isTrue();
        assertThat(examples.notices(null))
                .containsExactly(
                        file + ": 1 texts are longer than 8 tokens and were cut",
                        file + ": 1 of 5 rows repeat another one");
        Batch both = Batch.of(examples, new int[] {1, 2}, 1);
        assertThat(both.inputIds()).containsExactly(2, 4, 3, 0, 0, 2, 4, 3, 6, 3);
        assertThat(both.tokenTypes()).containsExactly(0, 0, 0, 0, 0, 0, 0, 0, 1, 1);
        assertThat(Batch.of(examples, new int[] {1}, 1).tokenTypes()).isNull();
        Row.Classify alone = new Row.Classify("buy", "shoes", "x");
        Examples ofPairs = Examples.of(
                new ClassifyTask(),
                List.of(alone, new Row.Classify("run", "y")),
                words,
                Examples.Options.of(8).withTextPrefix("query: "),
                null);
        assertThat(ofPairs.ids(0)).containsExactly(2, 11, 12, 4, 3, 6, 3);
        assertThat(ofPairs.sha256())
                .isNotEqualTo(Examples.of(
                                new ClassifyTask(),
                                List.of(new Row.Classify("query: buy shoes", "x"), new Row.Classify("query: run", "y")),
                                words,
                                Examples.Options.of(8),
                                null)
                        .sha256());
    }

    @Test
    void generateRowsKnowTheirPrompt() {
        try (Tokenizer bytes = TinyTokenizers.bytes(folder)) {
            Examples examples = Examples.of(
                    new GenerateTask(),
                    List.of(new Row.Generate("abcdef", "b"), new Row.Generate("a", "bc")),
                    bytes,
                    Examples.Options.of(6),
                    null);
            assertThat(examples.ids(0)).containsExactly(64, 65, 198, 65, 256);
            assertThat(examples.target(0)[0]).isEqualTo(3);
            assertThat(examples.answerRoom()).isEqualTo(3);
            assertThat(examples.length(1) - examples.target(1)[0]).isEqualTo(3);
            assertThat(examples.target(1)[0]).isEqualTo(2);
            assertThat(examples.truncated()).isEqualTo(1);
            assertThatThrownBy(examples::labels)
                    .isInstanceOf(IllegalStateException.class)
                    .hasMessage("labels: rows of task generate have none");
        }
    }

    @Test
    void concatenationLosesNothing() {
        try (Tokenizer bytes = TinyTokenizers.bytes(folder)) {
            List<Row.Text> rows = List.of(new Row.Text("abcde"), new Row.Text("f"), new Row.Text("gh"));
            Examples packed = Examples.of(
                    new LmTask(), rows, bytes, Examples.Options.of(4).withConcatenate(true), null);
            assertThat(packed.size()).isEqualTo(3);
            assertThat(packed.ids(0)).containsExactly(64, 65, 66, 67);
            assertThat(packed.ids(1)).containsExactly(68, 256, 69, 256);
            assertThat(packed.ids(2)).containsExactly(70, 71, 256);
            assertThat(packed.truncated()).isZero();
            Examples apart = Examples.of(new LmTask(), rows, bytes, Examples.Options.of(4), null);
            assertThat(apart.size()).isEqualTo(3);
            assertThat(apart.ids(0)).containsExactly(64, 65, 66, 67);
            assertThat(apart.ids(1)).containsExactly(69, 256);
            assertThat(apart.truncated()).isEqualTo(1);
            assertThatThrownBy(() -> Examples.of(
                            new GenerateTask(),
                            List.of(new Row.Generate("a", "b")),
                            bytes,
                            Examples.Options.of(4).withConcatenate(true),
                            null))
                    .isInstanceOf(InputException.class)
                    .hasMessage("only texts of task lm can be joined, not rows of task generate");
        }
    }

    @Test
    void packedRowsHoldSeveralTexts() {
        try (Tokenizer bytes = TinyTokenizers.bytes(folder)) {
            List<Row.Generate> rows = List.of(
                    new Row.Generate("abc", "d"),
                    new Row.Generate("a", "b"),
                    new Row.Generate("c", "de"),
                    new Row.Generate("e", "f"));
            Examples apart = Examples.of(new GenerateTask(), rows, bytes, Examples.Options.of(12), null);
            Examples packed = apart.packed();
            assertThat(apart.isPacked()).isFalse();
            assertThat(packed.isPacked()).isTrue();
            // Rows of 6, 4, 5 and 4 ids: 6 + 5, and 4 + 4.
            assertThat(packed.size()).isEqualTo(2);
            assertThat(packed.ids(0)).containsExactly(concat(apart.ids(0), apart.ids(2)));
            assertThat(packed.target(0)).containsExactly(6, apart.target(0)[0], 5, apart.target(2)[0]);
            Batch batch = new DataLoader(packed, new DataLoader.Options(2, false, 0, false, false, 1))
                    .epoch(0)
                    .getFirst();
            assertThat(batch.isPacked()).isTrue();
            assertThat(batch.attentionMask())
                    .containsExactly(1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 1, 1, 1, 1, 2, 2, 2, 2, 0, 0, 0);
            assertThat(batch.positions())
                    .containsExactly(0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2);
            assertThat(batch.lossTerms())
                    .isEqualTo(new DataLoader(apart, DataLoader.Options.evaluation(4))
                            .epoch(0)
                            .getFirst()
                            .lossTerms());
            for (int i = 0; i < batch.labels().length; i++) {
                assertThat(batch.labels()[i]).isIn(Batch.IGNORE, batch.inputIds()[i]);
            }
            assertThat(Examples.of(
                                    new LmTask(),
                                    List.of(new Row.Text("abc"), new Row.Text("de")),
                                    bytes,
                                    Examples.Options.of(3),
                                    null)
                            .packed()
                            .isPacked())
                    .isFalse();
        }
        assertThatThrownBy(() -> Examples.of(
                                new ClassifyTask(),
                                List.of(new Row.Classify("buy", "x"), new Row.Classify("run", "y")),
                                words,
                                Examples.Options.of(8),
                                null)
                        .packed())
                .isInstanceOf(InputException.class)
                .hasMessage("rows of task classify cannot be packed, only those that a causal model is to continue");
    }

    private static int[] concat(int[] first, int[] second) {
        return IntStream.concat(IntStream.of(first), IntStream.of(second)).toArray();
    }

    @Test
    void rowsThatTeachNothingAreRefused() {
        try (Tokenizer bytes = TinyTokenizers.bytes(folder)) {
            assertThatThrownBy(() -> Examples.of(
                            new LmTask(),
                            List.of(new Row.Text("ab"), new Row.Text("a")),
                            bytes,
                            Examples.Options.of(1),
                            null))
                    .isInstanceOf(InputException.class)
                    .hasMessage("rows:1: the text gives fewer than two tokens: nothing to predict");
            assertThatThrownBy(() -> Examples.of(new LmTask(), List.of(), bytes, Examples.Options.of(4), null))
                    .isInstanceOf(InputException.class)
                    .hasMessage("rows: there are no rows");
            assertThatThrownBy(() -> Examples.of(
                            new LmTask(),
                            List.of(new Row.Text("ab"), new Row.Generate("a", "b")),
                            bytes,
                            Examples.Options.of(4),
                            null))
                    .isInstanceOf(InputException.class)
                    .hasMessage("rows:2: a row of another form, Generate, among rows of task lm");
            assertThatThrownBy(() -> Examples.Options.of(0))
                    .isInstanceOf(InputException.class)
                    .hasMessage("max length 0 must be at least 1");
            assertThatThrownBy(() -> Examples.Options.of(1).withConcatenate(true))
                    .isInstanceOf(InputException.class)
                    .hasMessage("max length 1 leaves nothing to predict in a row of joined texts");
        }
    }
}
