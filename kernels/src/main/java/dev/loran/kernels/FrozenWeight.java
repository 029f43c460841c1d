package dev.loran.kernels;

import dev.loran.kernels.GemmSimd.Matrix;
import java.lang.foreign.MemorySegment;
import java.util.function.LongFunction;
import org.jspecify.annotations.Nullable;

/// A frozen weight W (out, in), packed once for all the products with it: y = x · Wᵀ, and dx = dy · W, whose panels are
/// made when they are first asked for. A set of panels takes the memory of W itself, or a little more, and half of that
/// where W is rounded to BF16; the row-major copy may be given up, for [#unpack] brings back, bit for bit, what was packed.
///
/// All memory outside is native, row-major and F32; offsets are in bytes, leading dimensions in elements. Products of one
/// weight may run on several threads at once.
final class FrozenWeight {
    private final int out;
    private final int in;
    private final @Nullable Bf16Tiles tiles;
    private final LongFunction<MemorySegment> allocator;
    private final Panels forward;
    private volatile @Nullable Panels backward;

    /// Packs the row-major weight `w`.
    ///
    /// @param allocator gives 64-byte aligned native memory of so many bytes, which must live as long as this weight; it
    ///     is called here, and once more for the first [#backward]
    /// @param tiles what multiplies the weight rounded to BF16, and the other operand too; null for F32
    FrozenWeight(
            Parallel parallel,
            MemorySegment w,
            int out,
            int in,
            LongFunction<MemorySegment> allocator,
            @Nullable Bf16Tiles tiles) {
        GemmSimd.check("frozenWeight: w", w, 0, in, out, in);
        this.out = out;
        this.in = in;
        this.tiles = tiles;
        this.allocator = allocator;
        forward = Panels.of(tiles, allocator.apply(Panels.bytes(tiles, in, out)), 0, in, out)
                .pack(parallel, new Matrix(w, 0, in, true));
    }

    int out() {
        return out;
    }

    /// Wᵀ.
    Panels forward() {
        return forward;
    }

    /// W. The first call packs it; its memory is that of the caller's choice.
    synchronized Panels backward(Parallel parallel) {
        Panels panels = backward;
        if (panels == null) {
            panels = forward.transposed(parallel, allocator.apply(Panels.bytes(tiles, out, in)));
            backward = panels;
        }
        return panels;
    }

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
            float beta) {
        GemmSimd.check("linear: y", y, yOff, ldy, m, out);
        GemmSimd.check("linear: x", x, xOff, ldx, m, in);
        Matrix row = null;
        if (bias != null) {
            GemmSimd.check("linear: bias", bias, biasOff, out, 1, out);
            row = new Matrix(bias, biasOff, out, false);
        }
        forward.multiply(parallel, new Matrix(y, yOff, ldy, false), new Matrix(x, xOff, ldx, false), m, beta, row);
    }

    /// dx (m, in) ← dy (m, out) · W + beta · dx; with beta = 0, dx is not read.
    void linearBackward(
            Parallel parallel,
            MemorySegment dx,
            long dxOff,
            int ldDx,
            MemorySegment dy,
            long dyOff,
            int ldDy,
            int m,
            float beta) {
        GemmSimd.check("linearBackward: dx", dx, dxOff, ldDx, m, in);
        GemmSimd.check("linearBackward: dy", dy, dyOff, ldDy, m, out);
        Matrix to = new Matrix(dx, dxOff, ldDx, false);
        backward(parallel).multiply(parallel, to, new Matrix(dy, dyOff, ldDy, false), m, beta, null);
    }

    /// y (in) ← row `j` of W.
    void row(MemorySegment y, long yOff, int j) {
        Panels rows = backward;
        if (rows != null) {
            rows.row(y, yOff, j);
        } else {
            forward.column(y, yOff, j);
        }
    }

    /// w (out, in), row-major ← W.
    void unpack(Parallel parallel, MemorySegment w, long wOff, int ldw) {
        GemmSimd.check("unpack: w", w, wOff, ldw, out, in);
        forward.unpackTransposed(parallel, w, wOff, ldw);
    }
}
