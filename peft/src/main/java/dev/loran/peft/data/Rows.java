package dev.loran.peft.data;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.StreamReadFeature;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import dev.loran.peft.io.InputException;
import dev.loran.peft.io.JsonFile;
import java.io.BufferedInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/// Reads rows from JSON Lines: one JSON object a line, in UTF-8. Fields that a task does not know are passed
/// over ([Examples#notices] tells of them), blank lines too, labels may be whole numbers; everything else that is not a good row is an [InputException] naming file, line and
/// field.
///
/// A file is read as a stream: one line of it is in memory at a time.
public final class Rows {
    /// Bytes of the longest line accepted: beyond it the file is taken for something else than JSON Lines.
    static final int MAX_LINE_BYTES = 16 << 20;

    private static final ObjectReader JSON = new ObjectMapper(JsonFactory.builder()
                    .enable(StreamReadFeature.STRICT_DUPLICATE_DETECTION)
                    .build())
            .enable(DeserializationFeature.FAIL_ON_TRAILING_TOKENS)
            .reader();

    private Rows() {}

    /// Takes the rows of a file one by one, in its order.
    @FunctionalInterface
    public interface Visitor {
        /// @param line the line of the row, counted from 1
        void row(Row row, long line);
    }

    /// All rows of a small file.
    ///
    /// @throws InputException for a file without rows and for the first bad row
    public static List<Row> read(Path file, Task task) {
        List<Row> rows = new ArrayList<>();
        forEach(file, task, (row, line) -> rows.add(row));
        return rows;
    }

    /// Shows the visitor every row of a file.
    ///
    /// @throws InputException for a file that is missing or without rows and for the first bad row
    public static void forEach(Path file, Task task, Visitor visitor) {
        forEach(file, task, visitor, field -> {});
    }

    /// As above.
    ///
    /// @param unread takes the name of every field that the task does not know, row by row
    static void forEach(Path file, Task task, Visitor visitor, Consumer<String> unread) {
        InputException.requireWhole(file);
        try (InputStream in = Files.newInputStream(file)) {
            forEach(in, file.toString(), task, visitor, unread);
        } catch (IOException e) {
            throw InputException.io(file, "cannot be read", e);
        }
    }

    /// Shows the visitor every row of a stream.
    ///
    /// @param name what error messages call the stream
    /// @throws InputException for a stream without rows and for the first bad row
    public static void forEach(InputStream in, String name, Task task, Visitor visitor) throws IOException {
        forEach(in, name, task, visitor, field -> {});
    }

    private static void forEach(InputStream in, String name, Task task, Visitor visitor, Consumer<String> unread)
            throws IOException {
        forEachObject(in, name, "a row of task " + task + " is " + task.form(), fields -> {
            visitor.row(fields.row(task), fields.line);
            fields.object.fieldNames().forEachRemaining(field -> {
                if (!task.fields().contains(field)) {
                    unread.accept(field);
                }
            });
        });
    }

    /// Shows the visitor every text of a file: the fields `text` and, for a pair, `text_pair` of JSON Lines, or where the
    /// file's name ends in `.txt` a line each. Blank lines are passed over.
    ///
    /// @throws InputException for a file that is missing or without texts and for the first bad line
    public static void texts(Path file, Consumer<Row.Unlabelled> visitor) {
        String form = "a text is a line of a .txt file, {\"text\"} or {\"text\",\"text_pair\"}";
        String name = file.toString();
        InputException.requireWhole(file);
        try (InputStream in = Files.newInputStream(file)) {
            if (!name.endsWith(".txt")) {
                forEachObject(
                        in,
                        name,
                        form,
                        fields -> visitor.accept(new Row.Unlabelled(fields.text("text"), fields.textPair())));
                return;
            }
            Lines lines = new Lines(in, name);
            boolean empty = true;
            for (String text = lines.next(); text != null; text = lines.next()) {
                if (!text.isBlank()) {
                    visitor.accept(new Row.Unlabelled(text.strip(), null));
                    empty = false;
                }
            }
            if (empty) {
                throw new InputException(name + ": no texts; expected one a line");
            }
        } catch (IOException e) {
            throw InputException.io(file, "cannot be read", e);
        }
    }

