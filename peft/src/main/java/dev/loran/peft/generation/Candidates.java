package dev.loran.peft.generation;

import java.util.Arrays;
import java.util.random.RandomGenerator;

/// The tokens that may be sampled, most likely first, after applying temperature, then topK, then topP, in Hugging
/// Face's order. Of equal logits, the one with the smaller id comes first.
///
/// Tokens are sorted only as far as needed: a draw sorts the few tokens that it passes, from a heap that is built in
/// one pass over the vocabulary.
final class Candidates {
    private final float[] logits;
    private final double temperature;
    /// A heap of the tokens not yet sorted, the most likely at the root: sort keys of (logit, id).
    private final long[] heap;

    private int waiting;
    /// The sorted tokens: their ids, and their probabilities times `whole`.
    private int[] ids = new int[64];

    private double[] weights = new double[64];
    private int ranked;

    private final int size;
    private final double whole;

    /// @param logits (V), must not change while this object is in use
    Candidates(float[] logits, GenerationConfig config) {
        this.logits = logits;
        this.temperature = config.temperature();
        this.heap = new long[logits.length];
        heapify();
        int count = config.topK() == 0 ? logits.length : Math.min(config.topK(), logits.length);
        double sum = config.topK() == 0 ? sumOfAll() : sumOfFirst(count);
        if (config.topK() == 0 && config.topP() == 1) {
            size = count;
            whole = sum;
        } else {
            // A token is kept as long as the tokens before it have not reached topP.
            int kept = 1;
            for (double before = weight(0); kept < count && before < config.topP() * sum; kept++) {
                before += weight(kept);
            }
            size = kept;
            whole = sumOfFirst(kept);
        }
    }

    private double sumOfFirst(int count) {
        weight(count - 1);
        return Arrays.stream(weights, 0, count).sum();
    }

    private double sumOfAll() {
        weight(0);
        double[] all = new double[logits.length];
        Arrays.setAll(all, this::unscaled);
        return Arrays.stream(all).sum();
    }

    /// exp of the difference from the largest logit, divided by the temperature.
    private double unscaled(int id) {
        return Math.exp((logits[id] - (double) logits[ids[0]]) / temperature);
    }

    // ---- order

    private void heapify() {
        for (int i = 0; i < heap.length; i++) {
            int bits = Float.floatToIntBits(logits[i]);
            // Ascending in the same order as the floats, and among equals descending by id.
            int ordered = bits ^ (bits >> 31 & Integer.MAX_VALUE);
            heap[i] = (long) ordered << 32 | ~i & 0xffffffffL;
        }
        waiting = heap.length;
        for (int i = waiting / 2 - 1; i >= 0; i--) {
            sink(i);
        }
    }

    private void sink(int from) {
        long key = heap[from];
        int at = from;
        for (int child = 2 * at + 1; child < waiting; child = 2 * at + 1) {
            if (child + 1 < waiting && heap[child + 1] > heap[child]) {
                child++;
            }
            if (heap[child] <= key) {
                break;
            }
            heap[at] = heap[child];
            at = child;
        }
        heap[at] = key;
    }

    /// The weight of the i-th most likely token. Sorts the tokens up to and including it.
    private double weight(int i) {
        while (ranked <= i) {
            if (ranked == ids.length) {
                ids = Arrays.copyOf(ids, 2 * ranked);
                weights = Arrays.copyOf(weights, 2 * ranked);
            }
            ids[ranked] = ~(int) heap[0];
            heap[0] = heap[--waiting];
            sink(0);
            weights[ranked] = unscaled(ids[ranked]);
            ranked++;
        }
        return weights[i];
    }

    // ---- answers

    /// Draws a token.
    int draw(RandomGenerator random) {
        double left = random.nextDouble();
        int i = 0;
        // The remainder left by rounding goes to the last token with a positive weight.
        while (i < size - 1 && left >= weight(i) / whole && weight(i + 1) > 0) {
            left -= weight(i++) / whole;
        }
        return ids[i];
    }

    /// The ids of all candidates.
    int[] ids() {
        weight(size - 1);
        return Arrays.copyOf(ids, size);
    }

    /// The probabilities of all candidates; they sum to 1.
    double[] probabilities() {
        weight(size - 1);
        return Arrays.stream(weights, 0, size).map(w -> w / whole).toArray();
    }
}
