package dev.loran.kernels;

import dev.loran.kernels.GemmSimd.Matrix;
import java.lang.foreign.MemorySegment;
import java.util.function.LongFunction;
import org.jspecify.annotations.Nullable;

/// A frozen weight W (out, in), rounded to BF16 and packed once for y = x · Wᵀ and once for dx = dy · W: both sets together
/// take the memory of W in F32. Products round the other operand too and sum in F32.
final class PackedBf16 implements FrozenWeight {
    private final int out;
    private final int in;
    private final LongFunction<MemorySegment> allocator;
    private final Bf16Tiles tiles;
    private final Bf16Panels forward;
    private volatile @Nullable Bf16Panels backward;

    /// Packs the row-major weight `w` for `tiles`. `allocator` is as for [PackedWeight].
    PackedBf16(
            Parallel parallel,
            MemorySegment w,
            int out,
            int in,
            LongFunction<MemorySegment> allocator,
            Bf16Tiles tiles) {
        GemmSimd.check("packedBf16: w", w, 0, in, out, in);
        this.out = out;
        this.in = in;
        this.allocator = allocator;
        this.tiles = tiles;
        forward = panels(in, out).pack(parallel, new Matrix(w, 0, in, true));
    }

    private Bf16Panels panels(int k, int n) {
        return new Bf16Panels(allocator.apply(Bf16Panels.bytes(k, n, tiles)), 0, k, n, tiles);
    }

    @Override
    public int out() {
        return out;
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
        GemmBf16.multiply(
                parallel, new Matrix(y, yOff, ldy, false), new Matrix(x, xOff, ldx, false), forward, m, beta, row);
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
        GemmBf16.multiply(
                parallel,
                new Matrix(dx, dxOff, ldDx, false),
                new Matrix(dy, dyOff, ldDy, false),
                backward(parallel),
                m,
                beta,
                null);
    }

    private synchronized Bf16Panels backward(Parallel parallel) {
        Bf16Panels panels = backward;
        if (panels == null) {
            panels = panels(out, in).packTransposed(parallel, forward);
            backward = panels;
        }
        return panels;
    }

    @Override
    public void row(MemorySegment y, long yOff, int j) {
        Bf16Panels rows = backward;
        if (rows != null) {
            rows.row(y, yOff, j);
        } else {
            forward.column(y, yOff, j);
        }
    }

    @Override
    public void unpack(Parallel parallel, MemorySegment w, long wOff, int ldw) {
        GemmSimd.check("unpack: w", w, wOff, ldw, out, in);
        parallel.parallelFor(out, j -> row(w, wOff + 4L * j * ldw, j));
    }
}
