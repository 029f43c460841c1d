package dev.loran.kernels.simd.gemm;

import dev.loran.kernels.simd.vector.Parallel;
import dev.loran.kernels.simd.vector.Workspace;
import dev.loran.kernels.simd.vector.Workspace.Slot;
import java.lang.foreign.MemorySegment;
import java.util.function.IntConsumer;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;

/// The F32 matrix product on the Vector API.
///
/// B becomes panels ([GemmPanels]); tasks are blocks of rows of C by groups of panels; a task copies its rows of A, one
/// block of k at a time, and runs the tiles ([GemmTiles]). Each element of C is summed over k in order, block by block,
/// and the blocks of k follow from k alone: the same bits for every number of threads. Where C is so small that it
/// makes few tasks, k is cut into chunks as well, whose sums are added in their order; this too follows from the shape
/// alone.
///
/// All memory is native, row-major and F32; offsets are in bytes and multiples of 4, leading dimensions in elements.
public final class GemmSimd {
    /// Rows of a task. With a block of k, 128 KiB of A: a part of the second-level cache that leaves room for a panel.
    private static final int TASK_ROWS = 64;

    /// Tasks enough to keep one thread among several evenly busy; more would copy A more often.
    private static final int TASKS_EACH = 4;

    /// Fewer blocks of C than this are cut along k as well.
    private static final int FEW = 5;

    /// Panels that one row of tiles passes before the next row: A's rows stay in the first-level cache, and C is
    /// written in longer runs.
    private static final int RUN = 4;

    /// Panels of a task, at least: with fewer, copying A costs more than a tenth of its use.
    private static final int TASK_PANELS = 4;

    /// Up to so many rows of C, B is read where it lies.
    private static final int IN_PLACE_ROWS = 32;

    /// Rows or columns up to which the product is a few dot products for each row of the other matrix.
    private static final int DOT_ROWS = 4;

    /// B is packed in pieces of at most 16 MiB and so many rows.
    private static final long PACKED_FLOATS = 1L << 22;

    private static final int PACKED_ROWS = 4096;

    /// Chunks of k: at least so long, and no more than this many.
    private static final int CHUNK = 1024;

    private static final int CHUNKS = 16;

    private GemmSimd() {}

    /// c ← alpha · a · b + beta · c. With beta = 0, c is not read; with alpha = 0, a and b are not. Elements of c's
    /// rows beyond its columns are left alone. c must not be transposed, nor overlap a or b.
    ///
    /// @throws IllegalArgumentException for a negative size, a leading dimension shorter than a row, or a segment that
    ///     is on the heap or too small
    public static void gemm(Parallel parallel, Operand c, Operand a, Operand b, float alpha, float beta) {
        c.check("gemm: c");
        a.check("gemm: a");
        b.check("gemm: b");
        if (c.rows() > 0 && c.cols() > 0) {
            product(parallel, c, a, b, alpha, beta);
        }
    }

    /// `batch` products as [#gemm] does one; matrix i begins `i * stride` elements after the first (stride 0: the same
    /// matrix for all, for a and b only).
    ///
    /// @param strides of c, a and b
    public static void gemmBatched(
            Parallel parallel, int batch, Operand c, Operand a, Operand b, long[] strides, float alpha, float beta) {
        if (batch < 0) {
            throw new IllegalArgumentException("gemm: batch must not be negative but is " + batch);
        }
        IntConsumer one = i -> gemm(
                parallel, moved(c, i * strides[0]), moved(a, i * strides[1]), moved(b, i * strides[2]), alpha, beta);
        // A product of fewer operations is over before several threads have shared it out.
        if (batch > 1 && (double) c.rows() * c.cols() * a.cols() < 1 << 22) {
            parallel.parallelFor(batch, one);
        } else {
            IntStream.range(0, batch).forEach(one);
        }
    }

    private static Operand moved(Operand x, long elements) {
        return new Operand(x.memory(), x.offset() + 4 * elements, x.ld(), x.transposed(), x.rows(), x.cols());
    }

