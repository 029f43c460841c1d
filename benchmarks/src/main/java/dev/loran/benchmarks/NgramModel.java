package dev.loran.benchmarks;

/// The baseline for a small language model: interpolated modified Kneser-Ney smoothing of n-gram counts.
///
/// The probability of a token w after h is `max(c(hw) - D, 0) / c(h·) + γ(h) p(w | h')`, where h' is h without its
/// first token. At the highest order, c counts occurrences; at the others, the different tokens that were seen before.
/// D has three values an order, for counts of 1, 2 and more, estimated from the counts of counts. The lowest order is
/// interpolated with the uniform distribution, so every token has a probability.
///
/// **Paper**: Chen and Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling", 1999.
///
/// N-grams are kept by a 64-bit hash without a check for collisions, which at 10⁷ n-grams are not to be expected.
final class NgramModel {
    private final int order;
    private final int vocabulary;
    /// By order, from 1 on: the counts of n-grams, and of what follows their first n - 1 tokens.
    private final Counts[] grams;

    private final Contexts[] contexts;
    private final double[][] discounts;

    /// Counts the n-grams of a sequence of tokens.
    ///
    /// @param order the length of the longest n-grams, at least 1
    /// @param vocabulary the number of different tokens
    NgramModel(int order, int vocabulary, int[] tokens) {
        this.order = order;
        this.vocabulary = vocabulary;
        this.grams = new Counts[order + 1];
        this.contexts = new Contexts[order + 1];
        this.discounts = new double[order + 1][];
        for (int n = order; n >= 1; n--) {
            grams[n] = new Counts();
            count(n, tokens);
        }
        for (int n = 1; n <= order; n++) {
            discounts[n] = grams[n].discounts();
            contexts[n] = new Contexts();
            Counts once = new Counts();
            for (int end = n; end <= tokens.length; end++) {
                long gram = hash(tokens, end - n, end);
                int count = grams[n].get(gram);
                // A shorter n-gram that only begins the sequence follows no token.
                if (count > 0 && once.add(gram) == 1) {
                    contexts[n].add(hash(tokens, end - n, end - 1), count);
                }
            }
        }
    }

    private void count(int n, int[] tokens) {
        if (n == order) {
            for (int end = n; end <= tokens.length; end++) {
                grams[n].add(hash(tokens, end - n, end));
            }
            return;
        }
        // An n-gram counts once for each token that precedes it.
        Counts longer = new Counts();
        for (int end = n + 1; end <= tokens.length; end++) {
            if (longer.add(hash(tokens, end - n - 1, end)) == 1) {
                grams[n].add(hash(tokens, end - n, end));
            }
        }
    }

    /// The probability of `tokens[at]` after the tokens before it, from `from` on.
    double probability(int[] tokens, int from, int at) {
        double p = 1.0 / vocabulary;
        for (int n = 1; n <= order && at - n + 1 >= from; n++) {
            int slot = contexts[n].find(hash(tokens, at - n + 1, at));
            if (slot < 0) {
                break;
            }
            int count = grams[n].get(hash(tokens, at - n + 1, at + 1));
            double[] d = discounts[n];
            double own = count == 0 ? 0 : count - d[Math.min(count, 3)];
            p = (own + contexts[n].left(slot, d) * p) / contexts[n].total(slot);
        }
        return p;
    }

    private static long hash(int[] tokens, int from, int to) {
        long h = to - from;
        for (int i = from; i < to; i++) {
            h = (h ^ tokens[i] + 1) * 0x9E3779B97F4A7C15L;
            h ^= h >>> 29;
        }
        return h == 0 ? 1 : h;
    }

    /// A table of positive counts by hash.
    private static class Counts {
        long[] keys = new long[1 << 12];
        int[] values = new int[1 << 12];
        private int size;

        /// @return the slot of `key`, or the free one in which it belongs
        final int slot(long key) {
            int mask = keys.length - 1;
            int slot = (int) (key >>> 20) & mask;
            while (keys[slot] != 0 && keys[slot] != key) {
                slot = slot + 1 & mask;
            }
            return slot;
        }

        int get(long key) {
            return values[slot(key)];
        }

        /// @return the count, including this one
        int add(long key) {
            int slot = place(key); // may replace the array
            return ++values[slot];
        }

        /// The slot of `key`, which is entered if it is new.
        final int place(long key) {
            int slot = slot(key);
            if (keys[slot] == 0) {
                if (2 * ++size > keys.length) {
                    grow();
                    slot = slot(key);
                }
                keys[slot] = key;
            }
            return slot;
        }

        private void grow() {
            Counts old = copy();
            resize(2 * old.keys.length);
            for (int i = 0; i < old.keys.length; i++) {
                if (old.keys[i] != 0) {
                    int slot = slot(old.keys[i]);
                    keys[slot] = old.keys[i];
                    move(old, i, slot);
                }
            }
        }

        Counts copy() {
            Counts old = new Counts();
            old.keys = keys;
            old.values = values;
            return old;
        }

        void resize(int length) {
            keys = new long[length];
            values = new int[length];
        }

        void move(Counts old, int from, int to) {
            values[to] = old.values[from];
        }

        /// The discounts for counts of 1, 2, and 3 or more, at these indices.
        double[] discounts() {
            long[] n = new long[5];
            for (int value : values) {
                if (value >= 1 && value <= 4) {
                    n[value]++;
                }
            }
            double y = n[1] / Math.max(1.0, n[1] + 2.0 * n[2]);
            double[] d = new double[4];
            for (int i = 1; i <= 3; i++) {
                double estimate = n[i] == 0 ? i / 2.0 : i - (i + 1) * y * n[i + 1] / n[i];
                d[i] = Math.clamp(estimate, 0, i);
            }
            return d;
        }
    }

    /// What follows each context: the sum of the counts (in [Counts#values]), and how many of them are 1, 2, or more.
    private static final class Contexts extends Counts {
        private int[][] kinds = new int[3][1 << 12];

        void add(long context, int count) {
            int slot = place(context);
            values[slot] += count;
            kinds[Math.min(count, 3) - 1][slot]++;
        }

        /// The slot of a context, or -1 if it is unknown.
        int find(long context) {
            int slot = slot(context);
            return keys[slot] == 0 ? -1 : slot;
        }

        double total(int slot) {
            return values[slot];
        }

        /// What the discounts take from the counts.
        double left(int slot, double[] discounts) {
            double sum = 0;
            for (int i = 0; i < 3; i++) {
                sum += discounts[i + 1] * kinds[i][slot];
            }
            return sum;
        }

        @Override
        Counts copy() {
            Contexts old = new Contexts();
            old.keys = keys;
            old.values = values;
            old.kinds = kinds;
            return old;
        }

        @Override
        void resize(int length) {
            super.resize(length);
            kinds = new int[3][length];
        }

        @Override
        void move(Counts old, int from, int to) {
            super.move(old, from, to);
            if (old instanceof Contexts contexts) {
                for (int i = 0; i < kinds.length; i++) {
                    kinds[i][to] = contexts.kinds[i][from];
                }
            }
        }
    }
}
