package dev.loran.kernels.cuda;

import dev.loran.engine.Buffer;
import dev.loran.engine.DType;
import dev.loran.engine.Scratch;
import org.jspecify.annotations.Nullable;

/// Launches `norm.cu`: layer norm, and RMS norm as the case without a mean and a bias.
final class NormCuda {
    private static final int[] COLUMNS_BLOCK = {32, 8};

    private NormCuda() {}

    /// With a `residual` of what x + residual is, the output `sum`; both null without.
    static void forward(
            CudaBackend cuda,
            Buffer y,
            @Nullable Buffer sum,
            @Nullable Buffer mean,
            Buffer rstd,
            Buffer x,
            @Nullable Buffer residual,
            Buffer weight,
            @Nullable Buffer bias,
            int rows,
            int cols,
            double eps) {
        DType t = CudaBackend.floating(y);
        cuda.device()
                .launch(
                        "norm",
                        "norm" + Grid.suffix(t),
                        new int[] {rows},
                        Grid.row(cols),
                        cuda.address(y),
                        cuda.optional(sum, t),
                        cuda.optional(mean, DType.F32),
                        cuda.address(rstd, DType.F32),
                        cuda.address(x, t),
                        cuda.optional(residual, t),
                        cuda.address(weight, t),
                        cuda.optional(bias, t),
                        cols,
                        CudaKernels.bits(eps));
    }

    /// The bias' gradient apart.
    static void backward(
            CudaBackend cuda,
            @Nullable Buffer dx,
            @Nullable Buffer dWeight,
            Buffer dy,
            Buffer x,
            @Nullable Buffer mean,
            Buffer rstd,
            Buffer weight,
            int rows,
            int cols,
            boolean accumulateX,
            boolean accumulateWeight) {
        DType t = CudaBackend.floating(dy);
        if (dx != null) {
            cuda.device()
                    .launch(
                            "norm",
                            "norm_backward" + Grid.suffix(t),
                            new int[] {rows},
                            Grid.row(cols),
                            cuda.address(dx, t),
                            cuda.address(dy),
                            cuda.address(x, t),
                            cuda.optional(mean, DType.F32),
                            cuda.address(rstd, DType.F32),
                            cuda.address(weight, t),
                            cols,
                            accumulateX ? 1 : 0);
        }
        if (dWeight != null) {
            backwardWeight(cuda, dWeight, dy, x, mean, rstd, rows, cols, accumulateWeight);
        }
    }

    private static void backwardWeight(
            CudaBackend cuda,
            Buffer dWeight,
            Buffer dy,
            Buffer x,
            @Nullable Buffer mean,
            Buffer rstd,
            int rows,
            int cols,
            boolean accumulate) {
        DType t = dy.dtype();
        int parts = ReductionCuda.parts(rows);
        int[] grid = {(cols + COLUMNS_BLOCK[0] - 1) / COLUMNS_BLOCK[0], parts};
        try (Scratch scratch = new Scratch(cuda)) {
            Buffer partial = scratch.allocate(DType.F32, (long) parts * cols);
            cuda.device()
                    .launch(
                            "norm",
                            "norm_backward_weight" + Grid.suffix(t),
                            grid,
                            COLUMNS_BLOCK,
                            cuda.address(partial),
                            cuda.address(dy),
                            cuda.address(x, t),
                            cuda.optional(mean, DType.F32),
                            cuda.address(rstd, DType.F32),
                            rows,
                            cols);
            ReductionCuda.sumOfParts(cuda, dWeight, partial, parts, 1, cols, accumulate);
        }
    }
}
