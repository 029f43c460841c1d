package dev.loran.kernels.cuda;

import dev.loran.engine.backend.AttentionKernels;
import dev.loran.engine.backend.AttentionKernels.RopeTables;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.Matrix;
import dev.loran.engine.backend.Scratch;

/// Launches `attention.cu` (blockwise attention, forward and backward; BF16 is delegated to [AttentionMmaCuda]),
/// `softmax.cu` (softmax of each row) and `rope.cu` (rotary position embedding; sign −1 is its gradient).
record AttentionCuda(Backend backend, CudaContext cuda) implements AttentionKernels {
    /// Heads with more columns use the composed implementation.
    static final int MAX_HEAD = 128;

    private static final int[] BLOCK = {128};
    private static final int[] WARP = {32};
    private static final int WARPS = 4;
    /// Queries, or keys, per block; TILE is the number of the others that are processed at a time.
    private static final int OWN = 8;

    private static final int TILE = 32;

    /// Addresses of all inputs of an attention, named as in [AttentionKernels.Problem]; 0 for absent ones.
    record Inputs(
            DType type,
            long q,
            long k,
            long v,
            long prefixK,
            long prefixV,
            long mask,
            boolean sharesPrefix,
            Sizes sizes,
            boolean causal,
            double scale) {

        static Inputs of(CudaContext cuda, Problem a) {
            DType type = CudaContext.floating(a.q());
            return new Inputs(
                    type,
                    cuda.address(a.q()),
                    cuda.address(a.k(), type),
                    cuda.address(a.v(), type),
                    cuda.optional(a.prefixK(), type),
                    cuda.optional(a.prefixV(), type),
                    cuda.optional(a.mask(), DType.I32),
                    a.sharesPrefix(),
                    a.sizes(),
                    a.scoring().causal(),
                    a.scoring().scale());
        }

        /// Whether it uses BF16 tensor-core products.
        private boolean onTensorCores() {
            return type == DType.BF16;
        }

        int[] words() {
            return new int[] {
                sizes.batch(),
                sizes.t(),
                sizes.s(),
                sizes.p(),
                sizes.heads(),
                sizes.kvHeads(),
                sizes.d(),
                causal ? 1 : 0,
                sharesPrefix ? 1 : 0,
                Float.floatToRawIntBits((float) scale)
            };
        }

        private String kernel(String name) {
            return name + Grid.suffix(type);
        }

        /// Bytes of shared memory per block: `rows` rows of a head, and `weights` floats for each tile row of a warp.
        private int shared(int rows, int weights) {
            return 4 * (rows * (sizes.d() + 1) + WARPS * weights * TILE);
        }
    }

    /// Addresses of the remaining inputs of a backward pass and of its gradients; 0 for gradients that are not needed.
    record Backward(long dq, long dk, long dv, long dPrefixK, long dPrefixV, long dOut, long lse, long rowDot) {}

    @Override
    public void softmax(Buffer y, Matrix x) {
        DType t = CudaContext.floating(y);
        cuda.launch(
                "softmax",
                "softmax" + Grid.suffix(t),
                new int[] {x.rows()},
                Grid.row(x.cols()),
                cuda.address(y),
                cuda.address(x.buffer(), t),
                x.cols());
    }

    @Override
    public void softmaxBackward(Gradient dx, Buffer dy, Matrix y) {
        DType t = CudaContext.floating(dx.buffer());
        cuda.launch(
                "softmax",
                "softmax_backward" + Grid.suffix(t),
                new int[] {y.rows()},
                Grid.row(y.cols()),
                cuda.address(dx.buffer()),
                cuda.address(dy, t),
                cuda.address(y.buffer(), t),
                y.cols(),
                dx.accumulate() ? 1 : 0);
    }

    @Override
    public void rope(Buffer y, Buffer x, RopeTables tables, int batch, int heads, int sign) {
        int d = tables.d();
        DType t = CudaContext.floating(y);
        long rows = (long) batch * tables.t() * heads;
        cuda.launch(
                "rope",
                "rope" + Grid.suffix(t),
                Grid.flat(rows * (d / 2)),
                Grid.FLAT_BLOCK,
                cuda.address(y),
                cuda.address(x, t),
                cuda.address(tables.cos(), t),
                cuda.address(tables.sin(), t),
                rows,
                tables.t(),
                heads,
                d / 2,
                sign);
    }

