package dev.loran.kernels.cuda;

import dev.loran.engine.backend.AttentionKernels.RopeTables;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;

/// Launches `rope.cu`: rotary position embedding; sign −1 is its gradient.
final class RopeCuda {
    private RopeCuda() {}

    static void forward(CudaContext cuda, Buffer y, Buffer x, RopeTables tables, int batch, int heads, int sign) {
        int t = tables.t();
        int d = tables.d();
        DType type = CudaContext.floating(y);
        long rows = (long) batch * t * heads;
        cuda.launch(
                "rope",
                "rope" + Grid.suffix(type),
                Grid.flat(rows * (d / 2)),
                Grid.FLAT_BLOCK,
                cuda.address(y),
                cuda.address(x, type),
                cuda.address(tables.cos(), type),
                cuda.address(tables.sin(), type),
                rows,
                t,
                heads,
                d / 2,
                sign);
    }
}
