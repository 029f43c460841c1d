package dev.loran.peft.tokenizer;

import java.util.Arrays;

/// A growing list of token ids.
final class Ids {
    private int[] ids = new int[32];
    private int size;

    void add(int id) {
        if (size == ids.length) {
            ids = Arrays.copyOf(ids, 2 * size);
        }
        ids[size++] = id;
    }

    void addAll(int[] more) {
        if (size + more.length > ids.length) {
            ids = Arrays.copyOf(ids, Math.max(2 * ids.length, size + more.length));
        }
        System.arraycopy(more, 0, ids, size, more.length);
        size += more.length;
    }

    int size() {
        return size;
    }

    /// Removes the ids from index `start` on.
    void cut(int start) {
        size = start;
    }

    int[] from(int start) {
        return Arrays.copyOfRange(ids, start, size);
    }
}
