package dev.loran.kernels.cuda;

import dev.loran.engine.Buffer;
import dev.loran.engine.DType;

/// Launches `softmax.cu`: softmax of each row.
final class SoftmaxCuda {
    private SoftmaxCuda() {}

    static void forward(CudaBackend cuda, Buffer y, Buffer x, int rows, int cols) {
        DType t = CudaBackend.floating(y);
        cuda.device()
                .launch(
                        "softmax",
                        "softmax" + Grid.suffix(t),
                        new int[] {rows},
                        Grid.row(cols),
                        cuda.address(y),
                        cuda.address(x, t),
                        cols);
    }

    static void backward(CudaBackend cuda, Buffer dx, Buffer dy, Buffer y, int rows, int cols, boolean accumulate) {
        DType t = CudaBackend.floating(dx);
        cuda.device()
                .launch(
                        "softmax",
                        "softmax_backward" + Grid.suffix(t),
                        new int[] {rows},
                        Grid.row(cols),
                        cuda.address(dx),
                        cuda.address(dy, t),
                        cuda.address(y, t),
                        cols,
                        accumulate ? 1 : 0);
    }
}
