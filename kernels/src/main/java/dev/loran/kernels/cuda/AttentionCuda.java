package dev.loran.kernels.cuda;

import dev.loran.engine.Buffer;
import dev.loran.engine.DType;
import dev.loran.engine.Scratch;
import org.jspecify.annotations.Nullable;

/// Launches `attention.cu`: blockwise attention, forward and backward; what is BF16 it leaves to
/// [AttentionMmaCuda].
final class AttentionCuda {
    /// Heads of more columns are left to the composed form.
    static final int MAX_HEAD = 128;

    private static final int[] BLOCK = {128};
    private static final int[] WARP = {32};
    private static final int WARPS = 4;
    /// Queries, or keys, of a block; and what it takes at a time of the others.
    private static final int OWN = 8;

    private static final int TILE = 32;

    private AttentionCuda() {}

    /// Everything but the memory that is written; the letters of [dev.loran.engine.Backend#attention], 0 for what is
    /// absent.
    record Problem(
            DType type,
            long q,
            long k,
            long v,
            long prefixK,
            long prefixV,
            long mask,
            int batch,
            int t,
            int s,
            int p,
            int heads,
            int kvHeads,
            int d,
            boolean causal,
            boolean sharedPrefix,
            double scale) {

        static Problem of(
                CudaBackend cuda,
                Buffer q,
                Buffer k,
                Buffer v,
                @Nullable Buffer prefixK,
                @Nullable Buffer prefixV,
                @Nullable Buffer mask,
                int batch,
                int t,
                int s,
                int p,
                int heads,
                int kvHeads,
                int d,
                boolean causal,
                double scale) {
            DType type = CudaBackend.floating(q);
            return new Problem(
                    type,
                    cuda.address(q),
                    cuda.address(k, type),
                    cuda.address(v, type),
                    cuda.optional(prefixK, type),
                    cuda.optional(prefixV, type),
                    cuda.optional(mask, DType.I32),
                    batch,
                    t,
                    s,
                    p,
                    heads,
                    kvHeads,
                    d,
                    causal,
                    prefixK != null && prefixK.size() == (long) p * kvHeads * d,
                    scale);
        }

        /// Whether it goes through products of BF16.
        private boolean onTensorCores() {
            return type == DType.BF16;
        }

        int[] words() {
            return new int[] {
                batch,
                t,
                s,
                p,
                heads,
                kvHeads,
                d,
                causal ? 1 : 0,
                sharedPrefix ? 1 : 0,
                Float.floatToRawIntBits((float) scale)
            };
        }

        private String kernel(String name) {
            return name + Grid.suffix(type);
        }

        /// Shared memory of a block: `rows` rows of a head, and `weights` floats for each tile row of a warp.
        private int shared(int rows, int weights) {
            return 4 * (rows * (d + 1) + WARPS * weights * TILE);
        }
    }

    static void forward(CudaBackend cuda, Buffer out, Buffer lse, Problem a) {
        CudaDevice device = cuda.device();
        long to = cuda.address(out, a.type);
        long al = cuda.address(lse, DType.F32);
        if (a.onTensorCores()) {
            AttentionMmaCuda.forward(device, to, al, a);
            return;
        }
        device.launchShared(
                "attention",
                a.kernel("attention"),
                new int[] {(a.t + OWN - 1) / OWN, a.heads, a.batch},
                BLOCK,
                a.shared(2 * TILE + OWN, 1),
                CudaKernels.words(new long[] {to, al, a.q, a.k, a.v, a.prefixK, a.prefixV, a.mask}, a.words()));
    }

    static void backward(
            CudaBackend cuda,
            @Nullable Buffer dq,
            @Nullable Buffer dk,
            @Nullable Buffer dv,
            @Nullable Buffer dPrefixK,
            @Nullable Buffer dPrefixV,
            Buffer dOut,
            Buffer out,
            Buffer lse,
            Problem a) {
        CudaDevice device = cuda.device();
        DType type = a.type;
        long to = cuda.optional(dq, type);
        long adk = cuda.optional(dk, type);
        long adv = cuda.optional(dv, type);
        long adpk = cuda.optional(dPrefixK, type);
        long adpv = cuda.optional(dPrefixV, type);
        long ady = cuda.address(dOut, type);
        long ay = cuda.address(out, type);
        long al = cuda.address(lse, DType.F32);
        try (Scratch scratch = new Scratch(cuda)) {
            long rowDot = cuda.address(scratch.allocate(DType.F32, (long) a.batch * a.heads * a.t));
            rowDot(device, rowDot, ady, ay, a);
            if (a.onTensorCores()) {
                AttentionMmaCuda.backwardQueries(device, to, ady, al, rowDot, a);
                AttentionMmaCuda.backwardKeys(device, adk, adv, adpk, adpv, ady, al, rowDot, a);
            } else {
                backwardQueries(device, to, ady, al, rowDot, a);
                backwardKeys(device, adk, adv, adpk, adpv, ady, al, rowDot, a);
            }
        }
    }

    /// rowDot (batch, heads, t) ← Σ dOut · out, in F32: what both halves of backward start from.
    private static void rowDot(CudaDevice device, long rowDot, long dOut, long out, Problem a) {
        device.launch(
                "attention",
                a.kernel("attention_row_dot"),
                new int[] {a.t, a.heads, a.batch},
                WARP,
                CudaKernels.words(new long[] {rowDot, dOut, out}, a.words()));
    }

    /// dq may be 0.
    private static void backwardQueries(CudaDevice device, long dq, long dOut, long lse, long rowDot, Problem a) {
        if (dq == 0) {
            return;
        }
        device.launchShared(
                "attention",
                a.kernel("attention_backward_queries"),
                new int[] {(a.t + OWN - 1) / OWN, a.heads, a.batch},
                BLOCK,
                a.shared(2 * TILE + 2 * OWN, 1),
                CudaKernels.words(
                        new long[] {dq, dOut, lse, rowDot, a.q, a.k, a.v, a.prefixK, a.prefixV, a.mask}, a.words()));
    }

    /// dk and dv, or dPrefixK and dPrefixV, or all four; a pair may be 0.
    private static void backwardKeys(
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
            backwardKeys(device, dk, dv, dPrefixK, dPrefixV, dOut, lse, rowDot, a.p, a.p + a.s, a.batch, a);
        }
        if (dPrefixK != 0) {
            int rows = a.sharedPrefix ? 1 : a.batch;
            backwardKeys(device, dk, dv, dPrefixK, dPrefixV, dOut, lse, rowDot, 0, a.p, rows, a);
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
                "attention",
                a.kernel("attention_backward_keys"),
                new int[] {(to - from + OWN - 1) / OWN, a.kvHeads, rows},
                BLOCK,
                a.shared(2 * TILE + 2 * OWN, 2),
                CudaKernels.words(
                        new long[] {
                            dk, dv, dPrefixK, dPrefixV, dOut, lse, rowDot, a.q, a.k, a.v, a.prefixK, a.prefixV, a.mask,
                            from, to
                        },
                        a.words()));
    }
}
