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
/// B is packed into panels ([GemmPanels]). Tasks are blocks of rows of C by groups of panels; a task copies its rows of
/// A, one block of k at a time, and runs the tiles ([GemmTiles]). Each element of C is summed over k in order, block by
/// block, and the blocks depend on k alone, so the bits are the same for every number of threads. If C is so small that
/// there are few tasks, k is also split into chunks, whose sums are added in order; this too depends on the shape
/// alone.
///
/// All memory is native, row-major and F32; offsets are in bytes and multiples of 4, leading dimensions in elements.
public final class GemmSimd {
    /// Rows of a task. With a block of k, they are 128 KiB of A: part of the second-level cache, leaving room for a
    /// panel.
    static final int TASK_ROWS = 64;

    /// Enough tasks per thread to keep several threads about equally busy; more would copy A more often.
    private static final int TASKS_EACH = 4;

    /// With fewer blocks of C than this, k is split as well.
    private static final int FEW = 5;

    /// Number of panels that one row of tiles covers before the next row: rows of A stay in the first-level cache, and
    /// C is written in longer runs.
    private static final int RUN = 4;

    /// Minimum number of panels per task; with fewer, copying A costs more than a tenth of its use.
    private static final int TASK_PANELS = 4;

    /// Up to this many rows of C, B is read in place.
    private static final int IN_PLACE_ROWS = 32;

    /// Up to this many rows or columns, the product is computed as a few dot products per row of the other matrix.
    private static final int DOT_ROWS = 4;

    /// B is packed in pieces of at most 16 MiB and this many rows.
    private static final long PACKED_FLOATS = 1L << 22;

    private static final int PACKED_ROWS = 4096;

    /// Chunks of k: their minimum length and their maximum number.
    private static final int CHUNK = 1024;

    private static final int CHUNKS = 16;

    private GemmSimd() {}

    /// c ← alpha · a · b + beta · c. With beta = 0, c is not read; with alpha = 0, a and b are not. Elements between
    /// the rows of c are not touched. c must not be transposed, nor overlap a or b.
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

    /// Computes `batch` products, each as in [#gemm]; matrix i begins `i * stride` elements after the first (stride 0,
    /// for a and b only: the same matrix for all).
    ///
    /// @param strides those of c, a and b
    public static void gemmBatched(
            Parallel parallel, int batch, Operand c, Operand a, Operand b, long[] strides, float alpha, float beta) {
        if (batch < 0) {
            throw new IllegalArgumentException("gemm: batch must not be negative but is " + batch);
        }
        IntConsumer one = i -> gemm(
                parallel, moved(c, i * strides[0]), moved(a, i * strides[1]), moved(b, i * strides[2]), alpha, beta);
        // Smaller products take less time than sharing one of them among several threads.
        if (batch > 1 && (double) c.rows() * c.cols() * a.cols() < 1 << 22) {
            parallel.parallelFor(batch, one);
        } else {
            IntStream.range(0, batch).forEach(one);
        }
    }

    private static Operand moved(Operand x, long elements) {
        return new Operand(x.memory(), x.offset() + 4 * elements, x.ld(), x.transposed(), x.rows(), x.cols());
    }

    /// c ← alpha · a · b + beta · c, for matrices as in [#gemm].
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

    /// c ← alpha · a · b + beta · c + bias, with b given as panels; bias, if present, is a row with as many columns as
    /// b.
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
        forBlocks(parallel, m, TASK_ROWS, GemmTiles.ROWS, b.count(), (i, rows, panel, end) -> {
            Part part = new Part(panel, end, 0, b.blocks());
            block(parallel.workspace(), c.rows(i, rows), a.rows(i, rows), b, part, alpha, beta, bias);
        });
    }

    /// [#multiply] on the calling thread alone, with alpha = 1 and without splitting long sums into chunks.
    public static void multiplyRows(
            Workspace workspace, Operand c, Operand a, GemmPanels b, float beta, @Nullable Operand bias) {
        if (b.k() == 0) {
            prepare(c, 0, c.rows(), 0, b.n(), beta, bias);
        } else {
            block(workspace, c, a, b, new Part(0, b.count(), 0, b.blocks()), 1, beta, bias);
        }
    }

    /// The work of one task on its part of C.
    public interface Block {
        /// Processes rows `i` … `i + rows` by panels `panel` … `end`.
        void run(int i, int rows, int panel, int end);
    }

    /// Distributes C (m rows, in tasks of about `taskRows` and tiles of `tileRows`, by `panels` panels). The number of
    /// groups of panels does not change any bit.
    public static void forBlocks(Parallel parallel, int m, int taskRows, int tileRows, int panels, Block body) {
        int rowBlocks = Math.ceilDiv(m, taskRows);
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

    /// Panels `panel` to `panelEnd` of a right-hand side, over blocks `block` to `blockEnd` of k.
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

    /// The work of one task on its rows of C: some of the panels, over some of the blocks of k.
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
            if (FmaTiles.available()) {
                for (int panel = part.panel; panel < part.panelEnd; panel++) {
                    FmaTiles.product(workspace, c, left, b, panel, block, onto);
                }
                onto = true;
                continue;
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

    /// Returns alpha · a with dense rows along k, so that a tile reads few pages and no two rows fall into the same
    /// cache set.
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
