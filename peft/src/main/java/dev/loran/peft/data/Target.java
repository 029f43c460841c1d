package dev.loran.peft.data;

/// Numbers that a loss compares with, in row-major order. The arrays are not copied.
public sealed interface Target {
    /// The length of each dimension; their product is how many numbers there are.
    int[] dims();

    /// Whole numbers: class ids, token ids, places.
    record Ints(int[] values, int... dims) implements Target {
        public Ints {
            check(values.length, dims);
        }
    }

    /// Any others: scores, weights. On the model's backend they are of the type of its losses.
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
