package dev.loran.peft.data;

import java.util.function.Predicate;

/// Passes on the rows that a test accepts.
final class Chosen implements RowSource.Visitor {
    private final RowSource.Visitor to;
    private final Predicate<Row> test;
    private boolean accepted;

    /// Whether any row was accepted.
    boolean any;

    Chosen(RowSource.Visitor to, Predicate<Row> test) {
        this.to = to;
        this.test = test;
    }

    @Override
    public void row(Row row, long line) {
        if (accepts(row)) {
            to.row(row, line);
        }
    }

    @Override
    public void row(Row row, Fields fields) {
        if (accepts(row)) {
            to.row(row, fields);
        }
    }

    private boolean accepts(Row row) {
        accepted = test.test(row);
        any |= accepted;
        return accepted;
    }

    @Override
    public void unread(String field) {
        if (accepted) {
            to.unread(field);
        }
    }

    @Override
    public void file(String name) {
        to.file(name);
    }

    @Override
    public void format(String detected) {
        to.format(detected);
    }
}
