package dev.loran.kernels.cuda;

import dev.loran.engine.backend.DType;

/// How many threads a launch gets. Sizes follow from the shape alone, so that the order of a sum does too.
final class Grid {
    /// FLAT_THREADS of common.cuh.
    static final int[] FLAT_BLOCK = {256};

    /// Elements of one thread, before it takes a second turn.
    private static final int PER_THREAD = 4;

    private static final int MAX_FLAT = 2048;
    private static final int WARP = 32;
    private static final int ROW_THREADS = 256;

    private Grid() {}

    /// Blocks for `n` elements that threads walk over in strides.
    static int[] flat(long n) {
        long perBlock = (long) FLAT_BLOCK[0] * PER_THREAD;
        return new int[] {(int) Math.min((n + perBlock - 1) / perBlock, MAX_FLAT)};
    }

    /// A block for a row of `cols` elements: whole warps, a thread for every four elements at most.
    static int[] row(int cols) {
        int threads = (cols + PER_THREAD - 1) / PER_THREAD;
        return new int[] {Math.min(ROW_THREADS, Math.max(WARP, (threads + WARP - 1) / WARP * WARP))};
    }

    /// What kernels are called for elements of `dtype`.
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
