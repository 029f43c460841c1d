package dev.loran.kernels.cuda;

import dev.loran.engine.backend.AttentionKernels.Sizes;
import dev.loran.kernels.cuda.AttentionCuda.Backward;
import dev.loran.kernels.cuda.AttentionCuda.Inputs;

/// Launches `attentionmma.cu`: blockwise attention on tensor cores, in BF16.
final class AttentionMmaCuda {
    private static final int[] BLOCK = {128};
    /// Queries, or keys, per block.
    private static final int OWN = 64;

    private static final int TILE = 32;
    private static final int NARROW_HEAD = 64;

    private AttentionMmaCuda() {}

    static void forward(CudaContext cuda, long out, long lse, Inputs a) {
        cuda.launchShared(
                "attentionmma",
                kernel("attention_mma", a),
                perQuery(a.sizes()),
                BLOCK,
                shared(OWN + 2 * TILE, a),
                arguments(a, out, lse, a.q(), a.k(), a.v(), a.prefixK(), a.prefixV(), a.mask()));
    }

    /// Grid that covers all queries.
    private static int[] perQuery(Sizes sizes) {
        return new int[] {blocks(sizes.t()), sizes.heads(), sizes.batch()};
    }

    static void backwardQueries(CudaContext cuda, Backward to, Inputs a) {
        if (to.dq() == 0) {
            return;
        }
        cuda.launchShared(
                "attentionmma",
                kernel("attention_mma_backward_queries", a),
                perQuery(a.sizes()),
                BLOCK,
                shared(2 * OWN + 2 * backTile(a), a),
                arguments(
                        a,
                        to.dq(),
                        to.dOut(),
                        to.lse(),
                        to.rowDot(),
                        a.q(),
                        a.k(),
                        a.v(),
                        a.prefixK(),
                        a.prefixV(),
                        a.mask()));
    }

    /// Computes dk and dv, or dPrefixK and dPrefixV, or all four; a pair may be 0.
    static void backwardKeys(CudaContext cuda, Backward to, Inputs a) {
        Sizes z = a.sizes();
        if (to.dk() != 0) {
            backwardKeys(cuda, to, z.p(), z.p() + z.s(), z.batch(), a);
        }
        if (to.dPrefixK() != 0) {
            backwardKeys(cuda, to, 0, z.p(), a.sharesPrefix() ? 1 : z.batch(), a);
        }
    }

    /// For keys `from` to `end`, in `rows` rows of the batch.
    private static void backwardKeys(CudaContext cuda, Backward to, int from, int end, int rows, Inputs a) {
        cuda.launchShared(
                "attentionmma",
                kernel("attention_mma_backward_keys", a),
                new int[] {blocks(end - from), a.sizes().kvHeads(), rows},
                BLOCK,
                shared(2 * OWN + 2 * backTile(a), a),
                arguments(
                        a,
                        to.dk(),
                        to.dv(),
                        to.dPrefixK(),
                        to.dPrefixV(),
                        to.dOut(),
                        to.lse(),
                        to.rowDot(),
                        a.q(),
                        a.k(),
                        a.v(),
                        a.prefixK(),
                        a.prefixV(),
                        a.mask(),
                        from,
                        end));
    }

    private static int blocks(int rows) {
        return (rows + OWN - 1) / OWN;
    }

    /// Heads are padded with zeros to one of two sizes.
    private static int columns(Inputs a) {
        return a.sizes().d() <= NARROW_HEAD ? NARROW_HEAD : AttentionCuda.MAX_HEAD;
    }

    private static String kernel(String name, Inputs a) {
        return name + "_" + columns(a);
    }

    /// BACK_TILE of `attentionmma.cu`.
    private static int backTile(Inputs a) {
        return columns(a) == NARROW_HEAD ? TILE : TILE / 2;
    }

    /// Bytes of `rows` rows of BF16, each 8 elements longer than a head.
    private static int shared(int rows, Inputs a) {
        return 2 * rows * (columns(a) + 8);
    }

    private static long[] arguments(Inputs a, long... values) {
        return CudaKernels.words(values, a.words());
    }
}
