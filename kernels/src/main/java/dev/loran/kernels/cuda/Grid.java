package dev.loran.kernels.cuda;

import dev.loran.engine.backend.DType;

/// Launch sizes. They depend only on the shape, so that the order of summation does too.
final class Grid {
    /// FLAT_THREADS of common.cuh.
    static final int[] FLAT_BLOCK = {256};

    /// Elements per thread before it loops.
    private static final int PER_THREAD = 4;

    private static final int MAX_FLAT = 2048;
    private static final int WARP = 32;
    private static final int ROW_THREADS = 256;

    private Grid() {}

    /// Blocks for `n` elements that threads process in a grid-stride loop.
    static int[] flat(long n) {
        long perBlock = (long) FLAT_BLOCK[0] * PER_THREAD;
        return new int[] {(int) Math.min((n + perBlock - 1) / perBlock, MAX_FLAT)};
    }

    /// A block for a row of `cols` elements: whole warps, with at most one thread per four elements.
    static int[] row(int cols) {
        int threads = (cols + PER_THREAD - 1) / PER_THREAD;
        return new int[] {Math.min(ROW_THREADS, Math.max(WARP, (threads + WARP - 1) / WARP * WARP))};
    }

    /// The suffix of kernel names for elements of `dtype`.
    static String suffix(DType dtype) {
        return switch (dtype) {
            case F32 -> "_f32";
            case BF16 -> "_bf16";
            case F16 -> "_f16";
            case I32 -> "_i32";
            default -> throw new IllegalArgumentException("cuda: no kernels for " + dtype);
        };
    }
}
