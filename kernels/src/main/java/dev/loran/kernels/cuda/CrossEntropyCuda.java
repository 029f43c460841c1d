package dev.loran.kernels.cuda;

import dev.loran.engine.Buffer;
import dev.loran.engine.DType;
import dev.loran.engine.Scratch;
import org.jspecify.annotations.Nullable;

/// Launches `crossentropy.cu`: cross-entropy of logits with integer labels, and of a product that makes the logits.
final class CrossEntropyCuda {
    /// Logits of a chunk of [#linear], at least so many rows of them.
    private static final int CHUNK = 1 << 24;

    private static final int CHUNK_ROWS = 32;

    private CrossEntropyCuda() {}

    static void forward(
            CudaBackend cuda, Buffer losses, Buffer lse, Buffer logits, Buffer labels, int n, int v, int ignore) {
        cuda.device()
                .launch(
                        "crossentropy",
                        "cross_entropy" + Grid.suffix(CudaBackend.floating(logits)),
                        new int[] {n},
                        Grid.row(v),
                        cuda.address(losses, DType.F32),
                        cuda.address(lse, DType.F32),
                        cuda.address(logits),
                        cuda.address(labels, DType.I32),
                        cuda.device().complaint(),
                        v,
                        ignore);
    }

    static void backward(
            CudaBackend cuda,
            Buffer dLogits,
            Buffer g,
            Buffer logits,
            Buffer lse,
            Buffer labels,
            int n,
            int v,
            int ignore,
            boolean accumulate) {
        DType t = CudaBackend.floating(dLogits);
        cuda.device()
                .launch(
                        "crossentropy",
                        "cross_entropy_backward" + Grid.suffix(t),
                        new int[] {n},
                        Grid.row(v),
                        cuda.address(dLogits),
                        cuda.address(g, DType.F32),
                        cuda.address(logits, t),
                        cuda.address(lse, DType.F32),
                        cuda.address(labels, DType.I32),
                        v,
                        ignore,
                        accumulate ? 1 : 0);
    }

    /// [dev.loran.engine.Backend#linearCrossEntropy] of at least one row, with a gradient: one launch a chunk between the two
    /// products, losses and gradient of the logits at once, the gradient in the type that the second product takes.
    static void linear(
            CudaBackend cuda,
            Buffer loss,
            @Nullable Buffer dx,
            @Nullable Buffer dw,
            Buffer x,
            Buffer w,
            Buffer labels,
            int n,
            int c,
            int v,
            int ignore) {
        DType t = CudaBackend.floating(x);
        CudaWeight narrow = w instanceof CudaWeight weight ? weight : null;
        int chunk = Math.min(n, Math.max(CHUNK_ROWS, CHUNK / v));
        try (Scratch scratch = new Scratch(cuda)) {
            Buffer inverseCount = scratch.like(loss);
            Buffer losses = scratch.allocate(DType.F32, n);
            Buffer logits = scratch.allocate(t, (long) chunk * v);
            Buffer slopes = narrow == null ? logits : scratch.allocate(DType.BF16, logits.size());
            cuda.inverseOfValid(inverseCount, labels, n, ignore);
            for (int from = 0; from < n; from += chunk) {
                int rows = Math.min(chunk, n - from);
                Buffer xs = x.slice((long) from * c, (long) rows * c);
                Buffer logit = logits.slice(0, (long) rows * v);
                Buffer dLogit = slopes.slice(0, (long) rows * v);
                cuda.linear(logit, xs, w, null, rows, c, v);
                Buffer of = losses.slice(from, rows);
                both(cuda, dLogit, of, inverseCount, logit, labels.slice(from, rows), rows, v, ignore);
                if (dx != null) {
                    Buffer dxs = dx.slice((long) from * c, (long) rows * c);
                    if (narrow == null) {
                        cuda.linearBackwardInput(dxs, dLogit, w, rows, c, v, false);
                    } else {
                        cuda.device().products().ofRounded(cuda, dxs, dLogit, narrow, false, rows, v, c, false);
                    }
                }
                if (dw != null) {
                    cuda.linearBackwardWeight(dw, dLogit, xs, rows, c, v, from > 0);
                }
            }
            cuda.sum(loss, losses, 1, n, 1, false);
            cuda.scaleBy(loss, inverseCount, 1);
        }
    }

    /// The losses of `logits`, and `g` times their gradients, of the same type, in place if wanted, or BF16 of F32.
    private static void both(
            CudaBackend cuda,
            Buffer dLogits,
            Buffer losses,
            Buffer g,
            Buffer logits,
            Buffer labels,
            int n,
            int v,
            int ignore) {
        DType t = logits.dtype();
        String suffix = Grid.suffix(t) + (dLogits.dtype() == t ? "" : Grid.suffix(dLogits.dtype()));
        cuda.device()
                .launch(
                        "crossentropy",
                        "cross_entropy_both" + suffix,
                        new int[] {n},
                        Grid.row(v),
                        cuda.address(dLogits),
                        cuda.address(losses),
                        cuda.address(g),
                        cuda.address(logits),
                        cuda.address(labels, DType.I32),
                        cuda.device().complaint(),
                        v,
                        ignore);
    }
}
