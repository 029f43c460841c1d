package dev.loran.kernels.cuda;

import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.Matrix;

/// Launches `softmax.cu`: softmax of each row.
final class SoftmaxCuda {
    private SoftmaxCuda() {}

    static void forward(CudaContext cuda, Buffer y, Buffer x, int rows, int cols) {
        DType t = CudaContext.floating(y);
        cuda.launch(
                "softmax",
                "softmax" + Grid.suffix(t),
                new int[] {rows},
                Grid.row(cols),
                cuda.address(y),
                cuda.address(x, t),
                cols);
    }

    static void backward(CudaContext cuda, Gradient dx, Buffer dy, Matrix y) {
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
}
