package dev.loran.peft.tokenizer;

import java.util.Arrays;
import org.jspecify.annotations.Nullable;

/// Byte pair encoding (Sennrich, Haddow and Birch 2016): characters are merged pairwise, in the order in which the
/// pairs were learned.
final class Bpe implements Model {
    private static final int NONE = -1;

    private final Vocabulary vocabulary;
    private final @Nullable String unknownToken;
    private final String prefix;
    private final String suffix;
    private final boolean fuseUnknown;
    private final boolean ignoreMerges;
    private final int @Nullable [] byteIds;
    private final Merges merges;
    private final WordCache cache = new WordCache();

    Bpe(Field model, Vocabulary vocabulary, Merges merges) {
        Field dropout = model.optional("dropout");
        if (dropout != null && !(dropout.json().isNumber() && dropout.json().doubleValue() == 0)) {
            throw dropout.unsupported("a tokenizer that draws its tokens gives other ids each time; set it to null");
        }
        this.vocabulary = vocabulary;
        Field unknown = model.optional("unk_token");
        this.unknownToken = unknown == null ? null : unknown.text();
        this.prefix = textOrEmpty(model, "continuing_subword_prefix");
        this.suffix = textOrEmpty(model, "end_of_word_suffix");
        this.fuseUnknown = model.flag("fuse_unk", false);
        this.ignoreMerges = model.flag("ignore_merges", false);
        this.byteIds = Model.byteIds(model, vocabulary);
        this.merges = merges;
        merges.resolve(vocabulary, prefix);
    }

    private static String textOrEmpty(Field model, String name) {
        Field field = model.optional(name);
        return field == null ? "" : field.text();
    }

    @Override
    public void encode(String text, int from, int to, Ids out) {
        int whole = ignoreMerges ? vocabulary.find(text, from, to) : NONE;
        if (whole != NONE) {
            out.add(whole);
            return;
        }
        int[] ids = cache.get(text, from, to);
        if (ids == null) {
            Ids symbols = new Ids();
            addCharacters(text, from, to, symbols);
            ids = merges.apply(symbols.from(0));
            cache.put(text, from, to, ids);
        }
        out.addAll(ids);
    }

    private void addCharacters(String text, int from, int to, Ids out) {
        // An unknown token is held back until the next token that is not a byte token, or the end.
        int unknown = NONE;
        for (int i = from, next; i < to; i = next) {
            next = i + Character.charCount(text.codePointAt(i));
            boolean bare = (i == from || prefix.isEmpty()) && (next < to || suffix.isEmpty());
            String symbol =
                    bare ? text : (i == from ? "" : prefix) + text.substring(i, next) + (next < to ? "" : suffix);
            int start = bare ? i : 0;
            int end = bare ? next : symbol.length();
            int id = vocabulary.find(symbol, start, end);
            if (id != NONE) {
                if (unknown != NONE) {
                    out.add(unknown);
                    unknown = NONE;
                }
                out.add(id);
            } else if (byteIds == null || !Model.addBytes(byteIds, symbol, start, end, out)) {
                if (unknown != NONE && !fuseUnknown) {
                    out.add(unknown);
                }
                unknown = unknownToken == null ? NONE : unknownId(unknownToken);
            }
        }
        if (unknown != NONE) {
            out.add(unknown);
        }
    }

    private int unknownId(String token) {
        int id = vocabulary.find(token);
        if (id == NONE) {
            throw new TokenizerException("model.unk_token: is not in the vocabulary, and a text has unknown"
                    + " characters: " + Field.shown("\"" + token + "\""));
        }
        return id;
    }

    /// The learned pairs in order; a pair's index is its rank.
    static final class Merges {
        private int[] lefts = new int[1024];
        private int[] rights = new int[1024];
        private int[] merged = new int[0];
        private int count;
        /// Open addressing by pair: the rank plus one, or 0. A pair that occurs twice has its later rank.
        private int[] slots = new int[2];

        /// Adds a pair of ids.
        void add(int left, int right) {
            if (count == lefts.length) {
                lefts = Arrays.copyOf(lefts, 2 * count);
                rights = Arrays.copyOf(rights, 2 * count);
            }
            lefts[count] = left;
            rights[count++] = right;
        }

        int count() {
            return count;
        }

