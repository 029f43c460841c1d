package dev.loran.peft.cli.ui;

import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.math.BigDecimal;
import java.math.MathContext;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/// A table of numbers that grows row by row, and is thinned so that it never has more than [#MOST] rows, however long a
/// run is: once it is full, each two neighbours become one, and from then on each row stands for twice as many.
final class Course {
    static final int MOST = 2048;
    private static final int FIRST = 64;

    /// How the numbers of neighbours become one. NaN counts as missing.
    enum Fold {
        LAST,
        SUM,
        MEAN,
        LOWEST,
        HIGHEST
    }

    /// A column: its name, and how it is thinned.
    record Column(String name, Fold fold) {}

    private final List<Column> columns;
    private final double[][] values;
    /// How many finite numbers a value stands for.
    private final int[][] counts;

    private int rows;
    private int perRow = 1;
    private int inLast;

    Course(List<Column> columns) {
        this.columns = List.copyOf(columns);
        this.values = new double[columns.size()][FIRST];
        this.counts = new int[columns.size()][FIRST];
    }

    /// How many rows that were added one row stands for.
    int perRow() {
        return perRow;
    }

    int rows() {
        return rows;
    }

    /// The number in a row; NaN if it is missing.
    double at(int row, String column) {
        for (int c = 0; c < columns.size(); c++) {
            if (columns.get(c).name.equals(column)) {
                return counts[c][row] == 0 ? Double.NaN : values[c][row];
            }
        }
        throw new IllegalArgumentException(column);
    }

    /// Adds a row.
    ///
    /// @param row a number for each column; NaN if it is missing
    void add(double... row) {
        if (rows > 0 && inLast < perRow) {
            for (int c = 0; c < row.length; c++) {
                join(c, rows - 1, row[c], Double.isFinite(row[c]) ? 1 : 0);
            }
            inLast++;
            return;
        }
        if (rows == MOST) {
            thin();
        }
        if (rows == values[0].length) {
            Arrays.setAll(values, c -> Arrays.copyOf(values[c], 2 * rows));
            Arrays.setAll(counts, c -> Arrays.copyOf(counts[c], 2 * rows));
        }
        for (int c = 0; c < row.length; c++) {
            values[c][rows] = row[c];
            counts[c][rows] = Double.isFinite(row[c]) ? 1 : 0;
        }
        rows++;
        inLast = 1;
    }

    private void thin() {
        for (int c = 0; c < columns.size(); c++) {
            for (int to = 0; to < rows / 2; to++) {
                values[c][to] = values[c][2 * to];
                counts[c][to] = counts[c][2 * to];
                join(c, to, values[c][2 * to + 1], counts[c][2 * to + 1]);
            }
        }
        rows /= 2;
        perRow *= 2;
    }

    private void join(int c, int row, double value, int count) {
        if (count == 0) {
            return;
        }
        double before = values[c][row];
        int of = counts[c][row];
        counts[c][row] = of + count;
        values[c][row] = of == 0
                ? value
                : switch (columns.get(c).fold) {
                    case LAST -> value;
                    case SUM -> before + value;
                    case MEAN -> before + (value - before) * count / (of + count);
                    case LOWEST -> Math.min(before, value);
                    case HIGHEST -> Math.max(before, value);
                };
    }

    /// The rows from `from` on, column by column, with 7 digits; a missing number is null.
    ObjectNode toJson(ObjectNode into, int from) {
        into.put("per_row", perRow).put("from", Math.min(from, rows));
        for (int c = 0; c < columns.size(); c++) {
            ArrayNode column = into.putArray(columns.get(c).name);
            for (int row = from; row < rows; row++) {
                double value = values[c][row];
                if (counts[c][row] == 0) {
                    column.addNull();
                } else if (value == Math.rint(value) && Math.abs(value) < 1e15) {
                    column.add((long) value);
                } else {
                    column.add(new BigDecimal(value).round(new MathContext(7)).doubleValue());
                }
            }
        }
        return into;
    }

    /// What is read of a step.
    static Course steps() {
        return new Course(List.of(
                new Column("step", Fold.LAST),
                new Column("loss", Fold.MEAN),
                new Column("loss_low", Fold.LOWEST),
                new Column("loss_high", Fold.HIGHEST),
                new Column("lr", Fold.LAST),
                new Column("grad_norm", Fold.MEAN),
                new Column("grad_norm_low", Fold.LOWEST),
                new Column("grad_norm_high", Fold.HIGHEST),
                new Column("tokens", Fold.SUM),
                new Column("seconds", Fold.LAST)));
    }

    /// An evaluation: its step, the time, and the metrics with these names.
    static Course evaluations(Iterable<String> metrics) {
        List<Column> columns =
                new ArrayList<>(Arrays.asList(new Column("step", Fold.LAST), new Column("seconds", Fold.LAST)));
        metrics.forEach(name -> columns.add(new Column(name, Fold.LAST)));
        return new Course(columns);
    }
}
