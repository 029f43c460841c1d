package dev.loran.engine.testing;

import dev.loran.engine.backend.DType;

/// How far a result may be from the reference. The error of an element is |actual − expected| / (|expected| + rms),
/// where rms is the root mean square of all expected elements: it is relative where elements are large, and is not
/// inflated when cancellation makes one element small. NaN on either side always fails.
///
/// | dtype | unit roundoff | bound |
/// |---|---|---|
/// | F64 | 1.1e-16 | 1e-11 |
/// | F32 | 6.0e-8 | 2e-5 |
/// | F16 | 4.9e-4 | 5e-3 |
/// | BF16 | 3.9e-3 | 3e-2 |
///
/// @param bound the largest error allowed
public record Tolerance(double bound) {
    public Tolerance {
        if (!(bound >= 0 && bound < 1)) {
            throw new IllegalArgumentException("tolerance: bound must be in [0, 1), got " + bound);
        }
    }

    /// Returns the table's entry for `dtype`.
    ///
    /// @throws IllegalArgumentException if `dtype` is not floating
    public static Tolerance of(DType dtype) {
        return switch (dtype) {
            case F64 -> new Tolerance(1e-11);
            case F32 -> new Tolerance(2e-5);
            case F16 -> new Tolerance(5e-3);
            case BF16 -> new Tolerance(3e-2);
            case I8, I32 -> throw new IllegalArgumentException("tolerance: " + dtype + " has no rounding to tolerate");
        };
    }

    /// Returns the largest error of any element; NaN if one of the errors is NaN.
    public static double error(double[] expected, double[] actual) {
        double rms = rms(expected);
        double worst = 0;
        for (int i = 0; i < expected.length; i++) {
            worst = Math.max(worst, error(expected[i], actual[i], rms));
        }
        return worst;
    }

    /// Compares element by element.
    ///
    /// @throws AssertionError naming `what`, the first element that is too far off, both numbers, and how many elements
    ///     are too far off
    public void check(String what, double[] expected, double[] actual) {
        if (expected.length != actual.length) {
            throw new AssertionError(what + ": " + actual.length + " elements, the reference has " + expected.length);
        }
        double rms = rms(expected);
        int first = -1;
        int count = 0;
        for (int i = 0; i < expected.length; i++) {
            if (!(error(expected[i], actual[i], rms) <= bound)) {
                first = first < 0 ? i : first;
                count++;
            }
        }
        if (count > 0) {
            throw new AssertionError(what + ": element " + first + " is " + actual[first] + ", the reference says "
                    + expected[first] + "; error " + error(expected[first], actual[first], rms) + " > " + bound + " ("
                    + count + " of " + expected.length + " elements, worst " + error(expected, actual) + ")");
        }
    }

    private static double rms(double[] values) {
        double sum = 0;
        for (double v : values) {
            sum += v * v;
        }
        return Math.sqrt(sum / Math.max(1, values.length));
    }

    private static double error(double expected, double actual, double rms) {
        // Otherwise an exact zero among zeros would give 0 / 0.
        return actual == expected ? 0 : Math.abs(actual - expected) / (Math.abs(expected) + rms);
    }
}
