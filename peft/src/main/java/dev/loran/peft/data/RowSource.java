package dev.loran.peft.data;

import dev.loran.peft.io.InputException;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Path;

/// A source of rows, one after the other: a file, a stream, or whatever a program has. There may be more rows than fit
/// in memory.
public interface RowSource {
    /// The name in messages.
    String name();

    /// Passes every row to `visitor`, in order.
    ///
    /// @param form what a row is
    /// @throws InputException if there are no rows, and for the first bad row
    void forEach(RowForm form, Visitor visitor);

    /// Receives rows one by one.
    @FunctionalInterface
    interface Visitor {
        /// @param line the row's line number, or its position, counted from 1
        void row(Row row, long line);

        /// Reports a field that is not read, once for each row that has it.
        default void unread(String field) {}
    }

    /// A file of JSON Lines ([Rows]).
    static RowSource file(Path file) {
        return new RowSource() {
            @Override
            public String name() {
                return file.toString();
            }

            @Override
            public void forEach(RowForm form, Visitor visitor) {
                Rows.forEach(file, form, visitor);
            }
        };
    }

    /// A stream of JSON Lines, which can be read once; it is not closed.
    ///
    /// @param name the name in messages
    static RowSource stream(InputStream in, String name) {
        return new RowSource() {
            @Override
            public String name() {
                return name;
            }

            @Override
            public void forEach(RowForm form, Visitor visitor) {
                try {
                    Rows.forEach(in, name, form, visitor);
                } catch (IOException e) {
                    throw new InputException(name + ": cannot be read (" + InputException.reason(e) + ")", e);
                }
            }
        };
    }

    /// Rows that a program has or creates: a list, or an iteration that need not hold all of them.
    static RowSource of(Iterable<? extends Row> rows) {
        return of(rows, "rows");
    }

    /// As above.
    ///
    /// @param name the name in messages
    static RowSource of(Iterable<? extends Row> rows, String name) {
        return new RowSource() {
            @Override
            public String name() {
                return name;
            }

            @Override
            public void forEach(RowForm form, Visitor visitor) {
                long place = 0;
                for (Row row : rows) {
                    visitor.row(row, ++place);
                }
                if (place == 0) {
                    throw new InputException(name + ": there are none");
                }
            }
        };
    }
}
