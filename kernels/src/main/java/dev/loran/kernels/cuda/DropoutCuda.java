package dev.loran.kernels.cuda;

import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.DropoutMask;

/// Launches `dropout.cu`: y = x / (1 − p) where kept, with [DropoutMask]'s bits.
final class DropoutCuda {
    private DropoutCuda() {}

    static void forward(
            CudaContext cuda, Buffer y, Buffer x, int rows, int cols, DropoutMask mask, boolean accumulate) {
        DType t = CudaContext.floating(y);
        long[] arguments = {cuda.address(y), cuda.address(x, t), step(cuda, mask), rows, cols, accumulate ? 1 : 0};
        cuda.launch(
                "dropout",
                "dropout" + Grid.suffix(t),
                Grid.flat((long) rows * cols),
                Grid.FLAT_BLOCK,
                CudaKernels.words(arguments, words(mask)));
    }

    /// The address of the mask's micro-step.
    static long step(CudaContext cuda, DropoutMask mask) {
        return cuda.address(mask.microStep(), DType.I32);
    }

    /// `Mask` of philox.cuh.
    static int[] words(DropoutMask mask) {
        return new int[] {
            (int) mask.seed(),
            (int) (mask.seed() >>> 32),
            mask.site(),
            mask.threshold(),
            Float.floatToRawIntBits((float) mask.scale())
        };
    }
}
