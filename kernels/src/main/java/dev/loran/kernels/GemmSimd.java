package dev.loran.kernels;

import dev.loran.kernels.Workspace.Slot;
import java.lang.foreign.MemorySegment;
import java.util.function.IntConsumer;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;

/// The F32 matrix product on the Vector API.
///
/// B becomes panels ([GemmPanels]); tasks are blocks of rows of C by groups of panels; a task copies its rows of A, one
/// block of k at a time, and runs the tiles ([GemmTiles]). Each element of C is summed over k in order, block by block,
/// and the blocks of k follow from k alone: the same bits for every number of threads. Where C is so small that it makes
/// few tasks, k is cut into chunks as well, whose sums are added in their order; this too follows from the shape alone.
///
/// All memory is native, row-major and F32; offsets are in bytes and multiples of 4, leading dimensions in elements.
public final class GemmSimd {
    /// Rows of a task. With a block of k, 128 KiB of A: a part of the second-level cache that leaves room for a panel.
    private static final int TASK_ROWS = 64;

    /// Tasks enough to keep one thread among several evenly busy; more would copy A more often.
    private static final int TASKS_EACH = 4;

    /// Fewer blocks of C than this are cut along k as well.
    private static final int FEW = 5;

    /// Panels that one row of tiles passes before the next row: A's rows stay in the first-level cache, and C is written in
    /// longer runs.
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

    /// A matrix as it lies in memory: element (i, j) of op(X) is that at (i, j) of X, or at (j, i) where `transposed`.
    record Matrix(MemorySegment memory, long offset, int ld, boolean transposed) {
        long at(long i, long j) {
            return offset + 4 * (transposed ? j * ld + i : i * ld + j);
        }

        Matrix from(long i, long j) {
            return new Matrix(memory, at(i, j), ld, transposed);
        }
    }

    /// C (m, n) ← alpha · op(A) · op(B) + beta · C, where op transposes what is marked so: A is (m, k), or (k, m) in
    /// memory; B is (k, n), or (n, k). With beta = 0, C is not read; with alpha = 0, A and B are not. Elements of C's rows
    /// beyond n are left alone. C must not overlap A or B.
    ///
    /// @throws IllegalArgumentException for a negative size, a leading dimension shorter than a row, or a segment that
    ///     is on the heap or too small
    public static void gemm(
            Parallel parallel,
            MemorySegment c,
            long cOff,
            int ldc,
            MemorySegment a,
            long aOff,
            int lda,
            boolean transA,
            MemorySegment b,
            long bOff,
            int ldb,
            boolean transB,
            int m,
            int n,
            int k,
            float alpha,
            float beta) {
        check("gemm: c", c, cOff, ldc, m, n);
        check("gemm: a", a, aOff, lda, transA ? k : m, transA ? m : k);
        check("gemm: b", b, bOff, ldb, transB ? n : k, transB ? k : n);
        if (m > 0 && n > 0) {
            product(
                    parallel,
                    new Matrix(c, cOff, ldc, false),
                    new Matrix(a, aOff, lda, transA),
                    new Matrix(b, bOff, ldb, transB),
                    m,
                    n,
                    k,
                    alpha,
                    beta);
        }
    }

    /// `batch` products as [#gemm] does one; matrix i begins `i * stride` elements after the first (stride 0: the same
    /// matrix for all, for A and B only).
    public static void gemmBatched(
            Parallel parallel,
            MemorySegment c,
            long cOff,
            int ldc,
            long strideC,
            MemorySegment a,
            long aOff,
            int lda,
            long strideA,
            boolean transA,
            MemorySegment b,
            long bOff,
            int ldb,
            long strideB,
            boolean transB,
            int batch,
            int m,
            int n,
            int k,
            float alpha,
            float beta) {
        if (batch < 0) {
            throw new IllegalArgumentException("gemm: batch must not be negative but is " + batch);
        }
        IntConsumer one = i -> gemm(
                parallel,
                c,
                cOff + 4L * i * strideC,
                ldc,
                a,
                aOff + 4L * i * strideA,
                lda,
                transA,
                b,
                bOff + 4L * i * strideB,
                ldb,
                transB,
                m,
                n,
                k,
                alpha,
                beta);
        // A product of fewer operations is over before several threads have shared it out.
        if (batch > 1 && (double) m * n * k < 1 << 22) {
            parallel.parallelFor(batch, one);
        } else {
            IntStream.range(0, batch).forEach(one);
        }
    }