    /// Shows the visitor the fields of every line.
    ///
    /// @param form what a row should look like, for error messages
    static void forEachObject(InputStream in, String name, String form, Consumer<Fields> visitor) throws IOException {
        Lines lines = new Lines(in, name);
        boolean empty = true;
        for (String text = lines.next(); text != null; text = lines.next()) {
            if (!text.isBlank()) {
                visitor.accept(new Fields(name, lines.line, form, text));
                empty = false;
            }
        }
        if (empty) {
            throw new InputException(name + ": no rows; expected one JSON object a line: " + form);
        }
    }

    /// Lines as bytes first: a decoder that reads ahead could not say in which line the bad byte stands.
    private static final class Lines {
        private final InputStream in;
        private final String name;
        private final ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        private long line;

        Lines(InputStream in, String name) {
            this.in = new BufferedInputStream(in, 1 << 16);
            this.name = name;
        }

        @Nullable
        String next() throws IOException {
            bytes.reset();
            line++;
            int b = in.read();
            if (b < 0) {
                return null;
            }
            for (; b >= 0 && b != '\n'; b = in.read()) {
                if (bytes.size() == MAX_LINE_BYTES) {
                    throw InputException.at(
                            name, line, "longer than " + (MAX_LINE_BYTES >> 20) + " MiB; is this a JSON Lines file?");
                }
                bytes.write(b);
            }
            try {
                CharBuffer text = StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(bytes.toByteArray()));
                // A byte order mark is no character of the first row.
                return line == 1 && text.hasRemaining() && text.charAt(0) == '\ufeff'
                        ? text.subSequence(1, text.length()).toString()
                        : text.toString();
            } catch (CharacterCodingException e) {
                throw new InputException(name + ":" + line + ": not UTF-8; save the file as UTF-8", e);
            }
        }
    }

    /// The fields of one line.
    static final class Fields {
        private final String name;
        private final long line;
        private final String form;
        private final JsonNode object;

        private Fields(String name, long line, String form, String text) {
            this.name = name;
            this.line = line;
            this.form = form;
            String start = text.strip();
            if (line == 1 && start.startsWith("[")) {
                throw bad("a JSON array, not JSON Lines; put each element on a line of its own, without brackets and"
                        + " commas around it; " + form);
            }
            if (line == 1 && !start.startsWith("{") && name.matches("(?i).*\\.(csv|tsv)")) {
                throw bad("separated values, not JSON Lines; make each record an object on a line of its own; " + form);
            }
            try {
                this.object = JSON.readTree(text);
            } catch (JsonProcessingException e) {
                int column = e.getLocation() == null ? 1 : e.getLocation().getColumnNr();
                throw new InputException(
                        "%s:%d: not JSON at column %d: %s; %s".formatted(name, line, column, JsonFile.problem(e), form),
                        e);
            }
            if (!object.isObject()) {
                throw bad("a JSON " + kind(object) + ", not an object; " + form);
            }
        }

        private Row row(Task task) {
            return switch (task) {
                case CLASSIFY -> new Row.Classify(text("text"), textPair(), label());
                case GENERATE ->
                    object.has("instruction")
                            ? Row.Generate.instruction(
                                    text("instruction"),
                                    object.hasNonNull("input") ? string("input") : "",
                                    text("output"))
                            : new Row.Generate(text("source"), text("target"));
                case LM -> new Row.Text(text("text"));
            };
        }

        /// A field that must be a string and not blank.
        String text(String field) {
            String value = string(field);
            if (value.isBlank()) {
                throw bad("field \"" + field + "\" is empty");
            }
            return value;
        }

        /// The second text of a row; null where it has none.
        private @Nullable String textPair() {
            return object.hasNonNull("text_pair") ? text("text_pair") : null;
        }

        /// A string, or a whole number, which is a name like any other.
        private String label() {
            JsonNode value = object.path("label");
            return value.isIntegralNumber() ? value.asText() : text("label");
        }

        private String string(String field) {
            JsonNode value = object.get(field);
            if (value == null) {
                List<String> found = new ArrayList<>();
                object.fieldNames().forEachRemaining(name -> found.add("\"" + name + "\""));
                throw bad("field \"" + field + "\" is missing, found "
                        + (found.isEmpty() ? "none" : String.join(", ", found)) + "; " + form);
            }
            if (!value.isTextual()) {
                throw bad("field \"" + field + "\" must be a string, found " + kind(value));
            }
            return value.textValue();
        }

        private InputException bad(String problem) {
            return InputException.at(name, line, problem);
        }

        private static String kind(JsonNode value) {
            return value.getNodeType().toString().toLowerCase(Locale.ROOT);
        }
    }
}
