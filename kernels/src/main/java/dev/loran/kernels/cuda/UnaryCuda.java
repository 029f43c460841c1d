package dev.loran.kernels.cuda;

import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.UnaryFn;

/// Launches `unary.cu`: y = f(x) and dx = dy · f′(x).
final class UnaryCuda {
    private UnaryCuda() {}

    static void forward(CudaContext cuda, UnaryFn fn, Buffer y, Buffer x) {
        DType t = CudaContext.floating(y);
        cuda.launch(
                "unary",
                "unary" + Grid.suffix(t),
                Grid.flat(y.size()),
                Grid.FLAT_BLOCK,
                cuda.address(y),
                cuda.address(x, t),
                y.size(),
                code(fn));
    }

    static void backward(CudaContext cuda, UnaryFn fn, Buffer dx, Buffer dy, Buffer x, boolean accumulate) {
        DType t = CudaContext.floating(dx);
        cuda.launch(
                "unary",
                "unary_backward" + Grid.suffix(t),
                Grid.flat(dx.size()),
                Grid.FLAT_BLOCK,
                cuda.address(dx),
                cuda.address(dy, t),
                cuda.address(x, t),
                dx.size(),
                code(fn),
                accumulate ? 1 : 0);
    }

    /// The function's value in the enum of functions.cuh.
    static int code(UnaryFn fn) {
        return switch (fn) {
            case NEG -> 0;
            case ABS -> 1;
            case EXP -> 2;
            case LOG -> 3;
            case SQRT -> 4;
            case RSQRT -> 5;
            case RECIPROCAL -> 6;
            case SQUARE -> 7;
            case RELU -> 8;
            case GELU -> 9;
            case GELU_TANH -> 10;
            case SILU -> 11;
            case TANH -> 12;
            case SIGMOID -> 13;
        };
    }
}
