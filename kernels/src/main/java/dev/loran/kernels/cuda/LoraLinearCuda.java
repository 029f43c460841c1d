package dev.loran.kernels.cuda;

import dev.loran.engine.DType;
import dev.loran.engine.DropoutMask;

/// Launches `loralinear.cu`: the low-rank half of a LoRA layer under dropout, the mask made where it is needed.
final class LoraLinearCuda {
    /// Larger ranks are left to the composed form.
    static final int MAX_RANK = 64;

    private static final int TILE = 32;
    private static final int[] BLOCK = {256};

    private LoraLinearCuda() {}

    /// t (n, r) ← dropout(x) · aᵀ.
    static void down(
            CudaDevice device, DType type, long t, long x, long a, long step, int n, int in, int r, DropoutMask mask) {
        int[] grid = {(n + TILE - 1) / TILE};
        long[] arguments = CudaDevice.words(new long[] {t, x, a, step, n, in, r}, DropoutCuda.words(mask));
        device.launch("loralinear", "lora_down" + Grid.suffix(type), grid, BLOCK, arguments);
    }

    /// da (r, in) ← dtᵀ · dropout(x) (or +=); `partial` has room for `ReductionCuda.parts(n)` · r · in floats.
    static void backwardA(
            CudaDevice device,
            DType type,
            long da,
            long partial,
            long dt,
            long x,
            long step,
            int n,
            int in,
            int r,
            DropoutMask mask,
            boolean accumulate) {
        int parts = ReductionCuda.parts(n);
        int[] grid = {(in + TILE - 1) / TILE, parts};
        long[] arguments = CudaDevice.words(new long[] {partial, dt, x, step, n, in, r}, DropoutCuda.words(mask));
        device.launch("loralinear", "lora_backward_a" + Grid.suffix(type), grid, BLOCK, arguments);
        ReductionCuda.sumOfParts(device, type, da, partial, parts, 1, r * in, accumulate);
    }

    /// dx (n, in) += dropout′(dt · a).
    static void backwardX(
            CudaDevice device,
            DType type,
            long dx,
            long dt,
            long a,
            long step,
            int n,
            int in,
            int r,
            DropoutMask mask) {
        int[] grid = {(in + TILE - 1) / TILE, (n + TILE - 1) / TILE};
        long[] arguments = CudaDevice.words(new long[] {dx, dt, a, step, n, in, r}, DropoutCuda.words(mask));
        device.launch("loralinear", "lora_backward_x" + Grid.suffix(type), grid, BLOCK, arguments);
    }
}
