package dev.loran.peft.data;

import dev.loran.peft.io.InputException;
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
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/// Reads rows from JSON Lines: one JSON object per line, in UTF-8. Fields that the task does not use are skipped
/// ([Examples#notices] reports them), as are blank lines; labels may be integers. Anything else that is not a valid row
/// is an [InputException] that names file, line and field.
///
/// A file is read as a stream, with one line in memory at a time.
public final class Rows {
    /// The longest accepted line, in bytes; a file with a longer one is assumed not to be JSON Lines.
    static final int MAX_LINE_BYTES = 16 << 20;

    private Rows() {}

    /// All rows of a small file.
    ///
    /// @throws InputException for a file without rows and for the first bad row
    public static List<Row> read(Path file, RowForm form) {
        List<Row> rows = new ArrayList<>();
        forEach(file, form, (row, line) -> rows.add(row));
        return rows;
    }

    /// Passes every row of a file to the visitor.
    ///
    /// @throws InputException for a file that is missing or has no rows, and for the first bad row
    public static void forEach(Path file, RowForm form, RowSource.Visitor visitor) {
        InputException.requireWhole(file);
        try (InputStream in = Files.newInputStream(file)) {
            forEach(in, file.toString(), form, visitor);
        } catch (IOException e) {
            throw InputException.io(file, "cannot be read", e);
        }
    }

    /// Passes every row of a stream to the visitor.
    ///
    /// @param name the name of the stream in error messages
    /// @throws InputException for a stream without rows and for the first bad row
    public static void forEach(InputStream in, String name, RowForm form, RowSource.Visitor visitor)
            throws IOException {
        forEachObject(in, name, "a row of task " + form.name() + " is " + form.form(), fields -> {
            visitor.row(form.row(fields), fields.line());
            fields.names().stream()
                    .filter(field -> !form.fields().contains(field))
                    .forEach(visitor::unread);
        });
    }

    /// Passes every text of a file to the visitor: the field `text` and, for a pair, `text_pair` of JSON Lines, or, if
    /// the file's name ends in `.txt`, each line. Blank lines are skipped.
    ///
    /// @throws InputException for a file that is missing or has no texts, and for the first bad line
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
                        fields ->
                                visitor.accept(new Row.Unlabelled(fields.text("text"), fields.optional("text_pair"))));
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

    /// Passes the fields of every line to the visitor.
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

    /// Splits bytes into lines before decoding: a decoder that reads ahead could not tell which line contains a bad
    /// byte.
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
                // A byte order mark is not part of the first row.
                return line == 1 && text.hasRemaining() && text.charAt(0) == '\ufeff'
                        ? text.subSequence(1, text.length()).toString()
                        : text.toString();
            } catch (CharacterCodingException e) {
                throw new InputException(name + ":" + line + ": not UTF-8; save the file as UTF-8", e);
            }
        }
    }
}
