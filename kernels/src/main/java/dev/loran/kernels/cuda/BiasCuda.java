package dev.loran.kernels.cuda;

import dev.loran.engine.Buffer;
import dev.loran.engine.DType;
import dev.loran.engine.DropoutMask;
import dev.loran.engine.Scratch;
import dev.loran.engine.UnaryFn;
import org.jspecify.annotations.Nullable;

/// Launches `bias.cu`: what follows a product, bias and activation with both gradients, bias and residual.
final class BiasCuda {
    private static final int[] BLOCK = {32, 8};
    /// Bytes of a row that a thread has.
    private static final int PACK = 16;

    private static final int[] NO_MASK = new int[5];

    private BiasCuda() {}

    static void activation(
            CudaBackend cuda,
            UnaryFn fn,
            Buffer h,
            Buffer z,
            @Nullable Buffer bias,
            @Nullable DropoutMask mask,
            int rows,
            int cols,
            double scaling) {
        DType t = CudaBackend.floating(z);
        long[] arguments = {
            cuda.address(h, t),
            cuda.address(z),
            cuda.optional(bias, t),
            step(cuda, mask),
            rows,
            cols,
            UnaryCuda.code(fn),
            scale(scaling, mask)
        };
        launch(cuda, "activation", t, flat(rows, cols, t), Grid.FLAT_BLOCK, CudaKernels.words(arguments, words(mask)));
    }

    static void activationBackward(
            CudaBackend cuda,
            UnaryFn fn,
            Buffer dz,
            @Nullable Buffer dBias,
            Buffer z,
            @Nullable DropoutMask mask,
            int rows,
            int cols,
            double scaling,
            boolean accumulateBias) {
        DType t = CudaBackend.floating(dz);
        int parts = ReductionCuda.parts(rows);
        int columns = BLOCK[0] * PACK / t.bytes();
        int[] grid = {(cols + columns - 1) / columns, parts};
        try (Scratch scratch = new Scratch(cuda)) {
            Buffer partial = dBias == null || parts == 1 ? null : scratch.allocate(DType.F32, (long) parts * cols);
            long[] arguments = {
                cuda.address(dz),
                cuda.optional(dBias, t),
                cuda.optional(partial, DType.F32),
                cuda.address(z, t),
                step(cuda, mask),
                rows,
                cols,
                UnaryCuda.code(fn),
                scale(scaling, mask),
                accumulateBias ? 1 : 0
            };
            launch(cuda, "activation_backward", t, grid, BLOCK, CudaKernels.words(arguments, words(mask)));
            if (dBias != null && partial != null) {
                ReductionCuda.sumOfParts(cuda, dBias, partial, parts, 1, cols, accumulateBias);
            }
        }
    }

    static void residual(
            CudaBackend cuda,
            Buffer y,
            @Nullable Buffer bias,
            @Nullable Buffer residual,
            int rows,
            int cols,
            double scaling) {
        DType t = CudaBackend.floating(y);
        long[] arguments = {
            cuda.address(y), cuda.optional(bias, t), cuda.optional(residual, t), rows, cols, CudaKernels.bits(scaling)
        };
        launch(cuda, "residual", t, flat(rows, cols, t), Grid.FLAT_BLOCK, arguments);
    }

    private static void launch(CudaBackend cuda, String what, DType t, int[] grid, int[] block, long[] arguments) {
        cuda.device().launch("bias", "bias_" + what + Grid.suffix(t), grid, block, arguments);
    }

    /// Blocks for all packs of a matrix, the last of a row perhaps not full.
    private static int[] flat(int rows, int cols, DType t) {
        int pack = PACK / t.bytes();
        return Grid.flat((long) rows * pack * ((cols + pack - 1) / pack));
    }

    private static long step(CudaBackend cuda, @Nullable DropoutMask mask) {
        return mask == null ? 0 : DropoutCuda.step(cuda, mask);
    }

    private static int[] words(@Nullable DropoutMask mask) {
        return mask == null ? NO_MASK : DropoutCuda.words(mask);
    }

    /// The factor of what the mask keeps.
    private static long scale(double scaling, @Nullable DropoutMask mask) {
        return CudaKernels.bits(mask == null ? scaling : scaling * mask.scale());
    }
}
