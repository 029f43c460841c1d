package dev.loran.kernels.simd;

import static dev.loran.kernels.simd.SimdOperations.f32;
import static dev.loran.kernels.simd.SimdOperations.operand;

import dev.loran.engine.backend.DropoutMask;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.LinearKernels.LowRankUpdate;
import dev.loran.kernels.simd.DropoutSimd.Keep;
import dev.loran.kernels.simd.gemm.Bf16Tiles;
import dev.loran.kernels.simd.gemm.GemmBf16;
import dev.loran.kernels.simd.gemm.GemmPacking;
import dev.loran.kernels.simd.gemm.GemmSimd;
import dev.loran.kernels.simd.gemm.GemmTiles;
import dev.loran.kernels.simd.gemm.Operand;
import dev.loran.kernels.simd.gemm.Panels;
import dev.loran.kernels.simd.vector.Parallel;
import dev.loran.kernels.simd.vector.Workspace;
import dev.loran.kernels.simd.vector.Workspace.Slot;
import java.lang.foreign.MemorySegment;
import java.util.List;
import org.jspecify.annotations.Nullable;

/// The low-rank part of a linear layer with LoRA (Hu et al., 2021). The low-rank factors are applied one after the
/// other, so nothing of size out × in is formed. x is (n, in), a is (r, in), b is (out, r).
///
/// A task carries a block of rows through all low-rank products while they are in the second-level cache; dropout(x)
/// exists only for one such block at a time. The gradients of a and b are sums over rows: each task accumulates its own
/// sums, which are then added in order.
///
/// With [Bf16Tiles], the operands of all these products are rounded to BF16; sums stay F32.
final class LoraLinearSimd {
    /// Rows of a block; with typical numbers of columns, its rows of x, dy and dx fit in the second-level cache.
    private static final int ROWS = 64;

    /// The minimum number of blocks per thread that keeps all threads about equally busy.
    private static final int BLOCKS_EACH = 4;

    /// Limits on the number of tasks with separate sums over rows: at most this many and, beyond a few, at most so many
    /// floats in total.
    private static final int SUMS = 16;

    private static final int FEW_SUMS = 4;
    private static final long SUM_FLOATS = 1L << 22;

    /// Number of columns whose sums one task adds up.
    private static final int STRIP = 64;

    private LoraLinearSimd() {}

    /// One of several layers with the same input: y (n, out) is an output.
    ///
    /// @param w the panels of its weight, (in, out); null if the product with it is added later
    record Layer(
            Operand y,
            @Nullable Panels w,
            @Nullable Operand bias,
            @Nullable LowRankUpdate update) {}

    /// The low-rank part of a layer, packed: t (n, r), which is an output, and the panels of aᵀ and bᵀ.
    private record Packed(Operand t, @Nullable Keep keep, float scaling, Panels down, Panels up) {
        static long bytes(@Nullable Bf16Tiles tiles, Layer layer, int in) {
            LowRankUpdate s = layer.update;
            return s == null ? 0 : Panels.bytes(tiles, in, s.rank()) + Panels.bytes(tiles, s.rank(), layer.y.cols());
        }

        static @Nullable Packed of(
                Parallel parallel, @Nullable Bf16Tiles tiles, MemorySegment memory, long at, Layer layer, int in) {
            LowRankUpdate s = layer.update;
            if (s == null) {
                return null;
            }
            int r = s.rank();
            long half = at + Panels.bytes(tiles, in, r);
            return new Packed(
                    operand(s.t()),
                    dropout(s),
                    (float) s.scaling(),
                    Panels.of(tiles, memory, at, in, r).pack(parallel, operand(s.a().t())),
                    Panels.of(tiles, memory, half, r, layer.y.cols()).pack(parallel, operand(s.b().t())));
        }

        /// t ← dropout(x) · aᵀ and y ← scaling · t · bᵀ for the rows of x starting at `first`.
        void apply(Workspace workspace, Operand y, Operand x, int first) {
            int rows = y.rows();
            Operand block = x.rows(first, rows);
            if (keep != null) {
                block = dropped(workspace, block, keepBits(workspace, keep, first, rows, x.cols()), keep);
            }
            Operand small = t.rows(first, rows);
            down.multiplyRows(workspace, small, block, 0, null);
            up.multiplyRows(workspace, y, scaled(workspace, small, scaling), 0, null);
        }
    }

    /// Whether n rows give every thread several blocks; only then may a task multiply its blocks with frozen weights as
    /// well.
    static boolean fills(Parallel parallel, int n) {
        return Math.ceilDiv(n, ROWS) > BLOCKS_EACH * parallel.threads();
    }

