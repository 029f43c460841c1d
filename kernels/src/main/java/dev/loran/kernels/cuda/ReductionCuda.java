package dev.loran.kernels.cuda;

import dev.loran.engine.Buffer;
import dev.loran.engine.DType;
import dev.loran.engine.Scratch;

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

    static void sum(CudaBackend cuda, Buffer y, Buffer x, int outer, int n, int inner, boolean accumulate) {
        DType t = CudaBackend.floating(y);
        String s = Grid.suffix(t);
        int add = accumulate ? 1 : 0;
        long from = cuda.address(x, t);
        if (inner == 1) {
            cuda.device()
                    .launch("reduction", "sum_rows" + s, new int[] {outer}, Grid.row(n), cuda.address(y), from, n, add);
            return;
        }
        int parts = parts(n);
        int blocks = (inner + COLUMNS_BLOCK[0] - 1) / COLUMNS_BLOCK[0] * outer;
        if (parts == 1) {
            int[] grid = {blocks};
            cuda.device()
                    .launch("reduction", "sum_columns" + s, grid, COLUMNS_BLOCK, cuda.address(y), from, n, inner, add);
            return;
        }
        try (Scratch scratch = new Scratch(cuda)) {
            Buffer partial = scratch.allocate(DType.F32, (long) outer * parts * inner);
            int[] grid = {blocks, parts};
            long to = cuda.address(partial);
            cuda.device().launch("reduction", "sum_parts" + s, grid, COLUMNS_BLOCK, to, from, n, inner, parts);
            sumOfParts(cuda, y, partial, parts, outer, inner, accumulate);
        }
    }

    /// y (outer, inner) ← the sum over parts of `partial` (outer, parts, inner), F32 (or +=).
    static void sumOfParts(
            CudaBackend cuda, Buffer y, Buffer partial, int parts, int outer, int inner, boolean accumulate) {
        cuda.device()
                .launch(
                        "reduction",
                        "sum_of_parts" + Grid.suffix(CudaBackend.floating(y)),
                        new int[] {(inner + COLUMNS_BLOCK[0] - 1) / COLUMNS_BLOCK[0] * outer},
                        COLUMNS_BLOCK,
                        cuda.address(y),
                        cuda.address(partial, DType.F32),
                        parts,
                        inner,
                        accumulate ? 1 : 0);
    }

    static void rowMax(CudaBackend cuda, Buffer y, Buffer x, int rows, int cols) {
        DType t = CudaBackend.floating(y);
        cuda.device()
                .launch(
                        "reduction",
                        "row_max" + Grid.suffix(t),
                        new int[] {rows},
                        Grid.row(cols),
                        cuda.address(y),
                        cuda.address(x, t),
                        cols);
    }

    static void inverseOfValid(CudaBackend cuda, Buffer y, Buffer ids, int n, int ignore) {
        count(cuda, "inverse_of_valid", y, ids, n, ignore);
    }

    static void countValid(CudaBackend cuda, Buffer y, Buffer ids, int n, int ignore) {
        count(cuda, "count_valid", y, ids, n, ignore);
    }

    private static void count(CudaBackend cuda, String kernel, Buffer y, Buffer ids, int n, int ignore) {
        cuda.device()
                .launch(
                        "reduction",
                        kernel + Grid.suffix(CudaBackend.floating(y)),
                        new int[] {1},
                        Grid.FLAT_BLOCK,
                        cuda.address(y),
                        cuda.address(ids, DType.I32),
                        n,
                        ignore);
    }
}
