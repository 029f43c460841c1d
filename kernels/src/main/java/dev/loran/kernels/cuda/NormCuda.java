package dev.loran.kernels.cuda;

import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.Matrix;
import dev.loran.engine.backend.NormKernels;
import dev.loran.engine.backend.Scratch;
import org.jspecify.annotations.Nullable;

/// Launches `norm.cu`: layer norm, and RMS norm as the case without mean and bias.
record NormCuda(Backend backend, CudaContext cuda) implements NormKernels {
    private static final int[] COLUMNS_BLOCK = {32, 8};

    @Override
    public void layerNorm(Buffer y, Statistics kept, Matrix x, Buffer weight, Buffer bias, double eps) {
        forward(new Forward(y, null, kept.mean(), kept.rstd(), null, weight, bias), x, eps);
    }

    @Override
    public void addLayerNorm(
            Buffer y, Buffer sum, Statistics kept, Matrix x, Buffer residual, Buffer weight, Buffer bias, double eps) {
        forward(new Forward(y, sum, kept.mean(), kept.rstd(), residual, weight, bias), x, eps);
    }

    @Override
    public void rmsNorm(Buffer y, Buffer rstd, Matrix x, Buffer weight, double eps) {
        forward(new Forward(y, null, null, rstd, null, weight, null), x, eps);
    }

    @Override
    public void addRmsNorm(Buffer y, Buffer sum, Buffer rstd, Matrix x, Buffer residual, Buffer weight, double eps) {
        forward(new Forward(y, sum, null, rstd, residual, weight, null), x, eps);
    }

    /// The arguments of a forward pass besides x: `residual` is added to x and the result written to `sum`; both are
    /// null for a plain norm.
    private record Forward(
            Buffer y,
            @Nullable Buffer sum,
            @Nullable Buffer mean,
            Buffer rstd,
            @Nullable Buffer residual,
            Buffer weight,
            @Nullable Buffer bias) {}

    private void forward(Forward a, Matrix x, double eps) {
        DType t = CudaContext.floating(a.y);
        cuda.launch(
                "norm",
                "norm" + Grid.suffix(t),
                new int[] {x.rows()},
                Grid.row(x.cols()),
                cuda.address(a.y),
                cuda.optional(a.sum, t),
                cuda.optional(a.mean, DType.F32),
                cuda.address(a.rstd, DType.F32),
                cuda.address(x.buffer(), t),
                cuda.optional(a.residual, t),
                cuda.address(a.weight, t),
                cuda.optional(a.bias, t),
                x.cols(),
                CudaKernels.bits(eps));
    }

    @Override
    public void layerNormBackward(
            @Nullable Gradient dx,
            @Nullable Gradient dWeight,
            @Nullable Gradient dBias,
            Buffer dy,
            Matrix x,
            Statistics kept,
            Buffer weight) {
        if (dBias != null) {
            backend.sum(dBias.buffer(), dy, 1, x.rows(), x.cols(), dBias.accumulate());
        }
        backward(dx, dWeight, dy, x, kept.mean(), kept.rstd(), weight);
    }

    @Override
    public void rmsNormBackward(
            @Nullable Gradient dx, @Nullable Gradient dWeight, Buffer dy, Matrix x, Buffer rstd, Buffer weight) {
        backward(dx, dWeight, dy, x, null, rstd, weight);
    }

    private void backward(
            @Nullable Gradient dx,
            @Nullable Gradient dWeight,
            Buffer dy,
            Matrix x,
            @Nullable Buffer mean,
            Buffer rstd,
            Buffer weight) {
        DType t = CudaContext.floating(dy);
        if (dx != null) {
            cuda.launch(
                    "norm",
                    "norm_backward" + Grid.suffix(t),
                    new int[] {x.rows()},
                    Grid.row(x.cols()),
                    cuda.address(dx.buffer(), t),
                    cuda.address(dy),
                    cuda.address(x.buffer(), t),
                    cuda.optional(mean, DType.F32),
                    cuda.address(rstd, DType.F32),
                    cuda.address(weight, t),
                    x.cols(),
                    dx.accumulate() ? 1 : 0);
        }
        if (dWeight != null) {
            backwardWeight(dWeight, dy, x, mean, rstd);
        }
    }

    private void backwardWeight(Gradient dWeight, Buffer dy, Matrix x, @Nullable Buffer mean, Buffer rstd) {
        DType t = dy.dtype();
        int rows = x.rows();
        int cols = x.cols();
        int parts = ReductionCuda.parts(rows);
        int[] grid = {(cols + COLUMNS_BLOCK[0] - 1) / COLUMNS_BLOCK[0], parts};
        try (Scratch scratch = cuda.scratch()) {
            Buffer partial = scratch.allocate(DType.F32, (long) parts * cols);
            cuda.launch(
                    "norm",
                    "norm_backward_weight" + Grid.suffix(t),
                    grid,
                    COLUMNS_BLOCK,
                    cuda.address(partial),
                    cuda.address(dy),
                    cuda.address(x.buffer(), t),
                    cuda.optional(mean, DType.F32),
                    cuda.address(rstd, DType.F32),
                    rows,
                    cols);
            ReductionCuda.sumOfParts(cuda, dWeight, partial, parts, 1, cols);
        }
    }
}
