package dev.loran.peft.data;

import org.jspecify.annotations.Nullable;

/// One row of data, before tokenisation. Those here are what the shipped tasks read; a task of your own may have rows
/// of its own, records that implement this.
public interface Row {
    /// A text, or a pair of texts, and the name of its class.
    ///
    /// @param textPair the second text; null for one alone
    record Classify(String text, @Nullable String textPair, String label) implements Row {
        public Classify(String text, String label) {
            this(text, null, label);
        }
    }

    /// A text, or a pair of texts, whose class nobody knows.
    ///
    /// @param textPair the second text; null for one alone
    record Unlabelled(String text, @Nullable String textPair) implements Row {}

    /// A prompt and the text that should follow it.
    record Generate(String source, String target) implements Row {
        /// A row of the instruction form. The source is the instruction, followed by the input on a line of its
        /// own where there is one.
        ///
        /// @param input what the instruction is about; may be empty
        public static Generate instruction(String instruction, String input, String output) {
            return new Generate(input.isBlank() ? instruction : instruction + "\n" + input, output);
        }
    }

    /// A text to model.
    record Text(String text) implements Row {}
}
