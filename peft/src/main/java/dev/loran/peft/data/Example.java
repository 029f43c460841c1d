package dev.loran.peft.data;

import java.util.List;
import org.jspecify.annotations.Nullable;

/// A row as token ids. The arrays are not copied.
///
/// @param texts what the model sees of it: one text as a rule, more where a row is a pair or a triplet of texts that
///     pass on their own
/// @param target what the task knows beside, in whole numbers of its own meaning: a class, the length of a prompt, a
///     tag a token ([Float#floatToIntBits] for others)
/// @param truncated whether something had to be cut
public record Example(List<Text> texts, int[] target, boolean truncated) {
    /// The ids of one text.
    ///
    /// @param types of each id, by which a model tells the texts of a pair apart; null where all are 0
    public record Text(int[] ids, int @Nullable [] types) {}

    public Example {
        texts = List.copyOf(texts);
    }

    /// Of one text that was not cut.
    public static Example of(int[] ids, int @Nullable [] types, int... target) {
        return new Example(List.of(new Text(ids, types)), target, false);
    }

    /// Of one text, as the tokenizer gives it.
    public static Example of(Tokenizer.Encoded text, int... target) {
        return new Example(List.of(new Text(text.ids(), text.tokenTypes())), target, text.truncated());
    }
}
