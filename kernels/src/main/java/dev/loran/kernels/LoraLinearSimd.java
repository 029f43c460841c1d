package dev.loran.kernels;

import dev.loran.kernels.DropoutSimd.Keep;
import dev.loran.kernels.GemmSimd.Matrix;
import dev.loran.kernels.Workspace.Slot;
import java.lang.foreign.MemorySegment;
import org.jspecify.annotations.Nullable;

/// The low-rank part of a linear layer with LoRA (Hu et al., 2021), from the small side: nothing of size out × in is
/// formed, and dropout(x) exists for a block of rows or columns at a time. x is (n, in), a is (r, in), b is (out, r).
final class LoraLinearSimd {
    /// Rows dropped at a time; with as many columns as usual they stay in the second-level cache.
    private static final int ROWS = 64;

    /// Rows and columns of dropout(x) whose product with dt one step of dA takes: a strip is one word of mask bits.
    private static final int STRIP_ROWS = 256;

    private static final int STRIP = 64;

    private LoraLinearSimd() {}

    /// t (n, r) ← dropout(x) · aᵀ, and y (n, out) += scaling · t · bᵀ.
    static void forward(
            Parallel parallel,
            MemorySegment y,
            MemorySegment t,
            MemorySegment x,
            MemorySegment a,
            MemorySegment b,
            @Nullable Keep keep,
            int n,
            int in,
            int out,
            int r,
            float scaling) {
        if (keep == null) {
            GemmSimd.gemm(parallel, t, 0, r, x, 0, in, false, a, 0, in, true, n, r, in, 1, 0);
        } else {
            GemmPanels panels = panels(parallel, new Matrix(a, 0, in, true), in, r);
            parallel.parallelFor(Math.ceilDiv(n, ROWS), task -> {
                int first = task * ROWS;
                int rows = Math.min(ROWS, n - first);
                MemorySegment bits = parallel.workspace().segment(Slot.MASK, DropoutSimd.rowBytes(in));
                MemorySegment dropped = parallel.workspace().segment(Slot.DROPPED, 4L * ROWS * in);
                for (int i = 0; i < rows; i++) {
                    DropoutSimd.keepBits(bits, 0, first + i, in, keep);
                    DropoutSimd.apply(dropped, 4L * i * in, x, 4L * (first + i) * in, bits, 0, in, keep.scale(), false);
                }
                GemmSimd.multiply(
                        parallel,
                        new Matrix(t, 4L * first * r, r, false),
                        new Matrix(dropped, 0, in, false),
                        panels,
                        rows,
                        1,
                        0,
                        null);
            });
        }
        GemmSimd.gemm(parallel, y, 0, out, t, 0, r, false, b, 0, r, true, n, out, r, scaling, 1);
    }

    /// With dt = scaling · dy · b: db (out, r) ← scaling · dyᵀ · t, da (r, in) ← dtᵀ · dropout(x) (or +=), and
    /// dx (n, in) += dropout′(dt · a), where it holds dy · w already; each may be absent. The mask is made once for both.
    static void backward(
            Parallel parallel,
            @Nullable MemorySegment dx,
            @Nullable MemorySegment da,
            @Nullable MemorySegment db,
            MemorySegment dy,
            MemorySegment x,
            MemorySegment t,
            MemorySegment a,
            MemorySegment b,
            @Nullable Keep keep,
            int n,
            int in,
            int out,
            int r,
            float scaling,
            boolean accumulateA,
            boolean accumulateB) {
        if (db != null) {
            float beta = accumulateB ? 1 : 0;
            GemmSimd.gemm(parallel, db, 0, r, dy, 0, out, true, t, 0, r, false, out, r, n, scaling, beta);
        }
        if (dx == null && da == null) {
            return;
        }
        MemorySegment dt = parallel.workspace().segment(Slot.LOW_RANK_GRADIENT, 4L * n * r);
        GemmSimd.gemm(parallel, dt, 0, r, dy, 0, out, false, b, 0, r, false, n, r, out, scaling, 0);
        if (keep == null) {
            if (da != null) {
                float beta = accumulateA ? 1 : 0;
                GemmSimd.gemm(parallel, da, 0, in, dt, 0, r, true, x, 0, in, false, r, in, n, 1, beta);
            }
            if (dx != null) {
                GemmSimd.gemm(parallel, dx, 0, in, dt, 0, r, false, a, 0, in, false, n, in, r, 1, 1);
            }
            return;
        }
        long rowBytes = DropoutSimd.rowBytes(in);
        MemorySegment bits = parallel.workspace().segment(Slot.MASK, n * rowBytes);
        Vectors.forRows(parallel, n, in, (from, to) -> {
            for (int i = from; i < to; i++) {
                DropoutSimd.keepBits(bits, i * rowBytes, i, in, keep);
            }
        });
        if (da != null) {
            downGradient(parallel, da, dt, x, bits, keep.scale(), n, in, r, accumulateA);
        }
        if (dx != null) {
            inputGradient(parallel, dx, dt, a, bits, keep.scale(), n, in, r);
        }
    }

