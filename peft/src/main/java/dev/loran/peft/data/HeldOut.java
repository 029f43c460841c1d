package dev.loran.peft.data;

import dev.loran.peft.io.InputException;
import java.util.HashMap;
import java.util.Map;
import java.util.SplittableRandom;
import java.util.function.Predicate;

/// Chooses the rows to hold out, row by row: of every class a share, to within one row, spread evenly over the rows
/// from a random start (systematic sampling within strata). Of rows in groups, whole groups.
final class HeldOut implements Predicate<Row> {
    private final double share;
    private final long seed;

    /// For each class, how much of the next row to hold out the rows so far have made up.
    private final Map<String, Double> due = new HashMap<>();

    /// Whether the rows of a group are held out.
    private final Map<String, Boolean> groups = new HashMap<>();

    HeldOut(double share, long seed) {
        if (!(share > 0 && share < 1)) {
            throw new InputException(
                    "the share of rows to hold out (--split) is " + share + ", must be between 0 and 1, such as 0.1");
        }
        this.share = share;
        this.seed = seed;
    }

    @Override
    public boolean test(Row row) {
        String group = row.group();
        return group == null ? isNext(row) : groups.computeIfAbsent(group, g -> isNext(row));
    }

    private boolean isNext(Row row) {
        String stratum = row instanceof Row.Classify c ? c.label() : "";
        double sum = due.computeIfAbsent(stratum, s -> new SplittableRandom(seed ^ s.hashCode()).nextDouble()) + share;
        due.put(stratum, sum >= 1 ? sum - 1 : sum);
        return sum >= 1;
    }
}
