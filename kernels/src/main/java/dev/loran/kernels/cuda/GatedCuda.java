package dev.loran.kernels.cuda;

import dev.loran.engine.DType;
import dev.loran.engine.UnaryFn;

/// Launches `gated.cu`: y = f(gate) · up, and both gradients at once.
final class GatedCuda {
    private GatedCuda() {}

    static void forward(CudaDevice device, UnaryFn fn, DType type, long y, long gate, long up, long n) {
        int code = UnaryCuda.code(fn);
        device.launch("gated", "gated" + Grid.suffix(type), Grid.flat(n), Grid.FLAT_BLOCK, y, gate, up, n, code);
    }

    /// dGate or dUp may be 0.
    static void backward(
            CudaDevice device,
            UnaryFn fn,
            DType type,
            long dGate,
            long dUp,
            long dy,
            long gate,
            long up,
            long n,
            boolean accumulateGate,
            boolean accumulateUp) {
        device.launch(
                "gated",
                "gated_backward" + Grid.suffix(type),
                Grid.flat(n),
                Grid.FLAT_BLOCK,
                dGate,
                dUp,
                dy,
                gate,
                up,
                n,
                UnaryCuda.code(fn),
                accumulateGate ? 1 : 0,
                accumulateUp ? 1 : 0);
    }
}
