package dev.loran.kernels;

import dev.loran.kernels.DropoutSimd.Keep;
import dev.loran.kernels.GemmSimd.Matrix;
import dev.loran.kernels.Workspace.Slot;
import java.lang.foreign.MemorySegment;
import org.jspecify.annotations.Nullable;

/// The low-rank part of a linear layer with LoRA (Hu et al., 2021), from the small side: nothing of size out × in is
/// formed. x is (n, in), a is (r, in), b is (out, r).
///
/// A task takes a block of rows through all small products while they are in the second-level cache; dropout(x) exists for
/// such a block only. The gradients of a and b are sums over rows: each task adds up its own, and those are added in order.
final class LoraLinearSimd {
    /// Rows of a block; with as many columns as usual, those of x, dy and dx stay in the second-level cache.
    private static final int ROWS = 64;

    /// Tasks that sum rows apart: at most so many, and, beyond a few, so many floats.
    private static final int SUMS = 16;

    private static final int FEW_SUMS = 4;
    private static final long SUM_FLOATS = 1L << 22;

    /// Columns whose sums one task adds.
    private static final int STRIP = 64;

    private LoraLinearSimd() {}

    /// t (n, r) ← dropout(x) · aᵀ, and y (n, out) ← scaling · t · bᵀ, onto which the frozen product is then added.
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
        MemorySegment memory = parallel.workspace().segment(Slot.LOW_RANK, panelBytes(in, r) + panelBytes(r, out));
        GemmPanels down = GemmPanels.packed(memory, 0, in, r).pack(parallel, new Matrix(a, 0, in, true));
        GemmPanels up = GemmPanels.packed(memory, panelBytes(in, r), r, out).pack(parallel, new Matrix(b, 0, r, true));
        parallel.parallelFor(Math.ceilDiv(n, ROWS), task -> {
            int first = task * ROWS;
            int rows = Math.min(ROWS, n - first);
            Matrix block = new Matrix(x, 4L * first * in, in, false);
            if (keep != null) {
                block = dropped(
                        parallel.workspace(),
                        x,
                        keepBits(parallel.workspace(), keep, first, rows, in),
                        keep,
                        first,
                        rows,
                        in);
            }
            Matrix small = new Matrix(t, 4L * first * r, r, false);
            GemmSimd.multiply(parallel, small, block, down, rows, 1, 0, null);
            GemmSimd.multiply(parallel, new Matrix(y, 4L * first * out, out, false), small, up, rows, scaling, 0, null);
        });
    }

    /// With dt = scaling · dy · b: db (out, r) ← scaling · dyᵀ · t, da (r, in) ← dtᵀ · dropout(x) (or +=), and
    /// dx (n, in) ← dropout′(dt · a) (or +=), onto which dy · w is then added; each may be absent. The mask is made once for
    /// both.
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
            boolean accumulateX,
            boolean accumulateA,
            boolean accumulateB) {
        MemorySegment memory = parallel.workspace().segment(Slot.LOW_RANK, panelBytes(out, r) + panelBytes(r, in));
        GemmPanels down = GemmPanels.packed(memory, 0, out, r).pack(parallel, new Matrix(b, 0, r, false));
        GemmTiles.scale(memory, 0, Math.toIntExact(GemmPanels.floats(out, r)), scaling);
        GemmPanels up =
                GemmPanels.packed(memory, panelBytes(out, r), r, in).pack(parallel, new Matrix(a, 0, in, false));
        int tasks = Math.clamp(SUM_FLOATS / Math.max(1, r * ((long) in + out)), FEW_SUMS, SUMS);
        int each = Math.ceilDiv(Math.ceilDiv(n, ROWS), tasks) * ROWS;
        int sums = Math.max(1, Math.ceilDiv(n, each));
        // da's (r, in), then db's transposed: (r, out), and what is not asked for is not touched.
        MemorySegment partial = parallel.workspace().segment(Slot.LOW_RANK_SUMS, 4L * sums * r * ((long) in + out));
        parallel.parallelFor(sums, task -> {
            for (int first = task * each; first < Math.min(n, (task + 1) * each); first += ROWS) {
                int rows = Math.min(ROWS, n - first);
                float beta = first == task * each ? 0 : 1;
                Matrix dyBlock = new Matrix(dy, 4L * first * out, out, false);
                if (db != null) {
                    long sum = 4L * r * ((long) sums * in + (long) task * out);
                    GemmSimd.gemm(
                            parallel,
                            partial,
                            sum,
                            out,
                            t,
                            4L * first * r,
                            r,
                            true,
                            dy,
                            dyBlock.offset(),
                            out,
                            false,
                            r,
                            out,
                            rows,
                            scaling,
                            beta);
                }
                if (da == null && dx == null) {
                    continue;
                }
                Matrix dt =
                        new Matrix(parallel.workspace().segment(Slot.LOW_RANK_GRADIENT, 4L * ROWS * r), 0, r, false);
                GemmSimd.multiply(parallel, dt, dyBlock, down, rows, 1, 0, null);
                MemorySegment bits = keep == null ? null : keepBits(parallel.workspace(), keep, first, rows, in);
                if (da != null) {
                    Matrix block = keep == null || bits == null
                            ? new Matrix(x, 4L * first * in, in, false)
                            : dropped(parallel.workspace(), x, bits, keep, first, rows, in);
                    GemmSimd.gemm(
                            parallel,
                            partial,
                            4L * task * r * in,
                            in,
                            dt.memory(),
                            0,
                            r,
                            true,
                            block.memory(),
                            block.offset(),
                            in,
                            false,
                            r,
                            in,
                            rows,
                            1,
                            beta);
                }
                if (dx != null) {
                    inputGradient(parallel, dx, dt, up, bits, keep, first, rows, in, accumulateX);
                }
            }
        });
        if (da != null) {
            add(parallel, da, false, partial, 0, sums, r, in, accumulateA);
        }
        if (db != null) {
            add(parallel, db, true, partial, 4L * sums * r * in, sums, r, out, accumulateB);
        }
    }

    /// dx ← dropout′(dt · a) (or +=) for a block of rows.
    private static void inputGradient(
            Parallel parallel,
            MemorySegment dx,
            Matrix dt,
            GemmPanels a,
            @Nullable MemorySegment bits,
            @Nullable Keep keep,
            int first,
            int rows,
            int in,
            boolean accumulate) {
        if (bits == null || keep == null) {
            GemmSimd.multiply(
                    parallel, new Matrix(dx, 4L * first * in, in, false), dt, a, rows, 1, accumulate ? 1 : 0, null);
            return;
        }
        MemorySegment product = parallel.workspace().segment(Slot.DROPPED, 4L * ROWS * in);
        GemmSimd.multiply(parallel, new Matrix(product, 0, in, false), dt, a, rows, 1, 0, null);
        for (int i = 0; i < rows; i++) {
            long bit = i * DropoutSimd.rowBytes(in);
            DropoutSimd.apply(dx, 4L * (first + i) * in, product, 4L * i * in, bits, bit, in, keep.scale(), accumulate);
        }
    }

    /// The bits of rows `first` and after, a row behind the other.
    private static MemorySegment keepBits(Workspace workspace, Keep keep, int first, int rows, int in) {
        long rowBytes = DropoutSimd.rowBytes(in);
        MemorySegment bits = workspace.segment(Slot.MASK, ROWS * rowBytes);
        for (int i = 0; i < rows; i++) {
            DropoutSimd.keepBits(bits, i * rowBytes, first + i, in, keep);
        }
        return bits;
    }

    /// dropout(x) for rows `first` and after.
    private static Matrix dropped(
            Workspace workspace, MemorySegment x, MemorySegment bits, Keep keep, int first, int rows, int in) {
        MemorySegment dropped = workspace.segment(Slot.DROPPED, 4L * ROWS * in);
        for (int i = 0; i < rows; i++) {
            long bit = i * DropoutSimd.rowBytes(in);
            DropoutSimd.apply(dropped, 4L * i * in, x, 4L * (first + i) * in, bits, bit, in, keep.scale(), false);
        }
        return new Matrix(dropped, 0, in, false);
    }

    /// y (r, cols), or its transposed, ← Σ of the `sums` matrices (r, cols) at `at` (or +=), the first of which is overwritten.
    private static void add(
            Parallel parallel,
            MemorySegment y,
            boolean transposed,
            MemorySegment partial,
            long at,
            int sums,
            int r,
            int cols,
            boolean accumulate) {
        parallel.parallelFor(Math.ceilDiv(cols, STRIP), strip -> {
            int column = strip * STRIP;
            int width = Math.min(STRIP, cols - column);
            long from = at + 4L * column;
            for (int i = 1; i < sums; i++) {
                long next = from + 4L * i * r * cols;
                GemmTiles.merge(partial, from, 4L * cols, partial, next, 4L * cols, r, width, true);
            }
            if (!transposed) {
                GemmTiles.merge(y, 4L * column, 4L * cols, partial, from, 4L * cols, r, width, accumulate);
                return;
            }
            MemorySegment turned = parallel.workspace().segment(Slot.TILE, 4L * STRIP * r);
            GemmPacking.transpose(turned, 0, r, partial, from, cols, r, width);
            GemmTiles.merge(y, 4L * column * r, 4L * r, turned, 0, 4L * r, width, r, accumulate);
        });
    }

    private static long panelBytes(int k, int n) {
        return 4 * GemmPanels.floats(k, n);
    }
}
