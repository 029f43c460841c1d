package dev.loran.kernels.simd.gemm;

import dev.loran.kernels.simd.vector.Parallel;
import dev.loran.kernels.simd.vector.Workspace;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import org.jspecify.annotations.Nullable;

/// The right-hand matrix (k, n) of a product in the form that tiles read: panels of [GemmTiles#COLUMNS] columns, for
/// one block of k after another. A panel holds its columns for each k next to each other, padded with zeros to whole
/// units.
///
/// A row-major matrix whose rows are at least a tile wide can also be read in place (`ld` > 0). That pays off if so few
/// rows are multiplied that packing would cost as much as the product.
///
/// @param ld 0 for packed panels, else elements from row to row of the row-major matrix
public record GemmPanels(MemorySegment memory, long offset, int k, int n, int kBlock, int ld) implements Panels {
    /// The longest block of k. A panel of it, 96 KiB for the widest tiles, streams from the second-level cache; with
    /// shorter blocks, C is read and written more often.
    private static final int K_BLOCK = 512;

    /// Block length for a matrix read in place: its rows are far apart, and more of them than this exceed the TLB.
    private static final int K_BLOCK_IN_PLACE = 128;

    /// Returns packed panels of a (k, n) matrix, to be filled by [#pack], in [#floats] floats at `offset`.
    public static GemmPanels packed(MemorySegment memory, long offset, int k, int n) {
        int blocks = Math.max(1, Math.ceilDiv(k, K_BLOCK));
        return new GemmPanels(memory, offset, k, n, Math.max(1, Math.ceilDiv(Math.ceilDiv(k, blocks), 8)) * 8, 0);
    }

    /// Returns panels that read a row-major (k, n) matrix in place; n >= [GemmTiles#COLUMNS].
    public static GemmPanels inPlace(Operand b) {
        return new GemmPanels(b.memory(), b.offset(), b.rows(), b.cols(), K_BLOCK_IN_PLACE, b.ld());
    }

    /// Returns a single panel and block of n <= [GemmTiles#COLUMNS] columns, already packed, as made by [WidenedTiles].
    public static GemmPanels one(MemorySegment memory, int k, int n) {
        return new GemmPanels(memory, 0, k, n, k, 0);
    }

    /// The number of floats in the packed panels of a (k, n) matrix.
    public static long floats(int k, int n) {
        return (long) k * padded(n);
    }

    private static int padded(int n) {
        return Math.ceilDiv(n, GemmTiles.UNIT) * GemmTiles.UNIT;
    }

    /// Number of panels.
    public int count() {
        return Math.ceilDiv(n, GemmTiles.COLUMNS);
    }

    /// Number of blocks of k.
    public int blocks() {
        return Math.ceilDiv(k, kBlock);
    }

    public int blockLength(int block) {
        return Math.min(kBlock, k - block * kBlock);
    }

    /// The number of columns that a tile of this panel computes.
    public int width(int panel) {
        return ld > 0 ? GemmTiles.COLUMNS : Math.min(GemmTiles.COLUMNS, padded(n - panel * GemmTiles.COLUMNS));
    }

    /// The first column of the matrix in this panel. In place, the last panel begins early, so that it ends where the
    /// matrix does.
    public int first(int panel) {
        int column = panel * GemmTiles.COLUMNS;
        return ld > 0 ? Math.min(column, n - GemmTiles.COLUMNS) : column;
    }

    /// Byte offset of a panel in a block of k.
    public long at(int panel, int block) {
        long k0 = (long) block * kBlock;
        return ld > 0
                ? offset + 4 * (k0 * ld + first(panel))
                : offset + 4 * (k0 * padded(n) + (long) panel * GemmTiles.COLUMNS * blockLength(block));
    }

    /// Bytes from one k to the next.
    public long step(int panel) {
        return 4L * (ld > 0 ? ld : width(panel));
    }

    /// Uses one task per panel and block.
    @Override
    public GemmPanels pack(Parallel parallel, Operand b) {
        int panels = count();
        parallel.parallelFor(panels * blocks(), task -> packOne(task % panels, task / panels, b));
        return this;
    }

    private void packOne(int panel, int block, Operand b) {
        int column = panel * GemmTiles.COLUMNS;
        int length = blockLength(block);
        int width = width(panel);
        int columns = Math.min(width, n - column);
        long to = at(panel, block);
        long from = b.at((long) block * kBlock, column);
        if (!b.transposed()) {
            GemmPacking.copyRows(memory, to, width, b.memory(), from, b.ld(), length, columns);
            return;
        }
        GemmPacking.transpose(memory, to, width, b.memory(), from, b.ld(), columns, length);
        clearPadding(to, width, columns, length);
    }

