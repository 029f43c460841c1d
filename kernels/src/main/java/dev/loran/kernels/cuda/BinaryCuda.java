package dev.loran.kernels.cuda;

import dev.loran.engine.BinaryFn;
import dev.loran.engine.DType;

/// Launches `binary.cu`: y = f(a, b) with broadcasting, and y = alpha · x + beta · y.
final class BinaryCuda {
    private BinaryCuda() {}

    static void binary(
            CudaDevice device,
            BinaryFn fn,
            DType type,
            long y,
            long a,
            long b,
            long n,
            int[] shape,
            int[] aStrides,
            int[] bStrides) {
        Dims dims = Dims.of("binary", shape, aStrides, bStrides);
        if (dims.dense()) {
            device.launch("binary", "binary" + Grid.suffix(type), Grid.flat(n), Grid.FLAT_BLOCK, y, a, b, n, code(fn));
        } else {
            device.launch(
                    "binary",
                    "binary_broadcast" + Grid.suffix(type),
                    Grid.flat(n),
                    Grid.FLAT_BLOCK,
                    CudaDevice.words(new long[] {y, a, b, n, code(fn)}, dims.words()));
        }
    }

    static void axpby(CudaDevice device, DType type, long y, long x, long n, double alpha, double beta) {
        device.launch(
                "binary",
                "axpby" + Grid.suffix(type),
                Grid.flat(n),
                Grid.FLAT_BLOCK,
                y,
                x,
                n,
                CudaDevice.bits(alpha),
                CudaDevice.bits(beta));
    }

    /// The function's place in the enum of binary.cu.
    private static int code(BinaryFn fn) {
        return switch (fn) {
            case ADD -> 0;
            case SUB -> 1;
            case MUL -> 2;
            case DIV -> 3;
            case MAX -> 4;
        };
    }
}
