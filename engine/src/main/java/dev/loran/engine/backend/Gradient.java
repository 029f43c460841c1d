package dev.loran.engine.backend;

import org.jspecify.annotations.Nullable;

/// Where a kernel puts a gradient: memory of which it writes every element, either overwriting or adding to what is
/// there.
///
/// @param accumulate true to add to what is there; false to overwrite it, whatever it is
public record Gradient(Buffer buffer, boolean accumulate) {

    /// The beta of a product that writes this gradient: the factor for what is already there.
    public double beta() {
        return accumulate ? 1 : 0;
    }

    /// The memory of a gradient, or null if the gradient is not wanted.
    public static @Nullable Buffer memory(@Nullable Gradient gradient) {
        return gradient == null ? null : gradient.buffer;
    }

    /// Whether a gradient is wanted and is to be added to what is there.
    public static boolean accumulates(@Nullable Gradient gradient) {
        return gradient != null && gradient.accumulate;
    }

    /// The part of `gradient`, which has the shape of `of`, that belongs to rows `from` to `from + count`; null for
    /// null.
    public static @Nullable Gradient rows(@Nullable Gradient gradient, Matrix of, int from, int count) {
        return gradient == null
                ? null
                : new Gradient(of.in(gradient.buffer).rows(from, count).buffer(), gradient.accumulate);
    }
}
