package dev.loran.peft.data;

import java.util.List;
import org.jspecify.annotations.Nullable;

/// One row of data, before tokenization. The records here are the rows of the shipped tasks; a task of your own may
/// define its own records that implement this interface.
public interface Row {
    /// What rows have in common that are held out together; null for a row that stands alone.
    default @Nullable String group() {
        return null;
    }

    /// A text, or a pair of texts, and the name of its class.
    ///
    /// @param textPair the second text; null for a single text
    record Classify(String text, @Nullable String textPair, String label) implements Row {
        public Classify(String text, String label) {
            this(text, null, label);
        }
    }

    /// A text, or a pair of texts, and the names of all labels that it has, maybe none.
    ///
    /// @param textPair the second text; null for a single text
    record Labelled(String text, @Nullable String textPair, List<String> labels) implements Row {
        public Labelled {
            labels = List.copyOf(labels);
        }
    }

    /// A text, or a pair of texts, and a number.
    ///
    /// @param textPair the second text; null for a single text
    record Scored(String text, @Nullable String textPair, double score) implements Row {}

    /// The words of a text, and a tag for each.
    record Tagged(List<String> tokens, List<String> tags) implements Row {
        public Tagged {
            tokens = List.copyOf(tokens);
            tags = List.copyOf(tags);
        }
    }

    /// A text, or a pair of texts, of unknown class.
    ///
    /// @param textPair the second text; null for a single text
    record Unlabelled(String text, @Nullable String textPair) implements Row {}

    /// A prompt and the text that should follow it.
    record Generate(String source, String target) implements Row {
        /// A row in instruction form. The source is the instruction, followed by the input, if any, on a line of its
        /// own.
        ///
        /// @param input what the instruction is about; may be empty
        public static Generate instruction(String instruction, String input, String output) {
            return new Generate(input.isBlank() ? instruction : instruction + "\n" + input, output);
        }
    }

    /// Messages between a user and an assistant.
    record Chat(dev.loran.peft.chat.Chat chat) implements Row {}

    /// A text for language modeling.
    record Text(String text) implements Row {}
}
