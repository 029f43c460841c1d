package dev.loran.kernels.simd.gemm;

import dev.loran.kernels.simd.vector.Parallel;
import java.lang.foreign.MemorySegment;
import java.util.function.LongFunction;
import org.jspecify.annotations.Nullable;

/// A frozen weight W (out, in), packed once for all products with it: y = x · Wᵀ, and dx = dy · W, whose panels are
/// created when they are first needed. A set of panels takes about as much memory as W itself, or half of that if W is
/// rounded to BF16. The row-major copy may be discarded, because [#unpack] restores, bit for bit, what was packed.
///
/// All other memory is native, row-major and F32; offsets are in bytes, leading dimensions in elements. Products of the
/// same weight may run on several threads at once.
public final class FrozenWeight {
    private final int out;
    private final int in;
    private final @Nullable Bf16Tiles tiles;
    private final LongFunction<MemorySegment> allocator;
    private final Panels forward;
    private volatile @Nullable Panels backward;

    /// Packs the row-major weight `w`.
    ///
    /// @param allocator returns 64-byte aligned native memory of the given number of bytes, which must live as long as
    ///     this weight; it is called here, and once more for the first [#backward]
    /// @param tiles the tiles that multiply the weight and the other operand, both rounded to BF16; null for F32
    public FrozenWeight(
            Parallel parallel,
            MemorySegment w,
            int out,
            int in,
            LongFunction<MemorySegment> allocator,
            @Nullable Bf16Tiles tiles) {
        Operand rows = Operand.dense(w, 0, out, in);
        rows.check("frozenWeight: w");
        this.out = out;
        this.in = in;
        this.tiles = tiles;
        this.allocator = allocator;
        forward = Panels.of(tiles, allocator.apply(Panels.bytes(tiles, in, out)), 0, in, out)
                .pack(parallel, rows.t());
    }

    public int out() {
        return out;
    }

    /// The panels of Wᵀ.
    public Panels forward() {
        return forward;
    }

    /// The panels of W, which the first call packs into memory from the caller's allocator.
    public synchronized Panels backward(Parallel parallel) {
        Panels panels = backward;
        if (panels == null) {
            panels = forward.transposed(parallel, allocator.apply(Panels.bytes(tiles, out, in)));
            backward = panels;
        }
        return panels;
    }

    /// y (m, out) ← x (m, in) · Wᵀ + bias + beta · y; with beta = 0, y is not read.
    ///
    /// @param bias (1, out), or null
    public void linear(Parallel parallel, Operand y, Operand x, @Nullable Operand bias, float beta) {
        check("linear: y", y, out);
        check("linear: x", x, in);
        if (bias != null) {
            check("linear: bias", bias, out);
        }
        forward.multiply(parallel, y, x, beta, bias);
    }

    /// dx (m, in) ← dy (m, out) · W + beta · dx; with beta = 0, dx is not read.
    public void linearBackward(Parallel parallel, Operand dx, Operand dy, float beta) {
        check("linearBackward: dx", dx, in);
        check("linearBackward: dy", dy, out);
        backward(parallel).multiply(parallel, dx, dy, beta, null);
    }

    private static void check(String name, Operand x, int cols) {
        if (x.cols() != cols) {
            throw new IllegalArgumentException(name + " has rows of " + x.cols() + ", needs " + cols);
        }
        x.check(name);
    }

    /// y (in) ← row `j` of W.
    public void row(MemorySegment y, long yOff, int j) {
        Panels rows = backward;
        if (rows != null) {
            rows.row(y, yOff, j);
        } else {
            forward.column(y, yOff, j);
        }
    }

    /// w (out, in), row-major, ← W.
    public void unpack(Parallel parallel, MemorySegment w, long wOff, int ldw) {
        new Operand(w, wOff, ldw, false, out, in).check("unpack: w");
        forward.unpackTransposed(parallel, w, wOff, ldw);
    }
}
