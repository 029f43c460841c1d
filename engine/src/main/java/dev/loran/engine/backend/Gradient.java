package dev.loran.engine.backend;

import org.jspecify.annotations.Nullable;

/// Where a kernel puts a gradient: memory that it fills whole, overwriting what is there, or adding to it.
///
/// @param accumulate true adds to what is there; false overwrites it, whatever it was
public record Gradient(Buffer buffer, boolean accumulate) {

    /// What a product multiplies by what is there already.
    public double beta() {
        return accumulate ? 1 : 0;
    }

    /// The memory of a gradient; null for one that nobody wants.
    public static @Nullable Buffer memory(@Nullable Gradient gradient) {
        return gradient == null ? null : gradient.buffer;
    }

    /// Whether a gradient is wanted, and added to what is there.
    public static boolean accumulates(@Nullable Gradient gradient) {
        return gradient != null && gradient.accumulate;
    }
}
