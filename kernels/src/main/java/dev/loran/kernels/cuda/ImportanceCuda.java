package dev.loran.kernels.cuda;

import dev.loran.engine.Buffer;
import dev.loran.engine.DType;
import org.jspecify.annotations.Nullable;

/// Launches `importance.cu`: AdaLoRA's smoothed importance.
final class ImportanceCuda {
    private ImportanceCuda() {}

    static void importance(
            CudaBackend cuda,
            Buffer smooth,
            Buffer spread,
            Buffer p,
            Buffer g,
            @Nullable Buffer gScale,
            double beta1,
            double beta2) {
        DType t = CudaBackend.floating(p);
        cuda.device()
                .launch(
                        "importance",
                        "importance" + Grid.suffix(t),
                        Grid.flat(p.size()),
                        Grid.FLAT_BLOCK,
                        cuda.address(smooth, t),
                        cuda.address(spread, t),
                        cuda.address(p),
                        cuda.address(g, t),
                        cuda.optional(gScale, t),
                        p.size(),
                        CudaKernels.bits(beta1),
                        CudaKernels.bits(beta2));
    }
}
