package dev.loran.kernels.cuda;

import dev.loran.engine.Buffer;
import dev.loran.engine.DType;
import dev.loran.engine.UnaryFn;
import org.jspecify.annotations.Nullable;

/// Launches `gated.cu`: y = f(gate) · up, and both gradients at once.
final class GatedCuda {
    private GatedCuda() {}

    static void forward(CudaBackend cuda, UnaryFn fn, Buffer y, Buffer gate, Buffer up) {
        DType t = CudaBackend.floating(y);
        cuda.device()
                .launch(
                        "gated",
                        "gated" + Grid.suffix(t),
                        Grid.flat(y.size()),
                        Grid.FLAT_BLOCK,
                        cuda.address(y),
                        cuda.address(gate, t),
                        cuda.address(up, t),
                        y.size(),
                        UnaryCuda.code(fn));
    }

    static void backward(
            CudaBackend cuda,
            UnaryFn fn,
            @Nullable Buffer dGate,
            @Nullable Buffer dUp,
            Buffer dy,
            Buffer gate,
            Buffer up,
            boolean accumulateGate,
            boolean accumulateUp) {
        DType t = CudaBackend.floating(dy);
        cuda.device()
                .launch(
                        "gated",
                        "gated_backward" + Grid.suffix(t),
                        Grid.flat(dy.size()),
                        Grid.FLAT_BLOCK,
                        cuda.optional(dGate, t),
                        cuda.optional(dUp, t),
                        cuda.address(dy),
                        cuda.address(gate, t),
                        cuda.address(up, t),
                        dy.size(),
                        UnaryCuda.code(fn),
                        accumulateGate ? 1 : 0,
                        accumulateUp ? 1 : 0);
    }
}
