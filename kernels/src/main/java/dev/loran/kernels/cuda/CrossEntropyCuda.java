package dev.loran.kernels.cuda;

import dev.loran.engine.Buffer;
import dev.loran.engine.DType;
import dev.loran.engine.Scratch;
import org.jspecify.annotations.Nullable;

/// Launches `crossentropy.cu`: cross-entropy of logits with integer labels, and of a product that makes the logits.
final class CrossEntropyCuda {
    /// Logits of a chunk of [#linear] at most, where that is more than FEW_ROWS.
    private static final int CHUNK = 1 << 24;

    private static final int FEW_ROWS = 32;
    /// With so many rows at a time the products lose nothing, so that a short batch has no more of them than a quarter.
    private static final int ENOUGH_ROWS = 128;

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

    /// [dev.loran.engine.Backend#linearCrossEntropy] of at least one row: logits in F32, and one launch a chunk between the two
    /// products for losses and gradient of the logits at once, that in the type that the second product takes.
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
        int chunk = Math.clamp(Math.min(CHUNK / v, Math.max(ENOUGH_ROWS, n / 4)), Math.min(n, FEW_ROWS), n);
        try (Scratch scratch = new Scratch(cuda)) {
            Buffer inverseCount = scratch.like(loss);
            Buffer losses = scratch.allocate(DType.F32, n);
            Buffer logits = scratch.allocate(DType.F32, (long) chunk * v);
            Buffer slopes = t == DType.F32 ? logits : scratch.allocate(t, logits.size());
            // One chunk's rounding is one; those of many would add up.
            Buffer sumOfChunks =
                    dw == null || t == DType.F32 || chunk == n ? dw : scratch.allocate(DType.F32, dw.size());
            cuda.inverseOfValid(inverseCount, labels, n, ignore);
            for (int from = 0; from < n; from += chunk) {
                int rows = Math.min(chunk, n - from);
                Buffer xs = x.slice((long) from * c, (long) rows * c);
                Buffer logit = logits.slice(0, (long) rows * v);
                Buffer dLogit = slopes.slice(0, (long) rows * v);
                cuda.gemm(logit, v, 0, xs, c, 0, false, w, c, 0, true, 1, rows, v, c, 1, 0);
                Buffer of = losses.slice(from, rows);
                both(cuda, dLogit, of, inverseCount, logit, labels.slice(from, rows), rows, v, ignore);
                if (dx != null) {
                    cuda.linearBackwardInput(dx.slice((long) from * c, (long) rows * c), dLogit, w, rows, c, v, false);
                }
                if (sumOfChunks != null) {
                    cuda.linearBackwardWeight(sumOfChunks, dLogit, xs, rows, c, v, from > 0);
                }
            }
            if (dw != null && sumOfChunks != null && sumOfChunks != dw) {
                cuda.cast(dw, sumOfChunks);
            }
            cuda.sum(loss, losses, 1, n, 1, false);
            cuda.scaleBy(loss, inverseCount, 1);
        }
    }

    /// The losses of `logits`, F32, and `g` times their gradients, in place or of a narrower type.
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
        cuda.device()
                .launch(
                        "crossentropy",
                        "cross_entropy_both" + Grid.suffix(dLogits.dtype()),
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