        /// Finds the tokens that the pairs merge into, once all pairs have been added.
        private void resolve(Vocabulary vocabulary, String prefix) {
            lefts = Arrays.copyOf(lefts, count);
            rights = Arrays.copyOf(rights, count);
            merged = new int[count];
            slots = new int[Math.max(2, Integer.highestOneBit(Math.max(count, 1)) * 4)];
            StringBuilder token = new StringBuilder();
            for (int rank = 0; rank < count; rank++) {
                String left = String.valueOf(vocabulary.token(lefts[rank]));
                String right = String.valueOf(vocabulary.token(rights[rank]));
                if (!right.startsWith(prefix)) {
                    throw problem(rank, right, "does not begin with continuing_subword_prefix");
                }
                token.setLength(0);
                token.append(left).append(right, prefix.length(), right.length());
                merged[rank] = vocabulary.find(token);
                if (merged[rank] == NONE) {
                    throw problem(rank, token.toString(), "is not in the vocabulary");
                }
                slots[slot(lefts[rank], rights[rank])] = rank + 1;
            }
        }

        static TokenizerException problem(int rank, String token, String what) {
            return new TokenizerException(
                    "model.merges[" + rank + "]: " + Field.shown("\"" + token + "\"") + " " + what);
        }

        private int slot(int left, int right) {
            long pair = (long) left << 32 | right;
            int mask = slots.length - 1;
            long hash = (pair ^ pair >>> 29) * 0x9E3779B97F4A7C15L;
            int slot = (int) (hash >>> 32) & mask;
            while (slots[slot] != 0 && (lefts[slots[slot] - 1] != left || rights[slots[slot] - 1] != right)) {
                slot = (slot + 1) & mask;
            }
            return slot;
        }

        private int rank(int left, int right) {
            return slots[slot(left, right)] - 1;
        }

        /// Merges symbols into tokens: a queue holds the pairs by rank, then by position, and a pair that no longer
        /// exists when it is reached is skipped.
        private int[] apply(int[] symbols) {
            int length = symbols.length;
            if (length < 2) {
                return symbols;
            }
            int[] next = new int[length];
            int[] previous = new int[length];
            Queue queue = new Queue(length);
            for (int i = 0; i < length; i++) {
                next[i] = i + 1;
                previous[i] = i - 1;
                if (i > 0) {
                    queue.add(rank(symbols[i - 1], symbols[i]), i - 1);
                }
            }
            int left = length;
            while (!queue.isEmpty()) {
                long entry = queue.remove();
                int at = (int) entry;
                int token = merged[(int) (entry >>> 32)];
                int right = next[at];
                if (symbols[at] == NONE || right >= length) {
                    continue;
                }
                int rank = rank(symbols[at], symbols[right]);
                if (rank == NONE || merged[rank] != token) {
                    continue;
                }
                symbols[at] = token;
                symbols[right] = NONE;
                next[at] = next[right];
                left--;
                if (next[at] < length) {
                    previous[next[at]] = at;
                    queue.add(rank(token, symbols[next[at]]), at);
                }
                if (previous[at] >= 0) {
                    queue.add(rank(symbols[previous[at]], token), previous[at]);
                }
            }
            int[] tokens = new int[left];
            for (int i = 0, at = 0; i < left; i++, at = next[at]) {
                tokens[i] = symbols[at];
            }
            return tokens;
        }
    }

    /// A binary min-heap of entries that combine a rank and a position in one number.
    private static final class Queue {
        private long[] heap;
        private int size;

        Queue(int capacity) {
            heap = new long[capacity + 1];
        }

        boolean isEmpty() {
            return size == 0;
        }

        /// @param rank of a learned pair, or [#NONE] for a pair that was not learned, which is not added
        void add(int rank, int place) {
            if (rank == NONE) {
                return;
            }
            if (++size == heap.length) {
                heap = Arrays.copyOf(heap, 2 * size);
            }
            long entry = (long) rank << 32 | place;
            int i = size;
            for (; i > 1 && heap[i >> 1] > entry; i >>= 1) {
                heap[i] = heap[i >> 1];
            }
            heap[i] = entry;
        }

        long remove() {
            long first = heap[1];
            long last = heap[size--];
            int i = 1;
            for (int child = 2; child <= size; child = 2 * i) {
                child += child < size && heap[child + 1] < heap[child] ? 1 : 0;
                if (heap[child] >= last) {
                    break;
                }
                heap[i] = heap[child];
                i = child;
            }
            heap[i] = last;
            return first;
        }
    }
}
