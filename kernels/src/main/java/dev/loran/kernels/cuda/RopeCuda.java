package dev.loran.kernels.cuda;

import dev.loran.engine.DType;

/// Launches `rope.cu`: rotary position embedding; sign −1 is its gradient.
final class RopeCuda {
    private RopeCuda() {}

    static void forward(
            CudaDevice device,
            DType type,
            long y,
            long x,
            long cos,
            long sin,
            int batch,
            int t,
            int heads,
            int d,
            int sign) {
        long rows = (long) batch * t * heads;
        device.launch(
                "rope",
                "rope" + Grid.suffix(type),
                Grid.flat(rows * (d / 2)),
                Grid.FLAT_BLOCK,
                y,
                x,
                cos,
                sin,
                rows,
                t,
                heads,
                d / 2,
                sign);
    }
}
