package dev.loran.kernels.cuda;

import dev.loran.engine.DType;
import dev.loran.engine.DropoutMask;

/// Launches `dropout.cu`: y = x / (1 − p) where kept, with [DropoutMask]'s bits.
final class DropoutCuda {
    private DropoutCuda() {}

    static void forward(
            CudaDevice device,
            DType type,
            long y,
            long x,
            long step,
            int rows,
            int cols,
            boolean accumulate,
            DropoutMask mask) {
        device.launch(
                "dropout",
                "dropout" + Grid.suffix(type),
                Grid.flat((long) rows * cols),
                Grid.FLAT_BLOCK,
                CudaDevice.words(new long[] {y, x, step, rows, cols, accumulate ? 1 : 0}, words(mask)));
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
