package dev.loran.peft.train;

import java.util.Locale;

/// A jump of the loss or of the gradients at one step, found by a [SpikeWatch].
///
/// @param of what jumped
/// @param value its value at that step
/// @param median the median of the steps before
/// @param limit what the value would have had to stay below
public record Spike(Of of, double value, double median, double limit) {
    /// What can jump.
    public enum Of {
        LOSS,
        /// The norm of the gradients before clipping.
        GRAD_NORM;

        /// The key in `metrics.jsonl`.
        public String key() {
            return name().toLowerCase(Locale.ROOT);
        }

        @Override
        public String toString() {
            return this == LOSS ? "the loss" : "the norm of the gradients";
        }
    }

    /// One sentence without its end: `the loss jumped to 7.31, where its median had been 0.412`.
    @Override
    public String toString() {
        return String.format(Locale.ROOT, "%s jumped to %.3g, where its median had been %.3g", of, value, median);
    }
}
