package dev.loran.peft.data;

import dev.loran.peft.io.InputException;
import java.util.AbstractList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.Random;
import java.util.RandomAccess;
import java.util.stream.IntStream;

/// Batches of examples, epoch by epoch.
///
/// The contents of a batch are a pure function of the examples, the options, the epoch and the batch's index. A run
/// that stops at (epoch, index) continues from there with the same batches, without any saved state.
///
/// ```
/// for (int epoch = 0; epoch < epochs; epoch++) {
///     for (Batch batch : loader.epoch(epoch)) { … }
/// }
/// List<Batch> rest = loader.epoch(3).subList(17, loader.size());   // resume
/// ```
public final class DataLoader {
    /// The number of batches whose rows are sorted by length together. Larger windows need less padding but shuffle
    /// less.
    private static final int WINDOW_BATCHES = 50;

    private final Examples examples;
    private final Options options;

    /// @param batchSize rows per batch; the last one of an epoch may have fewer
    /// @param shuffle whether each epoch has its own random order; otherwise the order of the examples is kept
    /// @param seed the seed of the shuffle
    /// @param bucketByLength whether rows of similar length are batched together: windows of 50 batches, taken in the
    ///     epoch's order, are sorted by length before they are cut into batches; with `shuffle`, the batches are then
    ///     shuffled
    /// @param dropLast whether rows that do not fill a batch are dropped from an epoch (other rows in each epoch)
    /// @param padToMultipleOf batches are padded to a multiple of this, which gives fewer different shapes at the cost
    ///     of more padding; 1 pads only to the longest row
    public record Options(
            int batchSize, boolean shuffle, long seed, boolean bucketByLength, boolean dropLast, int padToMultipleOf) {
        public Options {
            if (batchSize < 1) {
                throw new InputException("batch size " + batchSize + " must be at least 1");
            }
            if (padToMultipleOf < 1) {
                throw new InputException("padToMultipleOf " + padToMultipleOf + " is not positive");
            }
        }

        /// Shuffled, bucketed by length, all rows, minimal padding.
        public static Options training(int batchSize, long seed) {
            return new Options(batchSize, true, seed, true, false, 1);
        }

        /// The same batches each time, bucketed by length, all rows, minimal padding.
        public static Options evaluation(int batchSize) {
            return new Options(batchSize, false, 0, true, false, 1);
        }

        public Options withPadToMultipleOf(int multiple) {
            return new Options(batchSize, shuffle, seed, bucketByLength, dropLast, multiple);
        }
    }

    public DataLoader(Examples examples, Options options) {
        this.examples = examples;
        this.options = options;
        if (size() == 0) {
            throw new InputException("batch size " + options.batchSize + " is more than the " + examples.size()
                    + " rows there are, and the last batch is dropped");
        }
    }

    public Examples examples() {
        return examples;
    }

    /// The number of batches in an epoch.
    public int size() {
        return options.dropLast
                ? examples.size() / options.batchSize
                : Math.ceilDiv(examples.size(), options.batchSize);
    }

    /// T of the longest batch possible in any epoch, for reserving memory.
    public int longest() {
        return Batch.padded(examples.longest(), options.padToMultipleOf, examples.maxLength());
    }

    /// The batches of an epoch, in order: a list of [#size] elements that are created on access.
    ///
    /// @param epoch counted from 0
    public List<Batch> epoch(int epoch) {
        int[][] plan = plan(epoch);
        return new Epoch(examples, plan, options.padToMultipleOf);
    }

    private static final class Epoch extends AbstractList<Batch> implements RandomAccess {
        private final Examples examples;
        private final int[][] plan;
        private final int padToMultipleOf;

        Epoch(Examples examples, int[][] plan, int padToMultipleOf) {
            this.examples = examples;
            this.plan = plan;
            this.padToMultipleOf = padToMultipleOf;
        }

        @Override
        public Batch get(int index) {
            return Batch.of(examples, plan[index].clone(), padToMultipleOf);
        }

        @Override
        public int size() {
            return plan.length;
        }
    }

    /// The rows of each batch of an epoch.
    private int[][] plan(int epoch) {
        Random random = random(epoch);
        int[] order = IntStream.range(0, examples.size()).toArray();
        if (options.shuffle) {
            shuffle(order, random);
        }
        int batchSize = Math.min(options.batchSize, order.length);
        // Cut before sorting; otherwise the dropped rows would always be long ones.
        int used = Math.min(order.length, size() * batchSize);
        if (options.bucketByLength) {
            int window = (int) Math.min(used, (long) WINDOW_BATCHES * batchSize);
            for (int from = 0; from < used; from += window) {
                sortByLength(order, from, Math.min(used, from + window));
            }
        }
        int[][] batches = new int[size()][];
        for (int i = 0; i < batches.length; i++) {
            batches[i] = Arrays.copyOfRange(order, i * batchSize, Math.min(used, (i + 1) * batchSize));
        }
        if (options.shuffle && options.bucketByLength) {
            int[] places = IntStream.range(0, batches.length).toArray();
            shuffle(places, random);
            return Arrays.stream(places).mapToObj(place -> batches[place]).toArray(int[][]::new);
        }
        return batches;
    }

    private void sortByLength(int[] order, int from, int to) {
        int[] sorted = Arrays.stream(order, from, to)
                .boxed()
                .sorted(Comparator.comparingInt(examples::length))
                .mapToInt(Integer::intValue)
                .toArray();
        System.arraycopy(sorted, 0, order, from, sorted.length);
    }

    /// [Random]'s sequence is fixed by its specification, so an epoch is the same on every JDK. The constants spread
    /// neighboring seeds and epochs over the generator's state space.
    private Random random(int epoch) {
        return new Random((options.seed * 0x9E3779B97F4A7C15L + epoch) * 0xD1342543DE82EF95L);
    }

    private static void shuffle(int[] values, Random random) {
        for (int i = values.length - 1; i > 0; i--) {
            int j = random.nextInt(i + 1);
            int value = values[i];
            values[i] = values[j];
            values[j] = value;
        }
    }
}