    /// C (m, n) ← alpha · op(A) · op(B) + beta · C, the matrices as [#gemm] has them.
    static void product(Parallel parallel, Matrix c, Matrix a, Matrix b, int m, int n, int k, float alpha, float beta) {
        if (k == 0 || alpha == 0f) {
            prepare(c, 0, m, 0, n, beta, null);
        } else if (m <= DOT_ROWS && b.transposed()) {
            GemmDots.multiply(parallel, c, false, a, b, m, n, k, alpha, beta);
        } else if (n <= DOT_ROWS && !a.transposed()) {
            Matrix columns = new Matrix(b.memory(), b.offset(), b.ld(), !b.transposed());
            GemmDots.multiply(parallel, c, true, columns, a, n, m, k, alpha, beta);
        } else if (m <= IN_PLACE_ROWS && !b.transposed() && n >= GemmTiles.COLUMNS) {
            multiply(parallel, c, a, GemmPanels.inPlace(b.memory(), b.offset(), k, n, b.ld()), m, alpha, beta, null);
        } else {
            packAndMultiply(parallel, c, a, b, m, n, k, alpha, beta);
        }
    }

    private static void packAndMultiply(
            Parallel parallel, Matrix c, Matrix a, Matrix b, int m, int n, int k, float alpha, float beta) {
        int rows = Math.min(k, PACKED_ROWS);
        int columns = (int) Math.min(n, Math.max(1, PACKED_FLOATS / rows / GemmTiles.COLUMNS) * GemmTiles.COLUMNS);
        MemorySegment memory = parallel.workspace().segment(Slot.PANELS, 4 * GemmPanels.floats(rows, columns));
        for (int j = 0; j < n; j += columns) {
            for (int p = 0; p < k; p += rows) {
                GemmPanels panels = GemmPanels.packed(memory, 0, Math.min(rows, k - p), Math.min(columns, n - j))
                        .pack(parallel, b.from(p, j));
                multiply(parallel, c.from(0, j), a.from(0, p), panels, m, alpha, p == 0 ? beta : 1f, null);
            }
        }
    }