    /// For each layer, t (n, r) ← dropout(x) · aᵀ and y (n, out) ← scaling · t · bᵀ + x · w + bias, leaving out what is
    /// absent, in one pass over x (n, in).
    static void forward(Parallel parallel, @Nullable Bf16Tiles tiles, List<Layer> layers, Operand x) {
        int n = x.rows();
        int in = x.cols();
        long bytes = 0;
        for (Layer layer : layers) {
            bytes += Packed.bytes(tiles, layer, in);
            if (layer.w != null) {
                layer.y.check("linear: y");
                x.check("linear: x");
            }
        }
        MemorySegment memory = parallel.workspace().segment(Slot.LOW_RANK, bytes);
        @Nullable Packed[] packed = new Packed[layers.size()];
        long at = 0;
        for (int i = 0; i < packed.length; i++) {
            packed[i] = Packed.of(parallel, tiles, memory, at, layers.get(i), in);
            at += Packed.bytes(tiles, layers.get(i), in);
        }
        parallel.parallelFor(Math.ceilDiv(n, ROWS), task -> {
            Workspace workspace = parallel.workspace();
            int first = task * ROWS;
            int rows = Math.min(ROWS, n - first);
            for (int i = 0; i < packed.length; i++) {
                Layer layer = layers.get(i);
                Operand y = layer.y.rows(first, rows);
                Packed small = packed[i];
                if (small != null) {
                    small.apply(workspace, y, x, first);
                }
                if (layer.w != null) {
                    layer.w.multiplyRows(workspace, y, x.rows(first, rows), small == null ? 0 : 1, layer.bias);
                }
            }
        });
    }

    private static @Nullable Keep dropout(LowRankUpdate update) {
        DropoutMask mask = update.mask();
        return mask == null ? null : Keep.of(mask);
    }

    /// Returns dense rows multiplied by `factor`.
    private static Operand scaled(Workspace workspace, Operand x, float factor) {
        int n = x.rows() * x.cols();
        MemorySegment scaled = workspace.segment(Slot.LOW_RANK_GRADIENT, 4L * n);
        BinarySimd.mulScalar(scaled, 0, x.memory(), x.offset(), factor, n);
        return Operand.dense(scaled, 0, x.rows(), x.cols());
    }

    /// Returns the mask bits of `rows` rows starting at `first`, one row after the other.
    private static MemorySegment keepBits(Workspace workspace, Keep keep, int first, int rows, int in) {
        long rowBytes = DropoutSimd.rowBytes(in);
        MemorySegment bits = workspace.segment(Slot.MASK, ROWS * rowBytes);
        for (int i = 0; i < rows; i++) {
            DropoutSimd.keepBits(bits, i * rowBytes, first + i, in, keep);
        }
        return bits;
    }

    /// Returns dropout(x) for a block of rows.
    private static Operand dropped(Workspace workspace, Operand x, MemorySegment bits, Keep keep) {
        int in = x.cols();
        MemorySegment dropped = workspace.segment(Slot.DROPPED, 4L * ROWS * in);
        for (int i = 0; i < x.rows(); i++) {
            long bit = i * DropoutSimd.rowBytes(in);
            DropoutSimd.apply(dropped, 4L * i * in, x.memory(), x.at(i, 0), bits, bit, in, keep.scale(), false);
        }
        return Operand.dense(dropped, 0, x.rows(), in);
    }

    /// With dt = scaling · dy · b: db (out, r) ← scaling · dyᵀ · t, da (r, in) ← dtᵀ · dropout(x), and dx (n, in) ←
    /// dropout′(dt · a) + dy · w; each may be absent. The mask is generated once and used for both da and dx.
    static final class Backward {
        private final Parallel parallel;
        private final @Nullable Bf16Tiles tiles;
        private final Operand dy;
        private final Operand x;
        private final Operand t;
        private final @Nullable Keep keep;
        private final float scaling;
        private final int r;
        private final int in;
        private final int out;
        private final Panels down;
        private final Panels up;

        /// Number of rows per task and, below, of tasks.
        private final int each;

        private final int sums;

        /// The sums of the tasks: those for da, (r, in) each, followed by those for dbᵀ, (r, out) each. Parts that are
        /// not requested are not touched.
        private final MemorySegment partial;

        Backward(Parallel parallel, @Nullable Bf16Tiles tiles, Operand dy, Operand x, LowRankUpdate update) {
            this.parallel = parallel;
            this.tiles = tiles;
            this.dy = dy;
            this.x = x;
            t = operand(update.t());
            keep = dropout(update);
            scaling = (float) update.scaling();
            r = update.rank();
            in = x.cols();
            out = dy.cols();
            long downBytes = Panels.bytes(tiles, out, r);
            MemorySegment memory = parallel.workspace().segment(Slot.LOW_RANK, downBytes + Panels.bytes(tiles, r, in));
            down = Panels.of(tiles, memory, 0, out, r).pack(parallel, operand(update.b()));
            up = Panels.of(tiles, memory, downBytes, r, in).pack(parallel, operand(update.a()));
            int n = dy.rows();
            int tasks = Math.clamp(SUM_FLOATS / Math.max(1, r * ((long) in + out)), FEW_SUMS, SUMS);
            each = Math.ceilDiv(Math.ceilDiv(n, ROWS), tasks) * ROWS;
            sums = Math.max(1, Math.ceilDiv(n, each));
            partial = parallel.workspace().segment(Slot.LOW_RANK_SUMS, 4L * sums * r * ((long) in + out));
        }

