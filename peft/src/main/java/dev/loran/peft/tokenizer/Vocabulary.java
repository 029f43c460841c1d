package dev.loran.peft.tokenizer;

import java.util.Arrays;
import org.jspecify.annotations.Nullable;

/// The tokens of a model: maps ids to texts, and substrings to ids without creating a string.
///
/// Ids may have gaps, as in files that lost some of their tokens. Texts are compared as UTF-16.
final class Vocabulary {
    /// The largest supported id: sixteen times the size of today's largest vocabularies.
    static final int MAX_ID = (1 << 22) - 1;

    /// Hashes differ between runs, so that no file can be crafted whose tokens all collide.
    private static final long SEED = System.nanoTime() | 1;

    private @Nullable String[] tokens = new String[1024];
    /// Open addressing: an id plus one, or 0.
    private int[] slots = new int[4096];

    private int size;
    private int end;

    /// Adds a token or, if it exists already, changes its id, as for repeated names in a JSON object.
    ///
    /// @throws TokenizerException if another token has this id
    void put(String token, int id) {
        if (id >= tokens.length) {
            tokens = Arrays.copyOf(tokens, Math.max(id + 1, Math.min(2 * tokens.length, MAX_ID + 1)));
        }
        if (tokens[id] != null && !token.equals(tokens[id])) {
            throw new TokenizerException("model.vocab: " + Field.shown("\"" + tokens[id] + "\"") + " and "
                    + Field.shown("\"" + token + "\"") + " have the same id, " + id);
        }
        int slot = slot(token, 0, token.length());
        if (slots[slot] == 0) {
            size++;
        }
        slots[slot] = id + 1;
        tokens[id] = token;
        end = Math.max(end, id + 1);
        if (2 * size > slots.length) {
            grow();
        }
    }

    private void grow() {
        int[] old = slots;
        slots = new int[2 * old.length];
        for (int entry : old) {
            String token = entry == 0 ? null : tokens[entry - 1];
            if (token != null) {
                slots[slot(token, 0, token.length())] = entry;
            }
        }
    }

    /// The number of tokens.
    int size() {
        return size;
    }

    /// One more than the largest id.
    int end() {
        return end;
    }

    /// The token with this id; null if there is none.
    @Nullable
    String token(int id) {
        return id < 0 || id >= end ? null : tokens[id];
    }

    /// The id of a token, or -1.
    int find(CharSequence token) {
        return find(token, 0, token.length());
    }

    /// The id of the token `text[from, to)`, or -1.
    int find(CharSequence text, int from, int to) {
        return slots[slot(text, from, to)] - 1;
    }

    /// The slot where a token is, or would be inserted.
    private int slot(CharSequence text, int from, int to) {
        int mask = slots.length - 1;
        int slot = (int) hash(text, from, to) & mask;
        while (slots[slot] != 0 && !same(tokens[slots[slot] - 1], text, from, to)) {
            slot = (slot + 1) & mask;
        }
        return slot;
    }

    static long hash(CharSequence text, int from, int to) {
        long hash = SEED;
        for (int i = from; i < to; i++) {
            hash = (hash ^ text.charAt(i)) * 0x9E3779B97F4A7C15L;
            hash ^= hash >>> 32;
        }
        return hash;
    }

    static boolean same(@Nullable String token, CharSequence text, int from, int to) {
        if (token == null || token.length() != to - from) {
            return false;
        }
        for (int i = 0; i < token.length(); i++) {
            if (token.charAt(i) != text.charAt(from + i)) {
                return false;
            }
        }
        return true;
    }
}
