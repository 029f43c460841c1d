package dev.loran.peft.data;

import dev.loran.peft.io.InputException;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Predicate;
import java.util.function.Supplier;

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

        /// The same for a row of a file, with all of its fields, also those that are not read.
        default void row(Row row, Fields fields) {
            row(row, fields.line());
        }

        /// Reports a field that is not read, once for each row that has it.
        default void unread(String field) {}

        /// Announces the name of the file that the next rows come from.
        default void file(String name) {}

        /// Reports the format that was detected, in words, unless it is JSON Lines.
        default void format(String detected) {}
    }

    /// All rows, in memory.
    default List<Row> toList(RowForm form) {
        List<Row> rows = new ArrayList<>();
        forEach(form, (row, line) -> rows.add(row));
        return rows;
    }

    /// Only the rows that `chosen` accepts.
    ///
    /// @param name the name in messages
    /// @param chosen creates, for each reading, the test that is asked for every row in order
    default RowSource only(String name, Supplier<Predicate<Row>> chosen) {
        RowSource all = this;
        return new RowSource() {
            @Override
            public String name() {
                return name;
            }

            @Override
            public void forEach(RowForm form, Visitor visitor) {
                Chosen some = new Chosen(visitor, chosen.get());
                all.forEach(form, some);
                if (!some.any) {
                    throw new InputException(name + ": there are no rows");
                }
            }
        };
    }

    /// The part of these rows that is not held out by [#heldOut].
    default RowSource besides(double share, long seed) {
        return only(name(), () -> new HeldOut(share, seed).negate());
    }

    /// A share of these rows, held out from the others: of each class, if rows have classes, one row in every 1 /
    /// share.
    ///
    /// @param share greater than 0 and less than 1
    /// @param seed determines which rows
    default RowSource heldOut(double share, long seed) {
        return only(name() + " (held out)", () -> new HeldOut(share, seed));
    }

    /// A file in any [RowFormat], which is detected.
    static RowSource file(Path file) {
        return new RowFiles(List.of(file), RowFormat.Options.DETECT);
    }

    /// A stream in any [RowFormat], which is detected. It can be read once and is not closed.
    ///
    /// @param name the name in messages
    static RowSource stream(InputStream in, String name) {
        return stream(in, name, RowFormat.Options.DETECT);
    }

    /// As above, with options for reading.
    static RowSource stream(InputStream in, String name, RowFormat.Options options) {
        return new RowSource() {
            @Override
            public String name() {
                return name;
            }

            @Override
            public void forEach(RowForm form, Visitor visitor) {
                try {
                    Rows.forEach(in, name, options, form, visitor);
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
                    throw new InputException(name + ": there are no rows");
                }
            }
        };
    }
}
