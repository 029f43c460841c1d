package dev.loran.kernels;

import dev.loran.engine.HostBuffer;
import dev.loran.kernels.GemmBf16.Panels;
import dev.loran.kernels.GemmSimd.Matrix;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.function.LongFunction;
import org.jspecify.annotations.Nullable;

/// A frozen weight W (out, in), rounded to BF16 and packed once for y = x · Wᵀ and once for dx = dy · W: both sets together
/// take the memory of W in F32. Products round the other operand too and sum in F32.
final class PackedBf16 implements FrozenWeight {
    private final int out;
    private final int in;
    private final LongFunction<MemorySegment> allocator;
    private final Panels forward;
    private @Nullable Panels backward;

    /// Packs the row-major weight `w`. `allocator` is as for [PackedWeight].
    PackedBf16(Parallel parallel, MemorySegment w, int out, int in, LongFunction<MemorySegment> allocator) {
        GemmSimd.check("packedBf16: w", w, 0, in, out, in);
        this.out = out;
        this.in = in;
        this.allocator = allocator;
        forward = panels(in, out)
                .pack(parallel, (p, j) -> HostBuffer.toBf16(w.get(ValueLayout.JAVA_FLOAT, 4L * ((long) j * in + p))));
    }

    private Panels panels(int k, int n) {
        return new Panels(allocator.apply(Panels.bytes(k, n)), k, n);
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

    private synchronized Panels backward(Parallel parallel) {
        Panels panels = backward;
        if (panels == null) {
            panels = panels(out, in).pack(parallel, (p, j) -> forward.get(j, p));
            backward = panels;
        }
        return panels;
    }

    private float get(int j, int p) {
        return Float.intBitsToFloat(forward.get(p, j) << 16);
    }

    @Override
    public void row(MemorySegment y, long yOff, int j) {
        for (int p = 0; p < in; p++) {
            y.set(ValueLayout.JAVA_FLOAT_UNALIGNED, yOff + 4L * p, get(j, p));
        }
    }

    @Override
    public void unpack(Parallel parallel, MemorySegment w, long wOff, int ldw) {
        GemmSimd.check("unpack: w", w, wOff, ldw, out, in);
        parallel.parallelFor(out, j -> row(w, wOff + 4L * j * ldw, j));
    }
}
