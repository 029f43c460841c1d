package dev.loran.kernels.cuda;

import dev.loran.engine.backend.BinaryFn;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;

/// Launches `binary.cu`: y = f(a, b) with broadcasting, and y = alpha · x + beta · y.
final class BinaryCuda {
    private BinaryCuda() {}

    static void binary(
            CudaContext cuda, BinaryFn fn, Buffer y, Buffer a, Buffer b, int[] shape, int[] aStrides, int[] bStrides) {
        DType t = CudaContext.floating(y);
        long n = y.size();
        long[] arguments = {cuda.address(y), cuda.address(a, t), cuda.address(b, t), n, code(fn)};
        Dims dims = Dims.of("binary", shape, aStrides, bStrides);
        if (dims.dense()) {
            cuda.launch("binary", "binary" + Grid.suffix(t), Grid.flat(n), Grid.FLAT_BLOCK, arguments);
        } else {
            long[] with = CudaKernels.words(arguments, dims.words());
            cuda.launch("binary", "binary_broadcast" + Grid.suffix(t), Grid.flat(n), Grid.FLAT_BLOCK, with);
        }
    }

    static void axpby(CudaContext cuda, Buffer y, Buffer x, double alpha, double beta) {
        DType t = CudaContext.floating(y);
        cuda.launch(
                "binary",
                "axpby" + Grid.suffix(t),
                Grid.flat(y.size()),
                Grid.FLAT_BLOCK,
                cuda.address(y),
                cuda.address(x, t),
                y.size(),
                CudaKernels.bits(alpha),
                CudaKernels.bits(beta));
    }

    /// The function's value in the enum of binary.cu.
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
