package dev.loran.kernels.cuda;

import dev.loran.engine.backend.BackendException;

/// A shape with the strides of one or two operands, reduced to the fewest dimensions that describe the same traversal:
/// those of size 1 are omitted, and adjacent ones that every operand traverses contiguously are merged.
///
/// @param sizes the shape in the first row, then the strides of one operand per row
/// @param count the number of remaining dimensions
record Dims(int[][] sizes, int count) {
    /// DIMS of the kernels.
    static final int MAX = 6;

    static Dims of(String op, int[] shape, int[]... strides) {
        int[][] sizes = new int[strides.length + 1][shape.length];
        int count = 0;
        for (int d = 0; d < shape.length; d++) {
            if (shape[d] == 1) {
                continue;
            }
            boolean merged = count > 0;
            for (int o = 0; merged && o < strides.length; o++) {
                merged = sizes[o + 1][count - 1] == strides[o][d] * shape[d];
            }
            int at = merged ? count - 1 : count++;
            sizes[0][at] = merged ? sizes[0][at] * shape[d] : shape[d];
            for (int o = 0; o < strides.length; o++) {
                sizes[o + 1][at] = strides[o][d];
            }
        }
        if (count > MAX) {
            throw new BackendException("cuda: " + op + " of " + count + " dimensions that cannot be joined; at most "
                    + MAX + " are supported");
        }
        return new Dims(sizes, count);
    }

    /// Whether the elements of every operand are contiguous in traversal order.
    boolean dense() {
        for (int o = 1; o < sizes.length; o++) {
            if (count > 1 || count == 1 && sizes[o][0] != 1) {
                return false;
            }
        }
        return true;
    }

    /// The struct for the kernels: each row is right-aligned and padded with sizes of 1 in front.
    int[] words() {
        int[] words = new int[sizes.length * MAX];
        for (int r = 0; r < sizes.length; r++) {
            for (int d = 0; d < MAX; d++) {
                int from = d - (MAX - count);
                words[r * MAX + d] = from >= 0 ? sizes[r][from] : r == 0 ? 1 : 0;
            }
        }
        return words;
    }
}
