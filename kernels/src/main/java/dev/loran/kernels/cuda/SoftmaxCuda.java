package dev.loran.kernels.cuda;

import dev.loran.engine.DType;

/// Launches `softmax.cu`: softmax of each row.
final class SoftmaxCuda {
    private SoftmaxCuda() {}

    static void forward(CudaDevice device, DType type, long y, long x, int rows, int cols) {
        device.launch("softmax", "softmax" + Grid.suffix(type), new int[] {rows}, Grid.row(cols), y, x, cols);
    }

    static void backward(
            CudaDevice device, DType type, long dx, long dy, long y, int rows, int cols, boolean accumulate) {
        device.launch(
                "softmax",
                "softmax_backward" + Grid.suffix(type),
                new int[] {rows},
                Grid.row(cols),
                dx,
                dy,
                y,
                cols,
                accumulate ? 1 : 0);
    }
}
