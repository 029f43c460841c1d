package dev.loran.peft.tokenizer;

import org.jspecify.annotations.Nullable;

/// Caches the ids of words, in a bounded number of slots; of colliding words the latest is kept.
///
/// Safe for any number of threads without locks: entries are immutable, and whichever of two concurrent writes remains
/// is correct.
final class WordCache {
    private static final int SLOTS = 1 << 14;
    private static final int MAX_LENGTH = 64;

    private record Entry(String word, int[] ids) {}

    private final @Nullable Entry[] entries = new Entry[SLOTS];

    /// The ids of `text[from, to)`, or null.
    int @Nullable [] get(String text, int from, int to) {
        if (to - from > MAX_LENGTH) {
            return null;
        }
        Entry entry = entries[(int) Vocabulary.hash(text, from, to) & SLOTS - 1];
        return entry != null && Vocabulary.same(entry.word, text, from, to) ? entry.ids : null;
    }

    void put(String text, int from, int to, int[] ids) {
        if (to - from <= MAX_LENGTH) {
            entries[(int) Vocabulary.hash(text, from, to) & SLOTS - 1] = new Entry(text.substring(from, to), ids);
        }
    }
}