    /// c ← alpha · a · b + beta · c, the matrices as [#gemm] has them.
    public static void product(Parallel parallel, Operand c, Operand a, Operand b, float alpha, float beta) {
        int m = c.rows();
        int n = c.cols();
        if (a.cols() == 0 || alpha == 0f) {
            prepare(c, 0, m, 0, n, beta, null);
        } else if (m <= DOT_ROWS && b.transposed()) {
            GemmDots.multiply(parallel, c, false, a, b, alpha, beta);
        } else if (n <= DOT_ROWS && !a.transposed()) {
            GemmDots.multiply(parallel, c, true, b.t(), a.t(), alpha, beta);
        } else if (m <= IN_PLACE_ROWS && !b.transposed() && n >= GemmTiles.COLUMNS) {
            multiply(parallel, c, a, GemmPanels.inPlace(b), alpha, beta, null);
        } else {
            packAndMultiply(parallel, c, a, b, alpha, beta);
        }
    }

    private static void packAndMultiply(Parallel parallel, Operand c, Operand a, Operand b, float alpha, float beta) {
        int n = b.cols();
        int k = b.rows();
        int rows = Math.min(k, PACKED_ROWS);
        int columns = (int) Math.min(n, Math.max(1, PACKED_FLOATS / rows / GemmTiles.COLUMNS) * GemmTiles.COLUMNS);
        MemorySegment memory = parallel.workspace().segment(Slot.PANELS, 4 * GemmPanels.floats(rows, columns));
        for (int j = 0; j < n; j += columns) {
            for (int p = 0; p < k; p += rows) {
                GemmPanels panels = GemmPanels.packed(memory, 0, Math.min(rows, k - p), Math.min(columns, n - j))
                        .pack(parallel, b.from(p, j));
                multiply(parallel, c.from(0, j), a.from(0, p), panels, alpha, p == 0 ? beta : 1f, null);
            }
        }
    }

    /// c ← alpha · a · b + beta · c + bias, b as panels and bias, where there is one, a row of its columns.
    public static void multiply(
            Parallel parallel, Operand c, Operand a, GemmPanels b, float alpha, float beta, @Nullable Operand bias) {
        int m = c.rows();
        if (m == 0 || b.n() == 0) {
            return;
        }
        if (b.k() == 0) {
            prepare(c, 0, m, 0, b.n(), beta, bias);
            return;
        }
        int blocks = Math.ceilDiv(m, TASK_ROWS) * Math.ceilDiv(b.count(), TASK_PANELS);
        int chunks = blocks < FEW ? Math.clamp(b.k() / CHUNK, 1, CHUNKS) : 1;
        if (chunks > 1) {
            multiplyChunks(parallel, c, a, b, alpha, beta, bias, chunks);
            return;
        }
        forBlocks(parallel, m, GemmTiles.ROWS, b.count(), (i, rows, panel, end) -> {
            Part part = new Part(panel, end, 0, b.blocks());
            block(parallel.workspace(), c.rows(i, rows), a.rows(i, rows), b, part, alpha, beta, bias);
        });
    }

    /// [#multiply] by the calling thread alone, with alpha = 1 and long sums in one piece.
    public static void multiplyRows(
            Workspace workspace, Operand c, Operand a, GemmPanels b, float beta, @Nullable Operand bias) {
        if (b.k() == 0) {
            prepare(c, 0, c.rows(), 0, b.n(), beta, bias);
        } else {
            block(workspace, c, a, b, new Part(0, b.count(), 0, b.blocks()), 1, beta, bias);
        }
    }

    /// What a task does with its part of C.
    public interface Block {
        /// Rows `i` … `i + rows` by panels `panel` … `end`.
        void run(int i, int rows, int panel, int end);
    }

    /// Shares out C (m rows, in tiles of `tileRows`, by `panels` panels). How many groups of panels there are changes
    /// no bit.
    public static void forBlocks(Parallel parallel, int m, int tileRows, int panels, Block body) {
        int rowBlocks = Math.ceilDiv(m, TASK_ROWS);
        int rowsEach = Math.ceilDiv(Math.ceilDiv(m, rowBlocks), tileRows) * tileRows;
        int groups =
                Math.min(Math.ceilDiv(panels, TASK_PANELS), Math.ceilDiv(TASKS_EACH * parallel.threads(), rowBlocks));
        if (rowBlocks * groups == 1) {
            body.run(0, m, 0, panels);
            return;
        }
        int panelsEach = Math.ceilDiv(panels, groups);
        parallel.parallelFor(rowBlocks * groups, task -> {
            int i = task % rowBlocks * rowsEach;
            int panel = task / rowBlocks * panelsEach;
            int end = Math.min(panels, panel + panelsEach);
            if (i < m && panel < end) {
                body.run(i, Math.min(rowsEach, m - i), panel, end);
            }
        });
    }

