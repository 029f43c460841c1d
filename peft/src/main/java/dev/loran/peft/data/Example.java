package dev.loran.peft.data;

import java.util.List;
import org.jspecify.annotations.Nullable;

/// A row as token ids. The arrays are not copied.
///
/// @param texts the model's input: usually one text, more if a row is a pair or a triplet of texts that are processed
///     separately
/// @param target integers whose meaning depends on the task: a class, the length of a prompt, one tag per token; other
///     numbers as [Float#floatToIntBits]
/// @param truncated whether something was cut
public record Example(List<Text> texts, int[] target, boolean truncated) {
    /// The ids of one text.
    ///
    /// @param types the type of each id, by which a model distinguishes the texts of a pair; null if all are 0
    public record Text(int[] ids, int @Nullable [] types) {}

    public Example {
        texts = List.copyOf(texts);
    }

    /// An example with one text that was not cut.
    public static Example of(int[] ids, int @Nullable [] types, int... target) {
        return new Example(List.of(new Text(ids, types)), target, false);
    }

    /// An example with one text, as encoded by the tokenizer.
    public static Example of(Tokenizer.Encoded text, int... target) {
        return new Example(List.of(new Text(text.ids(), text.tokenTypes())), target, text.truncated());
    }
}
