package dev.loran.kernels;

import dev.loran.kernels.DropoutSimd.Keep;
import dev.loran.kernels.GemmSimd.Matrix;
import dev.loran.kernels.Workspace.Slot;
import java.lang.foreign.MemorySegment;
import java.util.List;
import org.jspecify.annotations.Nullable;

/// The low-rank part of a linear layer with LoRA (Hu et al., 2021), from the small side: nothing of size out × in is
/// formed. x is (n, in), a is (r, in), b is (out, r).
///
/// A task takes a block of rows through all small products while they are in the second-level cache; dropout(x) exists for
/// such a block only. The gradients of a and b are sums over rows: each task adds up its own, and those are added in order.
///
/// With [Bf16Tiles] the operands of all these products are rounded to BF16, sums stay F32.
final class LoraLinearSimd {
    /// Rows of a block; with as many columns as usual, those of x, dy and dx stay in the second-level cache.
    private static final int ROWS = 64;

    /// Blocks for each thread, at least, that keep all threads about evenly busy.
    private static final int BLOCKS_EACH = 4;

    /// Tasks that sum rows apart: at most so many, and, beyond a few, so many floats.
    private static final int SUMS = 16;

    private static final int FEW_SUMS = 4;
    private static final long SUM_FLOATS = 1L << 22;

    /// Columns whose sums one task adds.
    private static final int STRIP = 64;

    private LoraLinearSimd() {}

    /// The low-rank part of a layer: t (n, r) is an output, a is (r, in), b is (out, r).
    record LowRank(
            MemorySegment t,
            MemorySegment a,
            MemorySegment b,
            @Nullable Keep keep,
            int r,
            float scaling) {}

    /// A layer of several with one input: y (n, out) is an output.
    ///
    /// @param w the panels of its weight, (in, out); null if the product with it is added later
    record Layer(
            MemorySegment y,
            int out,
            @Nullable Panels w,
            @Nullable Matrix bias,
            @Nullable LowRank lowRank) {}

    /// A layer's low-rank part, packed.
    private record Update(LowRank of, Panels down, Panels up) {
        static long bytes(@Nullable Bf16Tiles tiles, Layer layer, int in) {
            LowRank l = layer.lowRank;
            return l == null ? 0 : Panels.bytes(tiles, in, l.r) + Panels.bytes(tiles, l.r, layer.out);
        }

        static @Nullable Update packed(
                Parallel parallel, @Nullable Bf16Tiles tiles, MemorySegment memory, long at, Layer layer, int in) {
            LowRank l = layer.lowRank;
            if (l == null) {
                return null;
            }
            long half = at + Panels.bytes(tiles, in, l.r);
            return new Update(
                    l,
                    Panels.of(tiles, memory, at, in, l.r).pack(parallel, new Matrix(l.a, 0, in, true)),
                    Panels.of(tiles, memory, half, l.r, layer.out).pack(parallel, new Matrix(l.b, 0, l.r, true)));
        }

        /// t ← dropout(x) · aᵀ and y ← scaling · t · bᵀ for `rows` rows from the `first` on.
        void apply(Workspace workspace, Matrix y, MemorySegment x, int first, int rows, int in) {
            Keep keep = of.keep;
            Matrix block = keep == null
                    ? new Matrix(x, 4L * first * in, in, false)
                    : dropped(workspace, x, keepBits(workspace, keep, first, rows, in), keep, first, rows, in);
            Matrix small = new Matrix(of.t, 4L * first * of.r, of.r, false);
            down.multiplyRows(workspace, small, block, rows, 0, null);
            up.multiplyRows(workspace, y, scaled(workspace, small, rows * of.r, of.scaling), rows, 0, null);
        }
    }

    /// c (m, n) ← aᵀ · b (or += where beta is 1) for a few rows of a (k, m) and b (k, n).
    private static void multiplyTransposed(
            Parallel parallel,
            @Nullable Bf16Tiles tiles,
            Matrix c,
            Matrix a,
            Matrix b,
            int m,
            int n,
            int k,
            float beta) {
        Matrix turned = new Matrix(a.memory(), a.offset(), a.ld(), true);
        if (tiles == null) {
            GemmSimd.product(parallel, c, turned, b, m, n, k, 1, beta);
        } else {
            GemmBf16.product(parallel, tiles, c, turned, b, m, n, k, beta, null);
        }
    }

    /// Whether n rows give every thread several blocks: only then may a task take a block through frozen weights as well.
    static boolean fills(Parallel parallel, int n) {
        return Math.ceilDiv(n, ROWS) > BLOCKS_EACH * parallel.threads();
    }

