package dev.loran.kernels.cuda;

import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.LossKernels;
import dev.loran.engine.backend.Matrix;
import dev.loran.engine.backend.Scratch;
import org.jspecify.annotations.Nullable;

/// Launches `crossentropy.cu`: cross-entropy of logits with integer labels, and of a product that computes the logits.
record LossCuda(Backend backend, CudaContext cuda) implements LossKernels {
    /// Maximum number of logits in a chunk of [#linearCrossEntropy], unless that is fewer than FEW_ROWS rows.
    private static final int CHUNK = 1 << 24;

    private static final int FEW_ROWS = 32;
    /// Products with this many rows lose no speed, so a short batch is split into chunks of a quarter, but at least
    /// this many rows.
    private static final int ENOUGH_ROWS = 128;

    @Override
    public void crossEntropy(Buffer losses, Buffer lse, Matrix logits, Labels labels) {
        cuda.launch(
                "crossentropy",
                "cross_entropy" + Grid.suffix(CudaContext.floating(logits.buffer())),
                new int[] {logits.rows()},
                Grid.row(logits.cols()),
                cuda.address(losses, DType.F32),
                cuda.address(lse, DType.F32),
                cuda.address(logits.buffer()),
                cuda.address(labels.ids(), DType.I32),
                cuda.complaint(),
                logits.cols(),
                labels.ignore());
    }

    @Override
    public void crossEntropyBackward(Gradient dLogits, Buffer g, Matrix logits, Buffer lse, Labels labels) {
        DType t = CudaContext.floating(dLogits.buffer());
        cuda.launch(
                "crossentropy",
                "cross_entropy_backward" + Grid.suffix(t),
                new int[] {logits.rows()},
                Grid.row(logits.cols()),
                cuda.address(dLogits.buffer()),
                cuda.address(g, DType.F32),
                cuda.address(logits.buffer(), t),
                cuda.address(lse, DType.F32),
                cuda.address(labels.ids(), DType.I32),
                logits.cols(),
                labels.ignore(),
                dLogits.accumulate() ? 1 : 0);
    }

    /// {@inheritDoc}
    ///
    /// Logits are in F32. Between the two products, one launch per chunk computes both the losses and the gradient of
    /// the logits, in the operand type of the second product.
    @Override
    public void linearCrossEntropy(
            Buffer loss, @Nullable Buffer dx, @Nullable Buffer dw, Matrix x, Matrix w, Labels labels, double softCap) {
        int n = x.rows();
        int v = w.rows();
        if (n == 0) {
            LossKernels.super.linearCrossEntropy(loss, dx, dw, x, w, labels, softCap);
            return;
        }
        DType t = CudaContext.floating(x.buffer());
        int chunk = Math.clamp(Math.min(CHUNK / v, Math.max(ENOUGH_ROWS, n / 4)), Math.min(n, FEW_ROWS), n);
        try (Scratch scratch = cuda.scratch()) {
            Buffer inverseCount = scratch.like(loss);
            Buffer losses = scratch.allocate(DType.F32, n);
            Buffer logits = scratch.allocate(DType.F32, (long) chunk * v);
            Buffer slopes = t == DType.F32 ? logits : scratch.allocate(t, logits.size());
            Buffer capSlopes = softCap == 0 ? null : scratch.like(logits);
            // A single chunk is rounded once; the rounding errors of several would accumulate.
            Buffer sumOfChunks =
                    dw == null || t == DType.F32 || chunk == n ? dw : scratch.allocate(DType.F32, dw.size());
            inverseOfValid(inverseCount, labels);
            for (int from = 0; from < n; from += chunk) {
                int rows = Math.min(chunk, n - from);
                Matrix xs = x.rows(from, rows);
                Matrix logit = new Matrix(logits.slice(0, (long) rows * v), rows, v);
                Matrix dLogit = new Matrix(slopes.slice(0, (long) rows * v), rows, v);
                backend.gemm(logit, xs, w.t(), 1, 0);
                if (capSlopes != null) {
                    softCap(logit.buffer(), capSlopes.slice(0, logit.buffer().size()), softCap);
                }
                both(dLogit.buffer(), losses.slice(from, rows), inverseCount, logit, labels.rows(from, rows));
                if (capSlopes != null) {
                    multiply(dLogit.buffer(), capSlopes.slice(0, dLogit.buffer().size()));
                }
                if (dx != null) {
                    Gradient to = new Gradient(x.in(dx).rows(from, rows).buffer(), false);
                    backend.linear().linearBackwardInput(to, dLogit, w);
                }
                if (sumOfChunks != null) {
                    backend.linear().linearBackwardWeight(new Gradient(sumOfChunks, from > 0), dLogit, xs);
                }
            }
            if (dw != null && sumOfChunks != null && sumOfChunks != dw) {
                backend.cast(dw, sumOfChunks);
            }
            backend.sum(loss, losses, 1, n, 1, false);
            backend.scaleBy(loss, inverseCount, 1);
        }
    }

    /// y ← y · factors, which are in F32.
    private void multiply(Buffer y, Buffer factors) {
        if (y.dtype() == DType.F32) {
            backend.multiply(y, y, factors);
            return;
        }
        try (Scratch own = cuda.scratch()) {
            Buffer narrow = own.like(y);
            backend.cast(narrow, factors);
            backend.multiply(y, y, narrow);
        }
    }

    /// The losses of F32 `logits`, and `g` times their gradients, in place or in a narrower type.
    private void both(Buffer dLogits, Buffer losses, Buffer g, Matrix logits, Labels labels) {
        cuda.launch(
                "crossentropy",
                "cross_entropy_both" + Grid.suffix(dLogits.dtype()),
                new int[] {logits.rows()},
                Grid.row(logits.cols()),
                cuda.address(dLogits),
                cuda.address(losses),
                cuda.address(g),
                cuda.address(logits.buffer()),
                cuda.address(labels.ids(), DType.I32),
                cuda.complaint(),
                logits.cols(),
                labels.ignore());
    }

    @Override
    public void inverseOfValid(Buffer y, Labels labels) {
        ReductionCuda.inverseOfValid(cuda, y, labels.ids(), labels.size(), labels.ignore());
    }
}
