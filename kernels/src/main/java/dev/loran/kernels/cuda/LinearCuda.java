package dev.loran.kernels.cuda;

import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.DropoutMask;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.LinearKernels;
import dev.loran.engine.backend.Matrix;
import dev.loran.engine.backend.Scratch;
import org.jspecify.annotations.Nullable;

/// Launches `loralinear.cu`: the low-rank part of a LoRA layer with dropout, where the mask is computed on the fly.
/// Everything else is done by cuBLAS products.
record LinearCuda(Backend backend, CudaContext cuda) implements LinearKernels {
    /// Larger ranks use the composed implementation.
    private static final int MAX_RANK = 64;

    private static final int TILE = 32;
    private static final int[] BLOCK = {256};

    @Override
    public void loraLinear(Matrix y, Matrix x, Matrix w, @Nullable Buffer bias, LowRankUpdate update) {
        DropoutMask mask = update.mask();
        if (mask == null || update.rank() > MAX_RANK) {
            LinearKernels.super.loraLinear(y, x, w, bias, update);
            return;
        }
        DType type = CudaContext.floating(y.buffer());
        long[] arguments = {
            cuda.address(update.t().buffer(), type),
            cuda.address(x.buffer(), type),
            cuda.address(update.a().buffer(), type),
            DropoutCuda.step(cuda, mask),
            x.rows(),
            x.cols(),
            update.rank()
        };
        launch("lora_down", type, new int[] {(x.rows() + TILE - 1) / TILE}, mask, arguments);
        linear(y, x, w, bias);
        backend.gemm(y, update.t(), update.b().t(), update.scaling(), 1);
    }

    @Override
    public void loraLinearBackward(
            @Nullable Gradient dx,
            @Nullable Gradient da,
            @Nullable Gradient db,
            Matrix dy,
            Matrix x,
            Matrix w,
            LowRankUpdate update) {
        DropoutMask mask = update.mask();
        if (mask == null || update.rank() > MAX_RANK) {
            LinearKernels.super.loraLinearBackward(dx, da, db, dy, x, w, update);
            return;
        }
        if (db != null) {
            backend.gemm(update.b().in(db.buffer()), dy.t(), update.t(), update.scaling(), db.beta());
        }
        if (dx == null && da == null) {
            return;
        }
        DType type = CudaContext.floating(dy.buffer());
        try (Scratch scratch = cuda.scratch()) {
            Matrix dt = update.t().in(scratch.allocate(type, update.t().size()));
            backend.gemm(dt, dy, update.b(), update.scaling(), 0);
            if (da != null) {
                backwardA(da, dt, x, mask);
            }
            if (dx != null) {
                linearBackwardInput(dx, dy, w);
                int[] grid = {(x.cols() + TILE - 1) / TILE, (x.rows() + TILE - 1) / TILE};
                long[] arguments = {
                    cuda.address(dx.buffer(), type),
                    cuda.address(dt.buffer()),
                    cuda.address(update.a().buffer(), type),
                    DropoutCuda.step(cuda, mask),
                    x.rows(),
                    x.cols(),
                    update.rank()
                };
                launch("lora_backward_x", type, grid, mask, arguments);
            }
        }
    }

    /// da (r, in) ← dtᵀ · dropout(x), split over parts of the rows.
    private void backwardA(Gradient da, Matrix dt, Matrix x, DropoutMask mask) {
        DType type = dt.buffer().dtype();
        int in = x.cols();
        int r = dt.cols();
        int parts = ReductionCuda.parts(x.rows());
        try (Scratch scratch = cuda.scratch()) {
            Buffer partial = scratch.allocate(DType.F32, (long) parts * r * in);
            long[] arguments = {
                cuda.address(partial),
                cuda.address(dt.buffer()),
                cuda.address(x.buffer(), type),
                DropoutCuda.step(cuda, mask),
                x.rows(),
                in,
                r
            };
            launch("lora_backward_a", type, new int[] {(in + TILE - 1) / TILE, parts}, mask, arguments);
            ReductionCuda.sumOfParts(cuda, da, partial, parts, 1, r * in);
        }
    }

    private void launch(String kernel, DType type, int[] grid, DropoutMask mask, long[] arguments) {
        long[] all = CudaKernels.words(arguments, DropoutCuda.words(mask));
        cuda.launch("loralinear", kernel + Grid.suffix(type), grid, BLOCK, all);
    }
}