    /// C (m, n) ← alpha · op(A) · B + beta · C + bias, B as panels and bias, where there is one, a row of n.
    static void multiply(
            Parallel parallel,
            Matrix c,
            Matrix a,
            GemmPanels b,
            int m,
            float alpha,
            float beta,
            @Nullable Matrix bias) {
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
            multiplyChunks(parallel, c, a, b, m, alpha, beta, bias, chunks);
            return;
        }
        forBlocks(
                parallel,
                m,
                GemmTiles.ROWS,
                b.count(),
                (i, rows, panel, end) ->
                        block(parallel.workspace(), c, a, b, i, rows, panel, end, 0, b.blocks(), alpha, beta, bias));
    }

    /// [#multiply] by the calling thread alone, with alpha = 1 and long sums in one piece.
    static void multiplyRows(
            Workspace workspace, Matrix c, Matrix a, GemmPanels b, int rows, float beta, @Nullable Matrix bias) {
        if (b.k() == 0) {
            prepare(c, 0, rows, 0, b.n(), beta, bias);
        } else {
            block(workspace, c, a, b, 0, rows, 0, b.count(), 0, b.blocks(), 1, beta, bias);
        }
    }

    /// What a task does with its part of C.
    interface Block {
        /// Rows `i` … `i + rows` by panels `panel` … `end`.
        void run(int i, int rows, int panel, int end);
    }

    /// Shares out C (m rows, in tiles of `tileRows`, by `panels` panels). How many groups of panels there are changes no bit.
    static void forBlocks(Parallel parallel, int m, int tileRows, int panels, Block body) {
        int rowBlocks = Math.ceilDiv(m, TASK_ROWS);
        int rowsEach = Math.ceilDiv(Math.ceilDiv(m, rowBlocks), tileRows) * tileRows;
        int groups =
                Math.min(Math.ceilDiv(panels, TASK_PANELS), Math.ceilDiv(TASKS_EACH * parallel.threads(), rowBlocks));
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

    private static void multiplyChunks(
            Parallel parallel,
            Matrix c,
            Matrix a,
            GemmPanels b,
            int m,
            float alpha,
            float beta,
            @Nullable Matrix bias,
            int chunks) {
        int n = b.n();
        MemorySegment memory = parallel.workspace().segment(Slot.PARTIAL, 4L * chunks * m * n);
        int blocksEach = Math.ceilDiv(b.blocks(), chunks);
        parallel.parallelFor(chunks, chunk -> {
            Matrix sum = new Matrix(memory, 4L * chunk * m * n, n, false);
            int first = Math.min(b.blocks(), chunk * blocksEach);
            int end = Math.min(b.blocks(), first + blocksEach);
            if (first == end) {
                prepare(sum, 0, m, 0, n, 0f, null);
            } else {
                block(parallel.workspace(), sum, a, b, 0, m, 0, b.count(), first, end, alpha, 0f, null);
            }
        });
        parallel.parallelFor(m, i -> {
            prepare(c, i, 1, 0, n, beta, bias);
            for (int chunk = 0; chunk < chunks; chunk++) {
                GemmTiles.merge(c.memory(), c.at(i, 0), 0, memory, 4L * ((long) chunk * m + i) * n, 0, 1, n, true);
            }
        });
    }

    /// The part of the product that one task makes: rows `i` … `i + rows` of C by some panels, over some blocks of k.
    private static void block(
            Workspace workspace,
            Matrix c,
            Matrix a,
            GemmPanels b,
            int i,
            int rows,
            int panel0,
            int panel1,
            int block0,
            int block1,
            float alpha,
            float beta,
            @Nullable Matrix bias) {
        float[] tile = workspace.tile();
        boolean copies = a.transposed() || alpha != 1f || panel1 - panel0 >= TASK_PANELS;
        boolean onto = beta != 0f || bias != null;
        if (bias != null || beta != 0f && beta != 1f) {
            int j = panel0 * GemmTiles.COLUMNS;
            prepare(c, i, rows, j, Math.min(b.n(), panel1 * GemmTiles.COLUMNS) - j, beta, bias);
        }
        for (int block = block0; block < block1; block++) {
            int k = b.blockLength(block);
            Matrix left = a.from(i, (long) block * b.kBlock());
            if (copies) {
                left = copyRows(workspace, left, rows, k, alpha);
            }
            for (int panel = panel0; panel < panel1; panel += RUN) {
                int end = Math.min(panel1, panel + RUN);
                for (int row = 0; row < rows; row += GemmTiles.ROWS) {
                    int count = Math.min(GemmTiles.ROWS, rows - row);
                    run(tile, c, i + row, left, row, b, panel, end, block, count, k, onto);
                }
            }
            onto = true;
        }
    }

    /// One row of tiles over a few panels.
    private static void run(
            float[] tile,
            Matrix c,
            int i,
            Matrix left,
            int row,
            GemmPanels b,
            int panel0,
            int panel1,
            int block,
            int rows,
            int k,
            boolean onto) {
        for (int panel = panel0; panel < panel1; panel++) {
            int j = panel * GemmTiles.COLUMNS;
            int skipped = j - b.first(panel);
            int columns = Math.min(GemmTiles.COLUMNS - skipped, b.n() - j);
            GemmTiles.product(
                    tile,
                    c.memory(),
                    c.at(i, j),
                    4L * c.ld(),
                    left.memory(),
                    left.at(row, 0),
                    4L * left.ld(),
                    b.memory(),
                    b.at(panel, block),
                    b.step(panel),
                    b.width(panel),
                    skipped,
                    rows,
                    columns,
                    k,
                    onto);
        }
    }

    /// alpha · A for one block of k, dense rows along k: a tile then reads few pages and no two rows meet in one set of
    /// the cache.
    private static Matrix copyRows(Workspace workspace, Matrix a, int rows, int k, float alpha) {
        MemorySegment copy = workspace.segment(Slot.ROWS, 4L * rows * k);
        if (a.transposed()) {
            GemmPacking.transpose(copy, 0, k, a.memory(), a.offset(), a.ld(), k, rows);
        } else {
            GemmPacking.copyRows(copy, 0, k, a.memory(), a.offset(), a.ld(), rows, k);
        }
        if (alpha != 1f) {
            GemmTiles.scale(copy, 0, rows * k, alpha);
        }
        return new Matrix(copy, 0, k, false);
    }

    /// C ← beta · C + bias for a block of C; with beta = 0, C is not read.
    static void prepare(Matrix c, int i, int rows, int j, int columns, float beta, @Nullable Matrix bias) {
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

    /// Throws, beginning with `name`, which is the operation's and the argument's, unless a row-major matrix can lie there.
    static void check(String name, MemorySegment segment, long offset, int ld, int rows, int columns) {
        if (rows < 0 || columns < 0) {
            throw new IllegalArgumentException(name + " is (" + rows + ", " + columns + "), a size is negative");
        }
        if (ld < columns) {
            throw new IllegalArgumentException(name + " is (" + rows + ", " + columns
                    + ") but its leading dimension is " + ld + "; it must be at least the row");
        }
        if (!segment.isNative()) {
            throw new IllegalArgumentException(name + " is on the Java heap; copy it to native memory");
        }
        long end = rows == 0 || columns == 0 ? offset : offset + 4 * ((rows - 1L) * ld + columns);
        if (offset < 0 || end > segment.byteSize()) {
            throw new IllegalArgumentException(name + " (" + rows + ", " + columns + ") at byte " + offset
                    + " ends at byte " + end + " but its memory has " + segment.byteSize());
        }
    }
}
