package dev.loran.peft.data;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.loran.peft.io.InputException;
import dev.loran.peft.task.ClassifyTask;
import dev.loran.peft.task.GenerateTask;
import dev.loran.peft.task.LmTask;
import dev.loran.peft.task.Task;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class RowsTest {
    @TempDir
    Path folder;

    private Path file(String content) throws IOException {
        return Files.writeString(folder.resolve("rows.jsonl"), content);
    }

    @Test
    void aStreamAndAnIterationAreSourcesAsAFileIs() throws IOException {
        String lines = "{\"text\":\"red shoes\"}\n\n{\"text\":\"buy\",\"id\":7}\n";
        Path file = file(lines);
        try (Tokenizer tokenizer = TinyTokenizers.wordPiece()) {
            Examples.Options reading = Examples.Options.of(8);
            Examples expected = Examples.read(file, new LmTask(), tokenizer, reading, null);
            RowSource stream = RowSource.stream(new ByteArrayInputStream(lines.getBytes(UTF_8)), "standard input");
            Examples streamed = Examples.read(stream, new LmTask(), tokenizer, reading, null);
            assertThat(streamed.sha256()).isEqualTo(expected.sha256());
            assertThat(streamed.notices(null)).containsExactly("standard input: fields that are not read: id (1)");
            Iterable<Row.Text> made =
                    () -> Stream.of("red shoes", "buy").map(Row.Text::new).iterator();
            assertThat(Examples.read(RowSource.of(made), new LmTask(), tokenizer, reading, null)
                            .sha256())
                    .isEqualTo(expected.sha256());
            RowSource bad = RowSource.stream(new ByteArrayInputStream("{}".getBytes(UTF_8)), "standard input");
            assertThatThrownBy(() -> Examples.read(bad, new LmTask(), tokenizer, reading, null))
                    .isInstanceOf(InputException.class)
                    .hasMessageStartingWith("standard input:1: field \"text\" is missing");
        }
    }

    @Test
    void rowsOfEachTask() throws IOException {
        assertThat(Rows.read(
                        file("{\"text\":\"a é\",\"label\":\"x\",\"more\":1}\n\n {\"label\":\"y\",\"text\":\"b\"}"),
                        new ClassifyTask()))
                .containsExactly(new Row.Classify("a é", "x"), new Row.Classify("b", "y"));
        assertThat(Rows.read(
                        file("{\"text\":\"a\",\"text_pair\":\"b\",\"label\":\"x\"}\n"
                                + "{\"text\":\"a\",\"text_pair\":null,\"label\":\"x\"}"),
                        new ClassifyTask()))
                .containsExactly(new Row.Classify("a", "b", "x"), new Row.Classify("a", "x"));
        assertThat(Rows.read(file("{\"text\":\"a\\nb\"}\r\n"), new LmTask())).containsExactly(new Row.Text("a\nb"));
        assertThat(Rows.read(file("""
                                {"source":"s","target":"t"}
                                {"instruction":"i","input":"n","output":"o"}
                                {"instruction":"i","input":"","output":"o"}
                                {"instruction":"i","output":"o"}
                                """), new GenerateTask()))
                .containsExactly(
                        new Row.Generate("s", "t"),
                        new Row.Generate("i\nn", "o"),
                        new Row.Generate("i", "o"),
                        new Row.Generate("i", "o"));
    }

    @Test
    void linesAreCountedAsEditorsCountThem() throws IOException {
        List<Long> lines = new ArrayList<>();
        RowSource.file(file("\ufeff{\"text\":\"a\"}\n\n\n{\"text\":\"b\"}\n"))
                .forEach(new LmTask(), (row, line) -> lines.add(line));
        assertThat(lines).containsExactly(1L, 4L);
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            quoteCharacter = '`',
            value = {
                "classify | {\"text\":\"a\"}                     | field \"label\" is missing, found \"text\"; a row of task classify is {\"text\",\"label\"} or {\"text\",\"text_pair\",\"label\"}",
                "classify | {\"text\":\"a\",\"label\":3.5}       | field \"label\" must be a string, found number",
                "classify | {\"text\":null,\"label\":\"x\"}      | field \"text\" must be a string, found null",
                "classify | {\"text\":[\"a\"],\"label\":\"x\"}   | field \"text\" must be a string, found array",
                "classify | {\"text\":\" \",\"label\":\"x\"}     | field \"text\" is empty",
                "generate | {\"messages\":[]}                    | field \"source\" is missing, found \"messages\"; a row of task generate is {\"source\",\"target\"}, {\"prompt\",\"completion\"} or {\"instruction\",\"input\",\"output\"}",
                "classify | {\"text\":\"a\",\"text_pair\":7,\"label\":\"x\"} | field \"text_pair\" must be a string, found number",
                "classify | {\"text\":\"a\",\"text_pair\":\"\",\"label\":\"x\"} | field \"text_pair\" is empty",
                "lm       | [\"text\"]                           | a JSON array, not an object; a row of task lm is {\"text\"}",
                "lm       | \"text\"                             | a JSON string, not an object; a row of task lm is {\"text\"}",
                "generate | {\"source\":\"a\"}                   | field \"target\" is missing, found \"source\"; a row of task generate is {\"source\",\"target\"}, {\"prompt\",\"completion\"} or {\"instruction\",\"input\",\"output\"}",
                "generate | {\"instruction\":\"a\",\"input\":2,\"output\":\"b\"} | field \"input\" must be a string, found number",
                "generate | {\"instruction\":\"a\",\"input\":\"\"} | field \"output\" is missing, found \"instruction\", \"input\"; a row of task generate is {\"source\",\"target\"}, {\"prompt\",\"completion\"} or {\"instruction\",\"input\",\"output\"}",
            })
    void aBadRowIsNamedByFileLineAndField(String task, String row, String problem) throws IOException {
        Path file = file("{\"text\":\"a\",\"label\":\"x\",\"source\":\"s\",\"target\":\"t\"}\n" + row + "\n");
        assertThatThrownBy(() -> Rows.read(file, Task.named(task)))
                .isInstanceOf(InputException.class)
                .hasMessage(file + ":2: " + problem);
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            quoteCharacter = '`',
            value = {
                "{\"text\":\"a\"              | not JSON at column",
                "text                         | not JSON at column 1: Unrecognized token 'text'",
                "{\"text\":\"a\"} x           | not JSON at column",
                "{\"text\":\"a\",\"text\":\"b\"} | not JSON at column 19: Duplicate field 'text'",
            })
    void aLineThatIsNoJsonIsNamedByFileLineAndColumn(String line, String problem) throws IOException {
        Path file = file("\n" + line);
        assertThatThrownBy(() -> Rows.read(file, new LmTask()))
                .isInstanceOf(InputException.class)
                .hasMessageStartingWith(file + ":2: " + problem)
                .message()
                .hasLineCount(1);
    }

    @Test
    void labelsMayBeNumbersAndAnInputNull() throws IOException {
        assertThat(Rows.read(file("{\"text\":\"a\",\"label\":0}\n{\"text\":\"b\",\"label\":10}\n"), new ClassifyTask()))
                .containsExactly(new Row.Classify("a", "0"), new Row.Classify("b", "10"));
        assertThat(Labels.of(List.of("10", "2", "0")).names()).containsExactly("0", "2", "10");
        assertThat(Labels.of(List.of("10", "2", "b")).names()).containsExactly("10", "2", "b");
        assertThat(Rows.read(file("{\"instruction\":\"say\",\"input\":null,\"output\":\"a\"}"), new GenerateTask()))
                .containsExactly(new Row.Generate("say", "a"));
    }

    @Test
    void aFileWithoutRowsIsAnError() throws IOException {
        Path empty = file("");
        assertThatThrownBy(() -> Rows.read(empty, new LmTask()))
                .isInstanceOf(InputException.class)
                .hasMessage(empty + ": no rows; a row of task lm is {\"text\"}");
        Path blank = file("\n  \n");
        assertThatThrownBy(() -> Rows.read(blank, new LmTask())).isInstanceOf(InputException.class);
        Path missing = folder.resolve("missing.jsonl");
        assertThatThrownBy(() -> Rows.read(missing, new LmTask()))
                .isInstanceOf(InputException.class)
                .hasMessage(missing + ": no such file");
        assertThatThrownBy(() -> Rows.read(folder, new LmTask()))
                .isInstanceOf(InputException.class)
                .hasMessageStartingWith(folder + ": cannot be read (");
    }

    @Test
    void bytesThatAreNoUtf8AreNamedByTheirLine() throws IOException {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        bytes.write("{\"text\":\"a\"}\n{\"text\":\"".getBytes(StandardCharsets.UTF_8));
        bytes.write("é".getBytes(StandardCharsets.ISO_8859_1));
        bytes.write("\"}\n{\"text\":\"b\"}\n".getBytes(StandardCharsets.UTF_8));
        Path file = Files.write(folder.resolve("latin1.jsonl"), bytes.toByteArray());
        assertThatThrownBy(() -> Rows.read(file, new LmTask()))
                .isInstanceOf(InputException.class)
                .hasMessage(file + ":2: not UTF-8; save the file as UTF-8");
    }

    @Test
    void aFileWithoutLinesIsNotReadWhole() {
        InputStream zeros = new InputStream() {
            @Override
            public int read() {
                return '0';
            }
        };
        assertThatThrownBy(() -> RowSource.stream(zeros, "zeros").toList(new LmTask()))
                .isInstanceOf(InputException.class)
                .hasMessage("zeros:1: longer than 16 MiB; is this a JSON Lines file?");
    }

    @Test
    void anUnknownTaskIsAnError() {
        assertThatThrownBy(() -> Task.named("Classify"))
                .isInstanceOf(InputException.class)
                .hasMessage(
                        "task \"Classify\" is not known; choose classify, regress, tag, embed, rerank, generate, chat, prefer or lm");
    }
}
