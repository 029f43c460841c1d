package dev.loran.kernels.cuda;

import dev.loran.engine.Buffer;
import dev.loran.engine.DType;
import dev.loran.engine.Scratch;

/// Launches `reduction.cu`: sums along a dimension, of elements or of products, row maxima, counts.
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
        sum(cuda, "sum", y, new long[] {cuda.address(x, t)}, outer, n, inner, accumulate);
    }

    static void sumOfProducts(
            CudaBackend cuda, Buffer y, Buffer a, Buffer b, int outer, int n, int inner, boolean accumulate) {
        DType t = CudaBackend.floating(y);
        sum(cuda, "product", y, new long[] {cuda.address(a, t), cuda.address(b, t)}, outer, n, inner, accumulate);
    }

    private static void sum(
            CudaBackend cuda, String what, Buffer y, long[] of, int outer, int n, int inner, boolean accumulate) {
        String s = Grid.suffix(y.dtype());
        int add = accumulate ? 1 : 0;
        int parts = inner == 1 ? 1 : parts(n);
        int blocks = (inner + COLUMNS_BLOCK[0] - 1) / COLUMNS_BLOCK[0] * outer;
        if (inner == 1) {
            launch(cuda, what + "_rows" + s, new int[] {outer}, Grid.row(n), cuda.address(y), of, n, add);
        } else if (parts == 1) {
            launch(cuda, what + "_columns" + s, new int[] {blocks}, COLUMNS_BLOCK, cuda.address(y), of, n, inner, add);
        } else {
            try (Scratch scratch = new Scratch(cuda)) {
                Buffer partial = scratch.allocate(DType.F32, (long) outer * parts * inner);
                int[] grid = {blocks, parts};
                long to = cuda.address(partial);
                launch(cuda, what + "_parts" + s, grid, COLUMNS_BLOCK, to, of, n, inner, parts);
                sumOfParts(cuda, y, partial, parts, outer, inner, accumulate);
            }
        }
    }

    private static void launch(
            CudaBackend cuda, String kernel, int[] grid, int[] block, long y, long[] of, long... sizes) {
        long[] arguments = new long[1 + of.length + sizes.length];
        arguments[0] = y;
        System.arraycopy(of, 0, arguments, 1, of.length);
        System.arraycopy(sizes, 0, arguments, 1 + of.length, sizes.length);
        cuda.device().launch("reduction", kernel, grid, block, arguments);
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
