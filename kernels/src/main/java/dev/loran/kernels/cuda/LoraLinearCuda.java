package dev.loran.kernels.cuda;

import dev.loran.engine.Buffer;
import dev.loran.engine.DType;
import dev.loran.engine.DropoutMask;
import dev.loran.engine.Scratch;
import org.jspecify.annotations.Nullable;

/// Launches `loralinear.cu`: the low-rank half of a LoRA layer under dropout, the mask made where it is needed.
final class LoraLinearCuda {
    /// Larger ranks are left to the composed form.
    static final int MAX_RANK = 64;

    private static final int TILE = 32;
    private static final int[] BLOCK = {256};

    private LoraLinearCuda() {}

    static void forward(
            CudaBackend cuda,
            Buffer y,
            Buffer t,
            Buffer x,
            Buffer w,
            @Nullable Buffer bias,
            Buffer a,
            Buffer b,
            DropoutMask mask,
            int n,
            int in,
            int out,
            int r,
            double scaling) {
        DType type = CudaBackend.floating(y);
        long[] arguments = {
            cuda.address(t, type), cuda.address(x, type), cuda.address(a, type), DropoutCuda.step(cuda, mask), n, in, r
        };
        launch(cuda, "lora_down", type, new int[] {(n + TILE - 1) / TILE}, mask, arguments);
        cuda.linear(y, x, w, bias, n, in, out);
        cuda.gemm(y, out, 0, t, r, 0, false, b, r, 0, true, 1, n, out, r, scaling, 1);
    }

    static void backward(
            CudaBackend cuda,
            @Nullable Buffer dx,
            @Nullable Buffer da,
            @Nullable Buffer db,
            Buffer dy,
            Buffer x,
            Buffer t,
            Buffer w,
            Buffer a,
            Buffer b,
            DropoutMask mask,
            int n,
            int in,
            int out,
            int r,
            double scaling,
            boolean accumulateX,
            boolean accumulateA,
            boolean accumulateB) {
        if (db != null) {
            cuda.gemm(db, r, 0, dy, out, 0, true, t, r, 0, false, 1, out, r, n, scaling, accumulateB ? 1 : 0);
        }
        if (dx == null && da == null) {
            return;
        }
        DType type = CudaBackend.floating(dy);
        try (Scratch scratch = new Scratch(cuda)) {
            Buffer dt = scratch.allocate(type, (long) n * r);
            cuda.gemm(dt, r, 0, dy, out, 0, false, b, r, 0, false, 1, n, r, out, scaling, 0);
            if (da != null) {
                backwardA(cuda, da, dt, x, mask, n, in, r, accumulateA);
            }
            if (dx != null) {
                cuda.linearBackwardInput(dx, dy, w, n, in, out, accumulateX);
                int[] grid = {(in + TILE - 1) / TILE, (n + TILE - 1) / TILE};
                long[] arguments = {
                    cuda.address(dx, type),
                    cuda.address(dt),
                    cuda.address(a, type),
                    DropoutCuda.step(cuda, mask),
                    n,
                    in,
                    r
                };
                launch(cuda, "lora_backward_x", type, grid, mask, arguments);
            }
        }
    }

    /// da (r, in) ← dtᵀ · dropout(x) (or +=), in parts of the rows.
    private static void backwardA(
            CudaBackend cuda,
            Buffer da,
            Buffer dt,
            Buffer x,
            DropoutMask mask,
            int n,
            int in,
            int r,
            boolean accumulate) {
        DType type = dt.dtype();
        int parts = ReductionCuda.parts(n);
        try (Scratch scratch = new Scratch(cuda)) {
            Buffer partial = scratch.allocate(DType.F32, (long) parts * r * in);
            long[] arguments = {
                cuda.address(partial), cuda.address(dt), cuda.address(x, type), DropoutCuda.step(cuda, mask), n, in, r
            };
            launch(cuda, "lora_backward_a", type, new int[] {(in + TILE - 1) / TILE, parts}, mask, arguments);
            ReductionCuda.sumOfParts(cuda, da, partial, parts, 1, r * in, accumulate);
        }
    }

    private static void launch(
            CudaBackend cuda, String kernel, DType type, int[] grid, DropoutMask mask, long[] arguments) {
        long[] all = CudaKernels.words(arguments, DropoutCuda.words(mask));
        cuda.device().launch("loralinear", kernel + Grid.suffix(type), grid, BLOCK, all);
    }
}
