package dev.loran.peft.task;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/// How often each class is there, how often it is answered, and how often that is right.
final class ClassCounts {
    private final List<String> names;
    private final long[] there;
    private final long[] answered;
    private final long[] right;

    ClassCounts(List<String> names) {
        this.names = names;
        there = new long[names.size()];
        answered = new long[names.size()];
        right = new long[names.size()];
    }

    void add(int of, boolean isThere, boolean isAnswered) {
        there[of] += isThere ? 1 : 0;
        answered[of] += isAnswered ? 1 : 0;
        right[of] += isThere && isAnswered ? 1 : 0;
    }

    /// The share of the answers that are right, over all classes; 0 without answers.
    double precision() {
        return share(sum(right), sum(answered));
    }

    /// The share of what is there that is answered, over all classes; 0 if nothing is there.
    double recall() {
        return share(sum(right), sum(there));
    }

    /// The harmonic mean of [#precision] and [#recall]; 0 if both are.
    double microF1() {
        return share(2 * sum(right), sum(there) + sum(answered));
    }

    /// The mean F1 of the classes that are there or answered; 0 if none is.
    double macroF1() {
        double sum = 0;
        int appearing = 0;
        for (int c = 0; c < names.size(); c++) {
            sum += f1(c);
            appearing += there[c] + answered[c] > 0 ? 1 : 0;
        }
        return appearing == 0 ? 0 : sum / appearing;
    }

    private double f1(int c) {
        return share(2 * right[c], there[c] + answered[c]);
    }

    private static long sum(long[] counts) {
        long sum = 0;
        for (long n : counts) {
            sum += n;
        }
        return sum;
    }

    private static double share(long part, long all) {
        return all == 0 ? 0 : (double) part / all;
    }

    /// Precision, recall and F1 of each class, and how often it is there.
    ///
    /// @param name of the table
    /// @param count the heading of the last column
    Evaluation.Table table(String name, String count) {
        Map<String, List<Number>> rows = new LinkedHashMap<>();
        for (int c = 0; c < names.size(); c++) {
            List<Number> row =
                    new ArrayList<>(List.of(share(right[c], answered[c]), share(right[c], there[c]), f1(c), there[c]));
            rows.put(names.get(c), row);
        }
        return new Evaluation.Table(name, List.of("precision", "recall", "f1", count), rows);
    }
}
