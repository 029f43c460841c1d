package dev.loran.kernels.cuda;

import dev.loran.engine.backend.ActivationKernels;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.DropoutMask;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.Matrix;
import dev.loran.engine.backend.Scratch;
import dev.loran.engine.backend.UnaryFn;
import org.jspecify.annotations.Nullable;

/// Launches `bias.cu`: operations that follow a product (bias and activation with both gradients, bias and residual);
/// and `gated.cu`: y = f(gate) · up, with both gradients in one launch.
record ActivationCuda(Backend backend, CudaContext cuda) implements ActivationKernels {
    private static final int[] BLOCK = {32, 8};
    /// Bytes of a row that one thread handles.
    private static final int PACK = 16;

    private static final int[] NO_MASK = new int[5];

    @Override
    public void gated(UnaryFn fn, Buffer y, Buffer gate, Buffer up) {
        DType t = CudaContext.floating(y);
        cuda.launch(
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

    @Override
    public void gatedBackward(
            UnaryFn fn, @Nullable Gradient dGate, @Nullable Gradient dUp, Buffer dy, Buffer gate, Buffer up) {
        DType t = CudaContext.floating(dy);
        cuda.launch(
                "gated",
                "gated_backward" + Grid.suffix(t),
                Grid.flat(dy.size()),
                Grid.FLAT_BLOCK,
                cuda.optional(Gradient.memory(dGate), t),
                cuda.optional(Gradient.memory(dUp), t),
                cuda.address(dy),
                cuda.address(gate, t),
                cuda.address(up, t),
                dy.size(),
                UnaryCuda.code(fn),
                Gradient.accumulates(dGate) ? 1 : 0,
                Gradient.accumulates(dUp) ? 1 : 0);
    }

    @Override
    public void sumOfProducts(Gradient y, Buffer a, Buffer b, int outer, int n, int inner) {
        ReductionCuda.sumOfProducts(cuda, y, a, b, outer, n, inner);
    }

    @Override
    public void biasActivation(
            UnaryFn fn, Buffer h, Matrix z, @Nullable Buffer bias, @Nullable DropoutMask mask, double scaling) {
        DType t = CudaContext.floating(z.buffer());
        long[] arguments = {
            cuda.address(h, t),
            cuda.address(z.buffer()),
            cuda.optional(bias, t),
            step(mask),
            z.rows(),
            z.cols(),
            UnaryCuda.code(fn),
            scale(scaling, mask)
        };
        launch("activation", t, flat(z, t), Grid.FLAT_BLOCK, CudaKernels.words(arguments, words(mask)));
    }

    @Override
    public void biasActivationBackward(
            UnaryFn fn, Matrix dz, @Nullable Gradient dBias, Buffer z, @Nullable DropoutMask mask, double scaling) {
        DType t = CudaContext.floating(dz.buffer());
        int rows = dz.rows();
        int cols = dz.cols();
        int parts = ReductionCuda.parts(rows);
        int columns = BLOCK[0] * PACK / t.bytes();
        int[] grid = {(cols + columns - 1) / columns, parts};
        try (Scratch scratch = cuda.scratch()) {
            Buffer partial = dBias == null || parts == 1 ? null : scratch.allocate(DType.F32, (long) parts * cols);
            long[] arguments = {
                cuda.address(dz.buffer()),
                cuda.optional(Gradient.memory(dBias), t),
                cuda.optional(partial, DType.F32),
                cuda.address(z, t),
                step(mask),
                rows,
                cols,
                UnaryCuda.code(fn),
                scale(scaling, mask),
                Gradient.accumulates(dBias) ? 1 : 0
            };
            launch("activation_backward", t, grid, BLOCK, CudaKernels.words(arguments, words(mask)));
            if (dBias != null && partial != null) {
                ReductionCuda.sumOfParts(cuda, dBias, partial, parts, 1, cols);
            }
        }
    }

    @Override
    public void biasResidual(Matrix y, @Nullable Buffer bias, @Nullable Buffer residual, double scaling) {
        DType t = CudaContext.floating(y.buffer());
        long[] arguments = {
            cuda.address(y.buffer()),
            cuda.optional(bias, t),
            cuda.optional(residual, t),
            y.rows(),
            y.cols(),
            CudaKernels.bits(scaling)
        };
        launch("residual", t, flat(y, t), Grid.FLAT_BLOCK, arguments);
    }

    private void launch(String what, DType t, int[] grid, int[] block, long[] arguments) {
        cuda.launch("bias", "bias_" + what + Grid.suffix(t), grid, block, arguments);
    }

    /// Blocks for all packs of a matrix; the last pack of a row may be partial.
    private static int[] flat(Matrix z, DType t) {
        int pack = PACK / t.bytes();
        return Grid.flat((long) z.rows() * pack * ((z.cols() + pack - 1) / pack));
    }

    private long step(@Nullable DropoutMask mask) {
        return mask == null ? 0 : DropoutCuda.step(cuda, mask);
    }

    private static int[] words(@Nullable DropoutMask mask) {
        return mask == null ? NO_MASK : DropoutCuda.words(mask);
    }

    /// The factor for elements that the mask keeps.
    private static long scale(double scaling, @Nullable DropoutMask mask) {
        return CudaKernels.bits(mask == null ? scaling : scaling * mask.scale());
    }
}