        /// @param w the panels of the weight, (out, in), if dy · w is to be added here; else null
        void run(@Nullable Panels w, @Nullable Gradient dx, @Nullable Gradient da, @Nullable Gradient db) {
            int n = dy.rows();
            Operand to = dx == null ? null : Operand.dense(f32(dx.buffer()), 0, n, in);
            boolean accumulate = dx != null && dx.accumulate();
            if (w != null && to != null) {
                to.check("linearBackward: dx");
                dy.check("linearBackward: dy");
            }
            parallel.parallelFor(sums, task -> {
                for (int first = task * each; first < Math.min(n, (task + 1) * each); first += ROWS) {
                    int rows = Math.min(ROWS, n - first);
                    Operand dyBlock = dy.rows(first, rows);
                    if (db != null) {
                        addToB(task, first, dyBlock);
                    }
                    if (da != null || to != null) {
                        Operand dxBlock = to == null ? null : to.rows(first, rows);
                        throughSmallSide(task, first, dyBlock, da != null, dxBlock, accumulate);
                        if (w != null && dxBlock != null) {
                            w.multiplyRows(parallel.workspace(), dxBlock, dyBlock, 1, null);
                        }
                    }
                }
            });
            if (da != null) {
                add(f32(da.buffer()), false, 0, in, da.accumulate());
            }
            if (db != null) {
                add(f32(db.buffer()), true, 4L * sums * r * in, out, db.accumulate());
            }
        }

        private float beta(int task, int first) {
            return first == task * each ? 0 : 1;
        }

        private void addToB(int task, int first, Operand dyBlock) {
            Operand sum = Operand.dense(partial, 4L * r * ((long) sums * in + (long) task * out), r, out);
            Operand rows = scaled(parallel.workspace(), t.rows(first, dyBlock.rows()), scaling);
            multiplyTransposed(sum, rows, dyBlock, beta(task, first));
        }

        /// Adds the contribution of a block of rows to da, if requested, and to dx.
        private void throughSmallSide(
                int task, int first, Operand dyBlock, boolean a, @Nullable Operand dx, boolean accumulate) {
            int rows = dyBlock.rows();
            Workspace workspace = parallel.workspace();
            MemorySegment memory = workspace.segment(Slot.LOW_RANK_GRADIENT, 4L * ROWS * r);
            Operand dt = Operand.dense(memory, 0, rows, r);
            down.multiplyRows(workspace, dt, dyBlock, 0, null);
            GemmTiles.scale(memory, 0, rows * r, scaling);
            MemorySegment bits = keep == null ? null : keepBits(workspace, keep, first, rows, in);
            if (a) {
                Operand block = x.rows(first, rows);
                if (keep != null && bits != null) {
                    block = dropped(workspace, block, bits, keep);
                }
                Operand sum = Operand.dense(partial, 4L * task * r * in, r, in);
                multiplyTransposed(sum, dt, block, beta(task, first));
            }
            if (dx != null) {
                inputGradient(dx, dt, bits, accumulate);
            }
        }

        /// c (m, n) ← aᵀ · b (or += if beta is 1), where a (k, m) and b (k, n) have few rows.
        private void multiplyTransposed(Operand c, Operand a, Operand b, float beta) {
            if (tiles == null) {
                GemmSimd.product(parallel, c, a.t(), b, 1, beta);
            } else {
                GemmBf16.product(parallel, tiles, c, a.t(), b, beta, null);
            }
        }

        /// dx ← dropout′(dt · a) (or +=) for a block of rows.
        private void inputGradient(Operand dx, Operand dt, @Nullable MemorySegment bits, boolean accumulate) {
            if (bits == null || keep == null) {
                up.multiplyRows(parallel.workspace(), dx, dt, accumulate ? 1 : 0, null);
                return;
            }
            MemorySegment product = parallel.workspace().segment(Slot.DROPPED, 4L * ROWS * in);
            up.multiplyRows(parallel.workspace(), Operand.dense(product, 0, dx.rows(), in), dt, 0, null);
            for (int i = 0; i < dx.rows(); i++) {
                long bit = i * DropoutSimd.rowBytes(in);
                long to = dx.at(i, 0);
                DropoutSimd.apply(dx.memory(), to, product, 4L * i * in, bits, bit, in, keep.scale(), accumulate);
            }
        }

        /// y (r, cols), or its transpose, ← Σ of the tasks' matrices (r, cols) at `at` (or +=). The first of those
        /// matrices is overwritten.
        private void add(MemorySegment y, boolean transposed, long at, int cols, boolean accumulate) {
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
}
