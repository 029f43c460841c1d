package dev.loran.kernels.cuda;

import dev.loran.kernels.cuda.AttentionCuda.Problem;

/// Launches `attentionmma.cu`: blockwise attention by tensor cores, on BF16.
final class AttentionMmaCuda {
    private static final int[] BLOCK = {128};
    /// Queries, or keys, of a block.
    private static final int OWN = 64;

    private static final int TILE = 32;
    private static final int NARROW_HEAD = 64;

    private AttentionMmaCuda() {}

    static void forward(CudaDevice device, long out, long lse, Problem a) {
        device.launchShared(
                "attentionmma",
                kernel("attention_mma", a),
                new int[] {blocks(a.t()), a.heads(), a.batch()},
                BLOCK,
                shared(OWN + 2 * TILE, a),
                arguments(a, out, lse, a.q(), a.k(), a.v(), a.prefixK(), a.prefixV(), a.mask()));
    }

    /// dq may be 0.
    static void backwardQueries(CudaDevice device, long dq, long dOut, long lse, long rowDot, Problem a) {
        if (dq == 0) {
            return;
        }
        device.launchShared(
                "attentionmma",
                kernel("attention_mma_backward_queries", a),
                new int[] {blocks(a.t()), a.heads(), a.batch()},
                BLOCK,
                shared(2 * OWN + 2 * backTile(a), a),
                arguments(a, dq, dOut, lse, rowDot, a.q(), a.k(), a.v(), a.prefixK(), a.prefixV(), a.mask()));
    }

    /// dk and dv, or dPrefixK and dPrefixV, or all four; a pair may be 0.
    static void backwardKeys(
            CudaDevice device,
            long dk,
            long dv,
            long dPrefixK,
            long dPrefixV,
            long dOut,
            long lse,
            long rowDot,
            Problem a) {
        if (dk != 0) {
            backwardKeys(device, dk, dv, dPrefixK, dPrefixV, dOut, lse, rowDot, a.p(), a.p() + a.s(), a.batch(), a);
        }
        if (dPrefixK != 0) {
            int rows = a.sharedPrefix() ? 1 : a.batch();
            backwardKeys(device, dk, dv, dPrefixK, dPrefixV, dOut, lse, rowDot, 0, a.p(), rows, a);
        }
    }

    private static void backwardKeys(
            CudaDevice device,
            long dk,
            long dv,
            long dPrefixK,
            long dPrefixV,
            long dOut,
            long lse,
            long rowDot,
            int from,
            int to,
            int rows,
            Problem a) {
        device.launchShared(
                "attentionmma",
                kernel("attention_mma_backward_keys", a),
                new int[] {blocks(to - from), a.kvHeads(), rows},
                BLOCK,
                shared(2 * OWN + 2 * backTile(a), a),
                arguments(
                        a,
                        dk,
                        dv,
                        dPrefixK,
                        dPrefixV,
                        dOut,
                        lse,
                        rowDot,
                        a.q(),
                        a.k(),
                        a.v(),
                        a.prefixK(),
                        a.prefixV(),
                        a.mask(),
                        from,
                        to));
    }

    private static int blocks(int rows) {
        return (rows + OWN - 1) / OWN;
    }

    /// Heads are filled up with zeros to one of two sizes.
    private static int columns(Problem a) {
        return a.d() <= NARROW_HEAD ? NARROW_HEAD : AttentionCuda.MAX_HEAD;
    }

    private static String kernel(String name, Problem a) {
        return name + "_" + columns(a);
    }

    /// BACK_TILE of `attentionmma.cu`.
    private static int backTile(Problem a) {
        return columns(a) == NARROW_HEAD ? TILE : TILE / 2;
    }

    /// Bytes of `rows` rows of BF16, 8 elements longer than a head.
    private static int shared(int rows, Problem a) {
        return 2 * rows * (columns(a) + 8);
    }

    private static long[] arguments(Problem a, long... values) {
        return CudaKernels.words(values, a.words());
    }
}
