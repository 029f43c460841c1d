package dev.loran.kernels.cuda;

import dev.loran.engine.DType;
import dev.loran.engine.UnaryFn;

/// Launches `unary.cu`: y = f(x) and dx = dy · f′(x).
final class UnaryCuda {
    private UnaryCuda() {}

    static void forward(CudaDevice device, UnaryFn fn, DType type, long y, long x, long n) {
        device.launch("unary", "unary" + Grid.suffix(type), Grid.flat(n), Grid.FLAT_BLOCK, y, x, n, code(fn));
    }

    static void backward(
            CudaDevice device, UnaryFn fn, DType type, long dx, long dy, long x, long n, boolean accumulate) {
        device.launch(
                "unary",
                "unary_backward" + Grid.suffix(type),
                Grid.flat(n),
                Grid.FLAT_BLOCK,
                dx,
                dy,
                x,
                n,
                code(fn),
                accumulate ? 1 : 0);
    }

    /// The function's place in the enum of functions.cuh.
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