    private void clearPadding(long to, int width, int columns, int length) {
        for (int j = columns; j < width; j++) {
            for (int p = 0; p < length; p++) {
                memory.set(ValueLayout.JAVA_FLOAT, to + 4L * (p * width + j), 0f);
            }
        }
    }

    @Override
    public GemmPanels transposed(Parallel parallel, MemorySegment to) {
        return packed(to, 0, n, k).packTransposed(parallel, this);
    }

    /// Fills all panels with the transpose of the matrix in `other`, which is (n, k).
    private GemmPanels packTransposed(Parallel parallel, GemmPanels other) {
        int panels = count();
        parallel.parallelFor(panels * blocks(), task -> {
            int panel = task % panels;
            int block = task / panels;
            int column = panel * GemmTiles.COLUMNS;
            int columns = Math.min(GemmTiles.COLUMNS, n - column);
            int width = width(panel);
            long to = at(panel, block);
            int k0 = block * kBlock;
            int k1 = k0 + blockLength(block);
            for (int p = k0; p < k1; p = Math.min(k1, p - p % GemmTiles.COLUMNS + GemmTiles.COLUMNS)) {
                for (int j = column;
                        j < column + columns;
                        j = Math.min(column + columns, j - j % other.kBlock + other.kBlock)) {
                    copyTransposed(to + 4L * ((p - k0) * width + j - column), width, other, p, k1, j, column + columns);
                }
            }
            clearPadding(to, width, columns, k1 - k0);
        });
        return this;
    }

    /// Copies the part of the matrix in `other`, from row j and column p on, that lies in one of its panels and blocks.
    private void copyTransposed(long to, int width, GemmPanels other, int p, int pEnd, int j, int jEnd) {
        int panel = p / GemmTiles.COLUMNS;
        int block = j / other.kBlock;
        int step = other.width(panel);
        long from = other.at(panel, block) + 4L * ((j - block * other.kBlock) * step + p - panel * GemmTiles.COLUMNS);
        int rows = Math.min(jEnd, (block + 1) * other.kBlock) - j;
        int columns = Math.min(pEnd, (panel + 1) * GemmTiles.COLUMNS) - p;
        GemmPacking.transpose(memory, to, width, other.memory, from, step, rows, columns);
    }

    @Override
    public void multiply(Parallel parallel, Operand c, Operand a, float beta, @Nullable Operand bias) {
        GemmSimd.multiply(parallel, c, a, this, 1, beta, bias);
    }

    @Override
    public void multiplyRows(Workspace workspace, Operand c, Operand a, float beta, @Nullable Operand bias) {
        GemmSimd.multiplyRows(workspace, c, a, this, beta, bias);
    }

    @Override
    public void column(MemorySegment y, long yOff, int j) {
        int panel = j / GemmTiles.COLUMNS;
        int width = width(panel);
        for (int block = 0; block < blocks(); block++) {
            long from = at(panel, block) + 4L * (j - panel * GemmTiles.COLUMNS);
            long to = yOff + 4L * block * kBlock;
            GemmPacking.transpose(y, to, k, memory, from, width, blockLength(block), 1);
        }
    }

    @Override
    public void row(MemorySegment y, long yOff, int i) {
        int block = i / kBlock;
        for (int panel = 0; panel < count(); panel++) {
            int column = panel * GemmTiles.COLUMNS;
            long from = at(panel, block) + 4L * (i - block * kBlock) * width(panel);
            MemorySegment.copy(memory, from, y, yOff + 4L * column, 4L * Math.min(GemmTiles.COLUMNS, n - column));
        }
    }

    @Override
    public void unpackTransposed(Parallel parallel, MemorySegment y, long yOff, int ldy) {
        int panels = count();
        parallel.parallelFor(panels * blocks(), task -> {
            int panel = task % panels;
            int block = task / panels;
            long to = yOff + 4 * ((long) panel * GemmTiles.COLUMNS * ldy + (long) block * kBlock);
            int width = width(panel);
            int columns = Math.min(width, n - panel * GemmTiles.COLUMNS);
            GemmPacking.transpose(y, to, ldy, memory, at(panel, block), width, blockLength(block), columns);
        });
    }
}
