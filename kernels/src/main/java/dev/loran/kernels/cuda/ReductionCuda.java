package dev.loran.kernels.cuda;

import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.Scratch;

/// Launches `reduction.cu`: sums along a dimension, of elements or of products, row maxima, counts.
final class ReductionCuda {
    private static final int[] COLUMNS_BLOCK = {32, 8};
    /// Rows per block in a sum over columns before the work is split.
    private static final int PART = 256;

    private static final int MAX_PARTS = 64;

    private ReductionCuda() {}

    /// The number of parts into which a sum of `n` rows is split; if more than one, partial sums go through memory.
    static int parts(int n) {
        return Math.clamp((n + PART - 1) / PART, 1, MAX_PARTS);
    }

    static void sum(CudaContext cuda, Gradient y, Buffer x, int outer, int n, int inner) {
        DType t = CudaContext.floating(y.buffer());
        sum(cuda, "sum", y, new long[] {cuda.address(x, t)}, outer, n, inner);
    }

    static void sumOfProducts(CudaContext cuda, Gradient y, Buffer a, Buffer b, int outer, int n, int inner) {
        DType t = CudaContext.floating(y.buffer());
        sum(cuda, "product", y, new long[] {cuda.address(a, t), cuda.address(b, t)}, outer, n, inner);
    }

    private static void sum(CudaContext cuda, String what, Gradient y, long[] of, int outer, int n, int inner) {
        String s = Grid.suffix(y.buffer().dtype());
        int add = y.accumulate() ? 1 : 0;
        int parts = inner == 1 ? 1 : parts(n);
        int blocks = (inner + COLUMNS_BLOCK[0] - 1) / COLUMNS_BLOCK[0] * outer;
        if (inner == 1) {
            launch(cuda, what + "_rows" + s, new int[] {outer}, Grid.row(n), cuda.address(y.buffer()), of, n, add);
        } else if (parts == 1) {
            long to = cuda.address(y.buffer());
            launch(cuda, what + "_columns" + s, new int[] {blocks}, COLUMNS_BLOCK, to, of, n, inner, add);
        } else {
            try (Scratch scratch = cuda.scratch()) {
                Buffer partial = scratch.allocate(DType.F32, (long) outer * parts * inner);
                int[] grid = {blocks, parts};
                long to = cuda.address(partial);
                launch(cuda, what + "_parts" + s, grid, COLUMNS_BLOCK, to, of, n, inner, parts);
                sumOfParts(cuda, y, partial, parts, outer, inner);
            }
        }
    }

    private static void launch(
            CudaContext cuda, String kernel, int[] grid, int[] block, long y, long[] of, long... sizes) {
        long[] arguments = new long[1 + of.length + sizes.length];
        arguments[0] = y;
        System.arraycopy(of, 0, arguments, 1, of.length);
        System.arraycopy(sizes, 0, arguments, 1 + of.length, sizes.length);
        cuda.launch("reduction", kernel, grid, block, arguments);
    }

    /// y (outer, inner) ← the sum over the parts of `partial` (outer, parts, inner), in F32 (or +=).
    static void sumOfParts(CudaContext cuda, Gradient y, Buffer partial, int parts, int outer, int inner) {
        cuda.launch(
                "reduction",
                "sum_of_parts" + Grid.suffix(CudaContext.floating(y.buffer())),
                new int[] {(inner + COLUMNS_BLOCK[0] - 1) / COLUMNS_BLOCK[0] * outer},
                COLUMNS_BLOCK,
                cuda.address(y.buffer()),
                cuda.address(partial, DType.F32),
                parts,
                inner,
                y.accumulate() ? 1 : 0);
    }

    static void rowMax(CudaContext cuda, Buffer y, Buffer x, int rows, int cols) {
        DType t = CudaContext.floating(y);
        cuda.launch(
                "reduction",
                "row_max" + Grid.suffix(t),
                new int[] {rows},
                Grid.row(cols),
                cuda.address(y),
                cuda.address(x, t),
                cols);
    }

    static void inverseOfValid(CudaContext cuda, Buffer y, Buffer ids, int n, int ignore) {
        count(cuda, "inverse_of_valid", y, ids, n, ignore);
    }

    static void countValid(CudaContext cuda, Buffer y, Buffer ids, int n, int ignore) {
        count(cuda, "count_valid", y, ids, n, ignore);
    }

    private static void count(CudaContext cuda, String kernel, Buffer y, Buffer ids, int n, int ignore) {
        cuda.launch(
                "reduction",
                kernel + Grid.suffix(CudaContext.floating(y)),
                new int[] {1},
                Grid.FLAT_BLOCK,
                cuda.address(y),
                cuda.address(ids, DType.I32),
                n,
                ignore);
    }
}
