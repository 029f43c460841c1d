package dev.loran.kernels;

import dev.loran.kernels.GemmSimd.Matrix;
import java.lang.foreign.MemorySegment;
import java.util.function.LongFunction;
import org.jspecify.annotations.Nullable;

/// A frozen weight W (out, in), packed once for all the products with it: y = x · Wᵀ, and dx = dy · W, whose panels are
/// made when they are first asked for. Each set takes the memory of W itself, or a little more; the row-major copy may
/// be given up, for [#unpack] brings it back bit for bit.
final class PackedWeight implements FrozenWeight {
    private final int out;
    private final int in;
    private final LongFunction<MemorySegment> allocator;
    private final GemmPanels forward;
    private volatile @Nullable GemmPanels backward;

    /// Packs the row-major weight `w`.
    ///
    /// @param allocator gives 64-byte aligned native memory of so many bytes, which must live as long as this weight; it
    ///     is called here, and once more for the first [#linearBackward]
    PackedWeight(
            Parallel parallel,
            MemorySegment w,
            long wOff,
            int ldw,
            int out,
            int in,
            LongFunction<MemorySegment> allocator) {
        GemmSimd.check("packedWeight: w", w, wOff, ldw, out, in);
        this.out = out;
        this.in = in;
        this.allocator = allocator;
        forward = panels(in, out).pack(parallel, new Matrix(w, wOff, ldw, true));
    }

    private GemmPanels panels(int k, int n) {
        return GemmPanels.packed(allocator.apply(4 * GemmPanels.floats(k, n)), 0, k, n);
    }

    @Override
    public void linear(
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
        Matrix row = FrozenWeight.bias(bias, biasOff, out);
        GemmSimd.multiply(
                parallel, new Matrix(y, yOff, ldy, false), new Matrix(x, xOff, ldx, false), forward, m, 1f, beta, row);
    }

    @Override
    public void linearBackward(
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
        GemmSimd.multiply(
                parallel,
                new Matrix(dx, dxOff, ldDx, false),
                new Matrix(dy, dyOff, ldDy, false),
                backward(parallel),
                m,
                1f,
                beta,
                null);
    }

    private synchronized GemmPanels backward(Parallel parallel) {
        GemmPanels panels = backward;
        if (panels == null) {
            panels = panels(out, in);
            panels.packTransposed(parallel, forward);
            backward = panels;
        }
        return panels;
    }

    @Override
    public int out() {
        return out;
    }

    @Override
    public void row(MemorySegment y, long yOff, int j) {
        GemmPanels rows = backward;
        if (rows != null) {
            rows.unpackRow(y, yOff, j);
        } else {
            forward.unpackColumn(y, yOff, j);
        }
    }

    @Override
    public void unpack(Parallel parallel, MemorySegment w, long wOff, int ldw) {
        GemmSimd.check("unpack: w", w, wOff, ldw, out, in);
        forward.unpackTransposed(parallel, w, wOff, ldw);
    }
}
