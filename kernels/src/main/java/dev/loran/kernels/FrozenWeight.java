package dev.loran.kernels;

import dev.loran.kernels.GemmSimd.Matrix;
import java.lang.foreign.MemorySegment;
import org.jspecify.annotations.Nullable;

/// A frozen weight W (out, in), packed once for all the products with it. All memory outside is native, row-major and F32;
/// offsets are in bytes, leading dimensions in elements. Products of one weight may run on several threads at once.
sealed interface FrozenWeight permits PackedWeight, PackedBf16 {
    int out();

    /// y (m, out) ← x (m, in) · Wᵀ + bias + beta · y; with beta = 0, y is not read.
    ///
    /// @param bias `out` elements from `biasOff` on, or null
    void linear(
            Parallel parallel,
            MemorySegment y,
            long yOff,
            int ldy,
            MemorySegment x,
            long xOff,
            int ldx,
            @Nullable MemorySegment bias,
            long biasOff,
            int m,
            float beta);

    /// dx (m, in) ← dy (m, out) · W + beta · dx; with beta = 0, dx is not read. The first call packs W once more.
    void linearBackward(
            Parallel parallel,
            MemorySegment dx,
            long dxOff,
            int ldDx,
            MemorySegment dy,
            long dyOff,
            int ldDy,
            int m,
            float beta);

    /// y (in) ← row `j` of W.
    void row(MemorySegment y, long yOff, int j);

    /// w (out, in), row-major ← W.
    void unpack(Parallel parallel, MemorySegment w, long wOff, int ldw);

    static @Nullable Matrix bias(@Nullable MemorySegment bias, long biasOff, int out) {
        if (bias == null) {
            return null;
        }
        GemmSimd.check("linear: bias", bias, biasOff, out, 1, out);
        return new Matrix(bias, biasOff, out, false);
    }
}
