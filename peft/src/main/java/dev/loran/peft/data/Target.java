package dev.loran.peft.data;

/// The values that a loss is computed against, in row-major order. The arrays are not copied.
public sealed interface Target {
    /// The size of each dimension; their product is the number of values.
    int[] dims();

    /// Integers: class ids, token ids, positions.
    record Ints(int[] values, int... dims) implements Target {
        public Ints {
            check(values.length, dims);
        }
    }

    /// Other numbers: scores, weights. On the model's backend they have the type of its losses.
    record Floats(float[] values, int... dims) implements Target {
        public Floats {
            check(values.length, dims);
        }
    }

    private static void check(int size, int[] dims) {
        long product = 1;
        for (int d : dims) {
            product *= d;
        }
        if (product != size) {
            throw new IllegalArgumentException(
                    "target: " + size + " values for dimensions " + java.util.Arrays.toString(dims));
        }
    }
}
