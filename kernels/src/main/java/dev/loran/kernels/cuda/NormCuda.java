package dev.loran.kernels.cuda;

import dev.loran.engine.DType;

/// Launches `norm.cu`: layer norm, and RMS norm as the case without a mean (0) and a bias (0).
final class NormCuda {
    private static final int[] COLUMNS_BLOCK = {32, 8};

    private NormCuda() {}

    /// With a `residual` of what x + residual is, the output `sum`; both 0 without.
    static void forward(
            CudaDevice device,
            DType type,
            long y,
            long sum,
            long mean,
            long rstd,
            long x,
            long residual,
            long weight,
            long bias,
            int rows,
            int cols,
            double eps) {
        device.launch(
                "norm",
                "norm" + Grid.suffix(type),
                new int[] {rows},
                Grid.row(cols),
                y,
                sum,
                mean,
                rstd,
                x,
                residual,
                weight,
                bias,
                cols,
                CudaDevice.bits(eps));
    }

    static void backward(
            CudaDevice device,
            DType type,
            long dx,
            long dy,
            long x,
            long mean,
            long rstd,
            long weight,
            int rows,
            int cols,
            boolean accumulate) {
        device.launch(
                "norm",
                "norm_backward" + Grid.suffix(type),
                new int[] {rows},
                Grid.row(cols),
                dx,
                dy,
                x,
                mean,
                rstd,
                weight,
                cols,
                accumulate ? 1 : 0);
    }

    /// `partial` has room for `ReductionCuda.parts(rows)` · cols floats.
    static void backwardWeight(
            CudaDevice device,
            DType type,
            long dWeight,
            long partial,
            long dy,
            long x,
            long mean,
            long rstd,
            int rows,
            int cols,
            boolean accumulate) {
        int parts = ReductionCuda.parts(rows);
        int[] grid = {(cols + COLUMNS_BLOCK[0] - 1) / COLUMNS_BLOCK[0], parts};
        device.launch(
                "norm",
                "norm_backward_weight" + Grid.suffix(type),
                grid,
                COLUMNS_BLOCK,
                partial,
                dy,
                x,
                mean,
                rstd,
                rows,
                cols);
        ReductionCuda.sumOfParts(device, type, dWeight, partial, parts, 1, cols, accumulate);
    }
}
