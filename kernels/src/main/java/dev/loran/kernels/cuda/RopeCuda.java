package dev.loran.kernels.cuda;

import dev.loran.engine.Buffer;
import dev.loran.engine.DType;

/// Launches `rope.cu`: rotary position embedding; sign −1 is its gradient.
final class RopeCuda {
    private RopeCuda() {}

    static void forward(
            CudaBackend cuda,
            Buffer y,
            Buffer x,
            Buffer cos,
            Buffer sin,
            int batch,
            int t,
            int heads,
            int d,
            int sign) {
        DType type = CudaBackend.floating(y);
        long rows = (long) batch * t * heads;
        cuda.device()
                .launch(
                        "rope",
                        "rope" + Grid.suffix(type),
                        Grid.flat(rows * (d / 2)),
                        Grid.FLAT_BLOCK,
                        cuda.address(y),
                        cuda.address(x, type),
                        cuda.address(cos, type),
                        cuda.address(sin, type),
                        rows,
                        t,
                        heads,
                        d / 2,
                        sign);
    }
}
