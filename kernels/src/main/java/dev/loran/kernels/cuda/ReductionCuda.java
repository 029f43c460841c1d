package dev.loran.kernels.cuda;

import dev.loran.engine.DType;

/// Launches `reduction.cu`: sums along a dimension, row maxima, counts.
final class ReductionCuda {
    private static final int[] COLUMNS_BLOCK = {32, 8};
    /// Rows that one block of a sum over columns takes, before the work is shared.
    private static final int PART = 256;

    private static final int MAX_PARTS = 64;

    private ReductionCuda() {}

    /// In how many parts a sum of `n` rows is taken; with more than one, partial sums go through memory.
    static int parts(int n) {
        return Math.clamp((n + PART - 1) / PART, 1, MAX_PARTS);
    }

    /// As [dev.loran.engine.Backend#sum]; `partial` has room for outer · parts · inner floats where `parts` > 1.
    static void sum(
            CudaDevice device,
            DType type,
            long y,
            long x,
            long partial,
            int parts,
            int outer,
            int n,
            int inner,
            boolean accumulate) {
        String s = Grid.suffix(type);
        int add = accumulate ? 1 : 0;
        if (inner == 1) {
            device.launch("reduction", "sum_rows" + s, new int[] {outer}, Grid.row(n), y, x, n, add);
            return;
        }
        int columns = (inner + COLUMNS_BLOCK[0] - 1) / COLUMNS_BLOCK[0];
        if (parts == 1) {
            int[] grid = {columns * outer};
            device.launch("reduction", "sum_columns" + s, grid, COLUMNS_BLOCK, y, x, n, inner, add);
        } else {
            int[] grid = {columns * outer, parts};
            device.launch("reduction", "sum_parts" + s, grid, COLUMNS_BLOCK, partial, x, n, inner, parts);
            sumOfParts(device, type, y, partial, parts, outer, inner, accumulate);
        }
    }

    /// y (outer, inner) ← the sum over parts of `partial` (outer, parts, inner), floats (or +=).
    static void sumOfParts(
            CudaDevice device, DType type, long y, long partial, int parts, int outer, int inner, boolean accumulate) {
        int[] grid = {(inner + COLUMNS_BLOCK[0] - 1) / COLUMNS_BLOCK[0] * outer};
        int add = accumulate ? 1 : 0;
        String kernel = "sum_of_parts" + Grid.suffix(type);
        device.launch("reduction", kernel, grid, COLUMNS_BLOCK, y, partial, parts, inner, add);
    }

    static void rowMax(CudaDevice device, DType type, long y, long x, int rows, int cols) {
        device.launch("reduction", "row_max" + Grid.suffix(type), new int[] {rows}, Grid.row(cols), y, x, cols);
    }

    static void inverseOfValid(CudaDevice device, DType type, long y, long ids, int n, int ignore) {
        device.launch(
                "reduction", "inverse_of_valid" + Grid.suffix(type), new int[] {1}, Grid.FLAT_BLOCK, y, ids, n, ignore);
    }

    static void countValid(CudaDevice device, DType type, long y, long ids, int n, int ignore) {
        device.launch(
                "reduction", "count_valid" + Grid.suffix(type), new int[] {1}, Grid.FLAT_BLOCK, y, ids, n, ignore);
    }
}