    /// Some panels of a right-hand side, `panel` to `panelEnd`, over some blocks of k, `block` to `blockEnd`.
    private record Part(int panel, int panelEnd, int block, int blockEnd) {}

    private static void multiplyChunks(
            Parallel parallel,
            Operand c,
            Operand a,
            GemmPanels b,
            float alpha,
            float beta,
            @Nullable Operand bias,
            int chunks) {
        int m = c.rows();
        int n = b.n();
        MemorySegment memory = parallel.workspace().segment(Slot.PARTIAL, 4L * chunks * m * n);
        int blocksEach = Math.ceilDiv(b.blocks(), chunks);
        parallel.parallelFor(chunks, chunk -> {
            Operand sum = Operand.dense(memory, 4L * chunk * m * n, m, n);
            int first = Math.min(b.blocks(), chunk * blocksEach);
            int end = Math.min(b.blocks(), first + blocksEach);
            if (first == end) {
                prepare(sum, 0, m, 0, n, 0f, null);
            } else {
                block(parallel.workspace(), sum, a, b, new Part(0, b.count(), first, end), alpha, 0f, null);
            }
        });
        parallel.parallelFor(m, i -> {
            prepare(c, i, 1, 0, n, beta, bias);
            for (int chunk = 0; chunk < chunks; chunk++) {
                GemmTiles.merge(c.memory(), c.at(i, 0), 0, memory, 4L * ((long) chunk * m + i) * n, 0, 1, n, true);
            }
        });
    }

    /// What one task makes of its rows of C: some panels, over some blocks of k.
    private static void block(
            Workspace workspace,
            Operand c,
            Operand a,
            GemmPanels b,
            Part part,
            float alpha,
            float beta,
            @Nullable Operand bias) {
        float[] tile = workspace.tile();
        int rows = c.rows();
        boolean copies = a.transposed() || alpha != 1f || part.panelEnd - part.panel >= TASK_PANELS;
        boolean onto = beta != 0f || bias != null;
        if (bias != null || beta != 0f && beta != 1f) {
            int j = part.panel * GemmTiles.COLUMNS;
            prepare(c, 0, rows, j, Math.min(b.n(), part.panelEnd * GemmTiles.COLUMNS) - j, beta, bias);
        }
        for (int block = part.block; block < part.blockEnd; block++) {
            Operand left = a.columns(block * b.kBlock(), b.blockLength(block));
            if (copies) {
                left = copyRows(workspace, left, alpha);
            }
            for (int panel = part.panel; panel < part.panelEnd; panel += RUN) {
                int end = Math.min(part.panelEnd, panel + RUN);
                for (int row = 0; row < rows; row += GemmTiles.ROWS) {
                    for (int next = panel; next < end; next++) {
                        GemmTiles.product(tile, c, left, row, b, next, block, onto);
                    }
                }
            }
            onto = true;
        }
    }

    /// alpha · a, dense rows along k: a tile then reads few pages and no two rows meet in one set of the cache.
    private static Operand copyRows(Workspace workspace, Operand a, float alpha) {
        int rows = a.rows();
        int k = a.cols();
        MemorySegment copy = workspace.segment(Slot.ROWS, 4L * rows * k);
        if (a.transposed()) {
            GemmPacking.transpose(copy, 0, k, a.memory(), a.offset(), a.ld(), k, rows);
        } else {
            GemmPacking.copyRows(copy, 0, k, a.memory(), a.offset(), a.ld(), rows, k);
        }
        if (alpha != 1f) {
            GemmTiles.scale(copy, 0, rows * k, alpha);
        }
        return Operand.dense(copy, 0, rows, k);
    }

    /// C ← beta · C + bias for a block of C; with beta = 0, C is not read.
    public static void prepare(Operand c, int i, int rows, int j, int columns, float beta, @Nullable Operand bias) {
        for (int row = i; row < i + rows; row++) {
            long at = c.at(row, j);
            if (beta == 0f) {
                if (bias == null) {
                    c.memory().asSlice(at, 4L * columns).fill((byte) 0);
                } else {
                    MemorySegment.copy(bias.memory(), bias.at(0, j), c.memory(), at, 4L * columns);
                }
                continue;
            }
            if (beta != 1f) {
                GemmTiles.scale(c.memory(), at, columns, beta);
            }
            if (bias != null) {
                GemmTiles.merge(c.memory(), at, 0, bias.memory(), bias.at(0, j), 0, 1, columns, true);
            }
        }
    }
}
