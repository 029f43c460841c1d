package dev.loran.kernels.cuda;

import dev.loran.engine.DType;

/// Launches `importance.cu`: AdaLoRA's smoothed importance.
final class ImportanceCuda {
    private ImportanceCuda() {}

    static void importance(
            CudaDevice device,
            DType type,
            long smooth,
            long spread,
            long p,
            long g,
            long gScale,
            long n,
            double beta1,
            double beta2) {
        device.launch(
                "importance",
                "importance" + Grid.suffix(type),
                Grid.flat(n),
                Grid.FLAT_BLOCK,
                smooth,
                spread,
                p,
                g,
                gScale,
                n,
                CudaDevice.bits(beta1),
                CudaDevice.bits(beta2));
    }
}
