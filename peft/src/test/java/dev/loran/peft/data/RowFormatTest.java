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
import java.nio.charset.Charset;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.zip.GZIPOutputStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class RowFormatTest {
    private static final List<Row> SHOES = List.of(
            new Row.Classify("red shoes, size 42", "shop"), new Row.Classify("what is a \"shoe\"?\nsay", "help"));

    private static final String TABLE =
            "id,text,label\r\n1,\"red shoes, size 42\",shop\r\n2,\"what is a \"\"shoe\"\"?\nsay\",help\r\n";

    @TempDir
    Path folder;

    private Path file(String name, String content) throws IOException {
        return Files.writeString(folder.resolve(name), content);
    }

    private static List<Row> read(Path file, RowFormat.Options options) {
        return new RowFiles(List.of(file), options).toList(new ClassifyTask());
    }

    @Test
    void theSameRowsInEveryFormat() throws IOException {
        String lines = "{\"text\":\"red shoes, size 42\",\"label\":\"shop\"}\n"
                + "{\"text\":\"what is a \\\"shoe\\\"?\\nsay\",\"label\":\"help\"}\n";
        String array = "\n [" + lines.strip().replace("}\n", "},\n") + "]\n";
        Map<String, String> contents = Map.of(
                "rows.jsonl", lines,
                "lines", lines,
                "rows.json", array,
                "array", array,
                "rows.csv", TABLE,
                "table", TABLE,
                "semicolons.csv",
                        TABLE.replace("1,", "1;")
                                .replace("2,\"what", "2;\"what")
                                .replace("id,text,label", "id;text;label")
                                .replace("\",shop", "\";shop")
                                .replace("\",help", "\";help"),
                "bars",
                        TABLE.replace("1,", "1|")
                                .replace("2,\"what", "2|\"what")
                                .replace("id,text,label", "id|text|label")
                                .replace("\",shop", "\"|shop")
                                .replace("\",help", "\"|help"));
        for (Map.Entry<String, String> content : contents.entrySet()) {
            for (String start : List.of("", "\ufeff")) {
                Path file = file(content.getKey(), start + content.getValue());
                assertThat(read(file, RowFormat.Options.DETECT))
                        .as("%s %s", content.getKey(), start.length())
                        .isEqualTo(SHOES);
                Path packed = folder.resolve(content.getKey() + ".gz");
                Files.write(packed, gzip(Files.readAllBytes(file)));
                assertThat(read(packed, RowFormat.Options.DETECT))
                        .as("%s.gz", content.getKey())
                        .isEqualTo(SHOES);
            }
        }
        Path tabs = file("rows.tsv", "text\tlabel\nred shoes, size 42\tshop\n\"what is a \"\"shoe\"\"?\nsay\"\thelp\n");
        assertThat(read(tabs, RowFormat.Options.DETECT)).isEqualTo(SHOES);
    }

    private static byte[] gzip(byte[] content) throws IOException {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        try (GZIPOutputStream out = new GZIPOutputStream(bytes)) {
            out.write(content);
        }
        return bytes.toByteArray();
    }

    @Test
    void columnsMayHaveOtherNames() throws IOException {
        RowFormat.Options named = new RowFormat.Options(null, Map.of("text", "body", "label", "category"));
        List<Row> expected = List.of(new Row.Classify("a", "x"));
        assertThat(read(file("a.csv", "category;body\nx;a\n"), named)).isEqualTo(expected);
        assertThat(read(file("a.jsonl", "{\"text\":\"not this\",\"body\":\"a\",\"category\":\"x\"}"), named))
                .isEqualTo(expected);
        assertThatThrownBy(() -> read(file("b.csv", "category,body\nx,a\n"), RowFormat.Options.DETECT))
                .isInstanceOf(InputException.class)
                .hasMessage(folder.resolve("b.csv") + ":1: the header has the columns category, body; a row of task"
                        + " classify is {\"text\",\"label\"} or {\"text\",\"text_pair\",\"label\"}; say which column is"
                        + " which with --columns text=NAME,…");
    }

    @Test
    void aTableHasNumbersListsAndNothing() throws IOException {
        Path file = file("t.csv", "text,label,text_pair,price,tags\na,b,,1.5,\"[\"\"x\"\",\"\"y\"\"]\"\n");
        List<Object> found = new ArrayList<>();
        RowFormat.Reading reading = new RowFormat.Reading("t.csv", "a row", List.of("text"), Map.of(), found::add);
        try (var in = Files.newInputStream(file)) {
            RowFormat.read(in, null, reading, fields -> {
                found.add(fields.number("price"));
                found.add(fields.strings("tags"));
                found.add(fields.has("text_pair"));
                found.add(fields.line());
                assertThatThrownBy(() -> fields.number("label"))
                        .isInstanceOf(InputException.class)
                        .hasMessage("t.csv:2: field \"label\" must be a number, found string");
            });
        }
        assertThat(found)
                .containsExactly(
                        "a table separated by \",\", with the columns text, label, text_pair, price, tags",
                        1.5,
                        List.of("x", "y"),
                        false,
                        2L);
    }

    @Test
    void linesOfTextAreTextsOfALanguageModel() throws IOException {
        Path file = file("story.txt", "Once, there was;\n\n  {a bracket\n");
        assertThat(Rows.read(file, new LmTask()))
                .containsExactly(new Row.Text("Once, there was;"), new Row.Text("{a bracket"));
    }

    @Test
    void theFormatIsSaidUnlessItIsJsonLines() throws IOException {
        try (Tokenizer tokenizer = TinyTokenizers.wordPiece()) {
            Path file = file("rows.csv", TABLE);
            Examples rows = Examples.read(file, new ClassifyTask(), tokenizer, Examples.Options.of(8), null);
            assertThat(rows.notices(null))
                    .startsWith(file + ": a table separated by \",\", with the columns id, text, label")
                    .contains(file + ": fields that are not read: id (2)");
        }
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '~',
            quoteCharacter = '`',
            value = {
                "a.json ~ [{\"text\":\"a\"},\\n{\"text\":3}] ~ a.json:2: field \"text\" must be a string, found number",
                "a.json ~ [{\"text\":\"a\"},\\n3] ~ a.json:2: a JSON number, not an object; a row of task lm is {\"text\"}",
                "a.json ~ [{\"text\":\"a\"},\\n{\"text\":\"b\"}\\n ~ a.json:3: ",
                "a.json ~ [{\"text\":\"a\"},\\n{\"text\" 4}] ~ a.json:2: not JSON at column",
                "a.json ~ [{\"text\":\"a\"}] [] ~ a.json:1: something follows the array; remove it, or write JSON Lines",
                "a.json ~ [] ~ a.json: no rows; a row of task lm is {\"text\"}",
                "a.csv ~ text,label\\n ~ a.csv: no rows; a row of task lm is {\"text\"}",
                "a.csv ~ text,label,text\\na,b,c\\n ~ a.csv:1: the header has the column \"text\" twice; rename one of them",
                "a.csv ~ text,label\\na,b\\na,b,c\\n ~ a.csv:3: 3 values, but the header has 2 columns; a value that contains the separator needs quotes",
                "a.csv ~ text,label\\n,b\\n ~ a.csv:2: field \"text\" is missing, found \"label\"; a row of task lm is {\"text\"}",
                "a.csv ~ text,label\\n\"a\\nb ~ a.csv: ",
            })
    void aFaultIsNamedByFileAndLine(String name, String content, String message) throws IOException {
        Path file = file(name, content.replace("\\n", "\n"));
        assertThatThrownBy(() -> Rows.read(file, new LmTask()))
                .isInstanceOf(InputException.class)
                .hasMessageStartingWith(folder.resolve(message.substring(0, message.indexOf(':')))
                                .toString()
                        + message.substring(message.indexOf(':')).stripTrailing())
                .message()
                .hasLineCount(1);
    }

    @Test
    void otherEncodingsAreRefused() throws IOException {
        for (Charset charset : List.of(StandardCharsets.UTF_16, StandardCharsets.ISO_8859_1)) {
            for (String name : List.of("u.csv", "u.json", "u.jsonl")) {
                String content = name.equals("u.csv")
                        ? "text,label\nSchön,b\n"
                        : name.equals("u.json") ? "[{\"text\":\"Schön\"}]" : "{\"text\":\"Schön\"}";
                Path file = Files.write(folder.resolve(name), content.getBytes(charset));
                assertThatThrownBy(() -> Rows.read(file, new LmTask()))
                        .isInstanceOf(InputException.class)
                        .hasMessageContaining("save the file as UTF-8");
            }
        }
    }

    @Test
    void aBrokenArchiveIsRefused() throws IOException {
        byte[] packed = gzip(TABLE.repeat(1000).getBytes(UTF_8));
        Path file = Files.write(folder.resolve("rows.csv.gz"), java.util.Arrays.copyOf(packed, packed.length / 2));
        assertThatThrownBy(() -> Rows.read(file, new LmTask()))
                .isInstanceOf(InputException.class)
                .hasMessageStartingWith(file + ": cannot be read (");
    }

    @Test
    void severalFilesFollowOneAnother() throws IOException {
        Path a = file("train-0.jsonl", "{\"text\":\"a\",\"label\":\"x\"}");
        Path b = file("train-1.csv", "text,label\nb,y\nc\n");
        file("test.jsonl", "{\"text\":\"t\",\"label\":\"x\"}");
        file("training.md", "text");
        assertThat(RowFiles.in(folder, RowFiles.Part.TRAIN)).containsExactly(a, b);
        assertThat(RowFiles.in(folder, RowFiles.Part.VALIDATION)).isEmpty();
        RowFiles files = new RowFiles(List.of(a, b), RowFormat.Options.DETECT);
        try (Tokenizer tokenizer = TinyTokenizers.wordPiece()) {
            assertThatThrownBy(() -> Examples.read(files, new ClassifyTask(), tokenizer, Examples.Options.of(8), null))
                    .isInstanceOf(InputException.class)
                    .hasMessageStartingWith(b + ":3: 1 values, but the header has 2 columns");
        }
    }

    @Test
    void aShareOfEachClassIsHeldOut() {
        Random random = new Random(4);
        List<Row> rows = new ArrayList<>();
        for (int i = 0; i < 1000; i++) {
            rows.add(new Row.Classify("text " + i, random.nextInt(10) == 0 ? "rare" : "frequent"));
        }
        RowSource all = RowSource.of(rows);
        Task task = new ClassifyTask();
        List<Row> heldOut = all.heldOut(0.2, 7).toList(task);
        List<Row> train = all.besides(0.2, 7).toList(task);
        for (String label : List.of("rare", "frequent")) {
            double count = rows.stream()
                    .filter(row -> ((Row.Classify) row).label().equals(label))
                    .count();
            assertThat(heldOut.stream()
                            .filter(row -> ((Row.Classify) row).label().equals(label))
                            .count())
                    .isBetween((long) Math.floor(0.2 * count), (long) Math.ceil(0.2 * count));
        }
        List<Row> both = new ArrayList<>(train);
        both.addAll(heldOut);
        assertThat(both).containsExactlyInAnyOrderElementsOf(rows);
        assertThat(all.heldOut(0.2, 7).toList(task)).isEqualTo(heldOut);
        assertThat(all.heldOut(0.2, 8).toList(task)).isNotEqualTo(heldOut);
    }

    @Test
    void promptsAndCompletionsAreRowsToGenerate() {
        String lines = "{\"prompt\":\"p\",\"completion\":\"c\"}";
        RowSource rows = RowSource.stream(new ByteArrayInputStream(lines.getBytes(UTF_8)), "standard input");
        assertThat(rows.toList(new GenerateTask())).containsExactly(new Row.Generate("p", "c"));
    }
}