    /// Each layer's t (n, r) ← dropout(x) · aᵀ and y (n, out) ← scaling · t · bᵀ + x · w + bias, whichever of these there
    /// are, in one pass over x (n, in).
    static void forward(
            Parallel parallel, @Nullable Bf16Tiles tiles, List<Layer> layers, MemorySegment x, int n, int in) {
        long bytes = 0;
        for (Layer layer : layers) {
            bytes += Update.bytes(tiles, layer, in);
            if (layer.w != null) {
                GemmSimd.check("linear: y", layer.y, 0, layer.out, n, layer.w.n());
                GemmSimd.check("linear: x", x, 0, in, n, layer.w.k());
            }
        }
        MemorySegment memory = parallel.workspace().segment(Slot.LOW_RANK, bytes);
        @Nullable Update[] updates = new Update[layers.size()];
        long at = 0;
        for (int i = 0; i < updates.length; i++) {
            updates[i] = Update.packed(parallel, tiles, memory, at, layers.get(i), in);
            at += Update.bytes(tiles, layers.get(i), in);
        }
        parallel.parallelFor(Math.ceilDiv(n, ROWS), task -> {
            Workspace workspace = parallel.workspace();
            int first = task * ROWS;
            int rows = Math.min(ROWS, n - first);
            for (int i = 0; i < updates.length; i++) {
                Layer layer = layers.get(i);
                Matrix y = new Matrix(layer.y, 4L * first * layer.out, layer.out, false);
                Update update = updates[i];
                if (update != null) {
                    update.apply(workspace, y, x, first, rows, in);
                }
                if (layer.w != null) {
                    Matrix block = new Matrix(x, 4L * first * in, in, false);
                    layer.w.multiplyRows(workspace, y, block, rows, update == null ? 0 : 1, layer.bias);
                }
            }
        });
    }

    /// `n` elements of dense rows, multiplied.
    private static Matrix scaled(Workspace workspace, Matrix x, int n, float factor) {
        MemorySegment scaled = workspace.segment(Slot.LOW_RANK_GRADIENT, 4L * n);
        BinarySimd.mulScalar(scaled, 0, x.memory(), x.offset(), factor, n);
        return new Matrix(scaled, 0, x.ld(), false);
    }

    /// With dt = scaling · dy · b: db (out, r) ← scaling · dyᵀ · t, da (r, in) ← dtᵀ · dropout(x) (or +=), and
    /// dx (n, in) ← dropout′(dt · a) + dy · w (or +=); each may be absent. The mask is made once for
    /// both.
    ///
    /// @param w the panels of the weight, (out, in), if dy · w is to be added here
    static void backward(
            Parallel parallel,
            @Nullable Bf16Tiles tiles,
            @Nullable Panels w,
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
        if (w != null && dx != null) {
            GemmSimd.check("linearBackward: dx", dx, 0, in, n, w.n());
            GemmSimd.check("linearBackward: dy", dy, 0, out, n, w.k());
        }
        long downBytes = Panels.bytes(tiles, out, r);
        MemorySegment memory = parallel.workspace().segment(Slot.LOW_RANK, downBytes + Panels.bytes(tiles, r, in));
        Panels down = Panels.of(tiles, memory, 0, out, r).pack(parallel, new Matrix(b, 0, r, false));
        Panels up = Panels.of(tiles, memory, downBytes, r, in).pack(parallel, new Matrix(a, 0, in, false));
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
                    Matrix sum = new Matrix(partial, 4L * r * ((long) sums * in + (long) task * out), out, false);
                    Matrix tBlock =
                            scaled(parallel.workspace(), new Matrix(t, 4L * first * r, r, false), rows * r, scaling);
                    multiplyTransposed(parallel, tiles, sum, tBlock, dyBlock, r, out, rows, beta);
                }
                if (da == null && dx == null) {
                    continue;
                }
                MemorySegment small = parallel.workspace().segment(Slot.LOW_RANK_GRADIENT, 4L * ROWS * r);
                Matrix dt = new Matrix(small, 0, r, false);
                down.multiplyRows(parallel.workspace(), dt, dyBlock, rows, 0, null);
                GemmTiles.scale(small, 0, rows * r, scaling);
                MemorySegment bits = keep == null ? null : keepBits(parallel.workspace(), keep, first, rows, in);
                if (da != null) {
                    Matrix block = keep == null || bits == null
                            ? new Matrix(x, 4L * first * in, in, false)
                            : dropped(parallel.workspace(), x, bits, keep, first, rows, in);
                    Matrix sum = new Matrix(partial, 4L * task * r * in, in, false);
                    multiplyTransposed(parallel, tiles, sum, dt, block, r, in, rows, beta);
                }
                if (dx != null) {
                    inputGradient(parallel, dx, dt, up, bits, keep, first, rows, in, accumulateX);
                    if (w != null) {
                        Matrix dxBlock = new Matrix(dx, 4L * first * in, in, false);
                        w.multiplyRows(parallel.workspace(), dxBlock, dyBlock, rows, 1, null);
                    }
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
            Panels a,
            @Nullable MemorySegment bits,
            @Nullable Keep keep,
            int first,
            int rows,
            int in,
            boolean accumulate) {
        if (bits == null || keep == null) {
            Matrix to = new Matrix(dx, 4L * first * in, in, false);
            a.multiplyRows(parallel.workspace(), to, dt, rows, accumulate ? 1 : 0, null);
            return;
        }
        MemorySegment product = parallel.workspace().segment(Slot.DROPPED, 4L * ROWS * in);
        a.multiplyRows(parallel.workspace(), new Matrix(product, 0, in, false), dt, rows, 0, null);
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
}
