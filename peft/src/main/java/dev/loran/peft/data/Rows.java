package dev.loran.peft.data;

import dev.loran.peft.io.InputException;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/// Reads rows from files: JSON Lines, a JSON array, a table or lines of text ([RowFormat]), in UTF-8, plain or
/// compressed by gzip. Fields that the task does not use are skipped ([Examples#notices] reports them), as are blank
/// lines; labels may be integers. Anything else that is not a valid row is an [InputException] that names file, line
/// and field.
///
/// A file is read as a stream, with one row in memory at a time.
public final class Rows {
    private Rows() {}

    /// All rows of a small file.
    ///
    /// @throws InputException for a file without rows and for the first bad row
    public static List<Row> read(Path file, RowForm form) {
        return RowSource.file(file).toList(form);
    }

    /// Passes every row of a file to the visitor.
    ///
    /// @throws InputException for a file that is missing or has no rows, and for the first bad row
    static void forEach(Path file, RowFormat.Options options, RowForm form, RowSource.Visitor visitor) {
        InputException.requireWhole(file);
        try (InputStream in = Files.newInputStream(file)) {
            forEach(in, file.toString(), options, form, visitor);
        } catch (IOException e) {
            throw InputException.io(file, "cannot be read", e);
        }
    }

    /// Passes every row of a stream to the visitor.
    ///
    /// @param name the name of the stream in error messages
    /// @throws InputException for a stream without rows and for the first bad row
    static void forEach(InputStream in, String name, RowFormat.Options options, RowForm form, RowSource.Visitor visitor)
            throws IOException {
        String expected = "a row of task " + form.name() + " is " + form.form();
        RowFormat.Reading reading =
                new RowFormat.Reading(name, expected, form.fields(), options.columns(), visitor::format);
        forEachObject(in, options.format(), reading, fields -> {
            visitor.row(form.row(fields), fields);
            fields.names().stream()
                    .filter(field -> !form.fields().contains(field))
                    .forEach(visitor::unread);
        });
    }

    static void forEachObject(
            InputStream in, @Nullable RowFormat format, RowFormat.Reading reading, Consumer<Fields> visitor)
            throws IOException {
        if (!RowFormat.read(in, format, reading, visitor)) {
            throw new InputException(reading.name() + ": no rows; " + reading.form());
        }
    }
}