    @Override
    public void attention(Buffer out, Buffer lse, Problem problem) {
        if (problem.sizes().d() > MAX_HEAD || !problem.scoring().isPlain()) {
            AttentionKernels.super.attention(out, lse, problem);
            return;
        }
        Inputs a = Inputs.of(cuda, problem);
        long to = cuda.address(out, a.type);
        long al = cuda.address(lse, DType.F32);
        if (a.onTensorCores()) {
            AttentionMmaCuda.forward(cuda, to, al, a);
            return;
        }
        cuda.launchShared(
                "attention",
                a.kernel("attention"),
                perQuery(a.sizes),
                BLOCK,
                a.shared(2 * TILE + OWN, 1),
                CudaKernels.words(new long[] {to, al, a.q, a.k, a.v, a.prefixK, a.prefixV, a.mask}, a.words()));
    }

    /// Grid that covers all queries.
    private static int[] perQuery(Sizes sizes) {
        return new int[] {(sizes.t() + OWN - 1) / OWN, sizes.heads(), sizes.batch()};
    }

    @Override
    public void attentionBackward(Slopes slopes, Buffer dOut, Buffer out, Buffer lse, Problem problem) {
        if (problem.sizes().d() > MAX_HEAD || !problem.scoring().isPlain()) {
            AttentionKernels.super.attentionBackward(slopes, dOut, out, lse, problem);
            return;
        }
        Inputs a = Inputs.of(cuda, problem);
        DType type = a.type;
        long dq = cuda.optional(slopes.dq(), type);
        long dk = cuda.optional(slopes.dk(), type);
        long dv = cuda.optional(slopes.dv(), type);
        long dPrefixK = cuda.optional(slopes.dPrefixK(), type);
        long dPrefixV = cuda.optional(slopes.dPrefixV(), type);
        long ady = cuda.address(dOut, type);
        long ay = cuda.address(out, type);
        long al = cuda.address(lse, DType.F32);
        Sizes z = a.sizes;
        try (Scratch scratch = cuda.scratch()) {
            long rowDot = cuda.address(scratch.allocate(DType.F32, (long) z.batch() * z.heads() * z.t()));
            rowDot(rowDot, ady, ay, a);
            Backward to = new Backward(dq, dk, dv, dPrefixK, dPrefixV, ady, al, rowDot);
            if (a.onTensorCores()) {
                AttentionMmaCuda.backwardQueries(cuda, to, a);
                AttentionMmaCuda.backwardKeys(cuda, to, a);
            } else {
                backwardQueries(to, a);
                backwardKeys(to, a);
            }
        }
    }

    /// rowDot (batch, heads, t) ← Σ dOut · out, in F32: the input of both halves of the backward pass.
    private void rowDot(long rowDot, long dOut, long out, Inputs a) {
        cuda.launch(
                "attention",
                a.kernel("attention_row_dot"),
                new int[] {a.sizes.t(), a.sizes.heads(), a.sizes.batch()},
                WARP,
                CudaKernels.words(new long[] {rowDot, dOut, out}, a.words()));
    }

    private void backwardQueries(Backward to, Inputs a) {
        if (to.dq == 0) {
            return;
        }
        long[] arguments = {to.dq, to.dOut, to.lse, to.rowDot, a.q, a.k, a.v, a.prefixK, a.prefixV, a.mask};
        cuda.launchShared(
                "attention",
                a.kernel("attention_backward_queries"),
                perQuery(a.sizes),
                BLOCK,
                a.shared(2 * TILE + 2 * OWN, 1),
                CudaKernels.words(arguments, a.words()));
    }

    /// Computes dk and dv, or dPrefixK and dPrefixV, or all four; a pair may be 0.
    private void backwardKeys(Backward to, Inputs a) {
        Sizes z = a.sizes;
        if (to.dk != 0) {
            backwardKeys(to, z.p(), z.p() + z.s(), z.batch(), a);
        }
        if (to.dPrefixK != 0) {
            backwardKeys(to, 0, z.p(), a.sharesPrefix ? 1 : z.batch(), a);
        }
    }

    /// For keys `from` to `end`, in `rows` rows of the batch.
    private void backwardKeys(Backward to, int from, int end, int rows, Inputs a) {
        long[] arguments = {
            to.dk,
            to.dv,
            to.dPrefixK,
            to.dPrefixV,
            to.dOut,
            to.lse,
            to.rowDot,
            a.q,
            a.k,
            a.v,
            a.prefixK,
            a.prefixV,
            a.mask,
            from,
            end
        };
        cuda.launchShared(
                "attention",
                a.kernel("attention_backward_keys"),
                new int[] {(end - from + OWN - 1) / OWN, a.sizes.kvHeads(), rows},
                BLOCK,
                a.shared(2 * TILE + 2 * OWN, 2),
                CudaKernels.words(arguments, a.words()));
    }
}