    /// da ← dtᵀ · dropout(x) (or +=): a task owns a strip of columns and takes block after block of rows.
    private static void downGradient(
            Parallel parallel,
            MemorySegment da,
            MemorySegment dt,
            MemorySegment x,
            MemorySegment bits,
            float scale,
            int n,
            int in,
            int r,
            boolean accumulate) {
        parallel.parallelFor(Math.ceilDiv(in, STRIP), strip -> {
            int column = strip * STRIP;
            int width = Math.min(STRIP, in - column);
            MemorySegment dropped = parallel.workspace().segment(Slot.DROPPED, 4L * STRIP_ROWS * STRIP);
            for (int first = 0; first < n; first += STRIP_ROWS) {
                int rows = Math.min(STRIP_ROWS, n - first);
                for (int i = 0; i < rows; i++) {
                    long row = first + i;
                    long word = row * DropoutSimd.rowBytes(in) + 8L * strip;
                    DropoutSimd.apply(
                            dropped, 4L * i * STRIP, x, 4 * (row * in + column), bits, word, width, scale, false);
                }
                float beta = accumulate || first > 0 ? 1 : 0;
                GemmSimd.gemm(
                        parallel,
                        da,
                        4L * column,
                        in,
                        dt,
                        4L * first * r,
                        r,
                        true,
                        dropped,
                        0,
                        STRIP,
                        false,
                        r,
                        width,
                        rows,
                        1,
                        beta);
            }
        });
    }

    /// dx += dropout′(dt · a), a block of rows at a time.
    private static void inputGradient(
            Parallel parallel,
            MemorySegment dx,
            MemorySegment dt,
            MemorySegment a,
            MemorySegment bits,
            float scale,
            int n,
            int in,
            int r) {
        GemmPanels panels = panels(parallel, new Matrix(a, 0, in, false), r, in);
        parallel.parallelFor(Math.ceilDiv(n, ROWS), task -> {
            int first = task * ROWS;
            int rows = Math.min(ROWS, n - first);
            MemorySegment product = parallel.workspace().segment(Slot.DROPPED, 4L * ROWS * in);
            GemmSimd.multiply(
                    parallel,
                    new Matrix(product, 0, in, false),
                    new Matrix(dt, 4L * first * r, r, false),
                    panels,
                    rows,
                    1,
                    0,
                    null);
            for (int i = 0; i < rows; i++) {
                long row = first + i;
                DropoutSimd.apply(
                        dx, 4 * row * in, product, 4L * i * in, bits, row * DropoutSimd.rowBytes(in), in, scale, true);
            }
        });
    }

    private static GemmPanels panels(Parallel parallel, Matrix b, int k, int n) {
        MemorySegment memory = parallel.workspace().segment(Slot.LOW_RANK, 4 * GemmPanels.floats(k, n));
        return GemmPanels.packed(memory, 0, k, n).pack(parallel, b);
    }
}
