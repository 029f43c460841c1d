package dev.loran.kernels.simd.gemm;

import static dev.loran.kernels.simd.vector.Vectors.I;
import static dev.loran.kernels.simd.vector.Vectors.V;

import dev.loran.engine.backend.HostBuffer;
import dev.loran.kernels.simd.gemm.Bf16Tiles.Right;
import dev.loran.kernels.simd.vector.Parallel;
import dev.loran.kernels.simd.vector.Vectors;
import dev.loran.kernels.simd.vector.Workspace;
import dev.loran.kernels.simd.vector.Workspace.Slot;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;
import jdk.incubator.vector.IntVector;
import jdk.incubator.vector.ShortVector;
import jdk.incubator.vector.VectorMask;
import jdk.incubator.vector.VectorOperators;
import jdk.incubator.vector.VectorShape;
import jdk.incubator.vector.VectorSpecies;
import org.jspecify.annotations.Nullable;

/// The right-hand matrix (k, n) of a product in BF16, in the layout that [Bf16Tiles] read: panels of columns, one block
/// of k after another. For each pair along k, the pairs of a panel's columns are adjacent, 32 bits each. The columns
/// are padded with zeros to whole units, and k to whole steps.
public record Bf16Panels(MemorySegment memory, long offset, int k, int n, Bf16Tiles tiles) implements Panels {
    private static final ByteOrder ORDER = ByteOrder.nativeOrder();
    private static final VectorSpecies<Short> HALF =
            VectorSpecies.of(short.class, VectorShape.forBitSize(I.vectorBitSize() / 2));
    private static final ValueLayout.OfInt INT = ValueLayout.JAVA_INT_UNALIGNED;
    private static final ValueLayout.OfShort SHORT = ValueLayout.JAVA_SHORT_UNALIGNED;
    private static final int UPPER = 0xffff0000;

    public static long bytes(int k, int n, Bf16Tiles tiles) {
        return 2 * up(k, tiles.sizes().step()) * up(n, tiles.sizes().unit());
    }

    private static long up(int size, int unit) {
        return (long) Math.ceilDiv(size, unit) * unit;
    }

    public int count() {
        return Math.ceilDiv(n, tiles.sizes().columns());
    }

    public int blocks() {
        return Math.ceilDiv(k, tiles.sizes().kBlock());
    }

    public int blockLength(int block) {
        return Math.min(tiles.sizes().kBlock(), k - block * tiles.sizes().kBlock());
    }

    public int paddedLength(int block) {
        return (int) up(blockLength(block), tiles.sizes().step());
    }

    /// The number of columns for which a panel has memory; the following method gives those that the matrix has.
    public int width(int panel) {
        return (int) up(columns(panel), tiles.sizes().unit());
    }

    public int columns(int panel) {
        return Math.min(tiles.sizes().columns(), n - panel * tiles.sizes().columns());
    }

    /// Byte offset of a block of a panel.
    public long at(int panel, int block) {
        long before =
                (long) block * tiles.sizes().kBlock() * up(n, tiles.sizes().unit());
        return offset + 2 * (before + (long) panel * tiles.sizes().columns() * paddedLength(block));
    }

    /// Returns a block of a panel, for [Bf16Tiles#panel].
    public Right right(int panel, int block) {
        return new Right(memory, at(panel, block), width(panel), paddedLength(block));
    }

    // ---- packing

    /// Fills all panels with b (F32), rounded to nearest even; b is (n, k) in memory if transposed, else (k, n).
    @Override
    public Bf16Panels pack(Parallel parallel, Operand b) {
        int panels = count();
        if (panels * blocks() == 1) {
            pack(parallel.workspace(), 0, 0, b, k);
            return this;
        }
        parallel.parallelFor(panels * blocks(), task -> {
            int panel = task % panels;
            int block = task / panels;
            pack(parallel.workspace(), panel, block, b, blockLength(block));
        });
        return this;
    }

    /// Fills all panels on this thread alone.
    ///
    /// @param rows how many of the k rows op(b) has; the others are filled with zeros
    public void pack(Workspace workspace, Operand b, int rows) {
        for (int block = 0; block < blocks(); block++) {
            int length = Math.clamp(rows - (long) block * tiles.sizes().kBlock(), 0, blockLength(block));
            for (int panel = 0; panel < count(); panel++) {
                pack(workspace, panel, block, b, length);
            }
        }
    }

    private void pack(Workspace workspace, int panel, int block, Operand b, int length) {
        if (b.transposed()) {
            packColumns(workspace, panel, block, b, length);
        } else {
            packRows(workspace, panel, block, b, length);
        }
    }

    /// A column of a panel is half a row of b, so this transposes pairs.
    private void packColumns(Workspace workspace, int panel, int block, Operand b, int length) {
        int columns = columns(panel);
        int pairs = paddedLength(block) / 2;
        // Padded to whole blocks of the transposition; the excess is cleared afterwards.
        int whole = (int) up(columns, GemmPacking.BLOCK);
        MemorySegment rows = workspace.segment(Slot.ROWS, 4L * whole * pairs);
        long from = b.at(
                (long) block * tiles.sizes().kBlock(),
                (long) panel * tiles.sizes().columns());
        tiles.round(rows, 0, 4L * pairs, b.memory(), from, 4L * b.ld(), columns, length);
        if (length < 2 * pairs) {
            for (int j = 0; j < columns; j++) {
                clear(rows, 4L * j * pairs + 2L * length, 2 * pairs - length);
            }
        }
        GemmPacking.transpose(memory, at(panel, block), width(panel), rows, 0, pairs, whole, pairs);
        clearColumns(panel, block);
    }

    /// A row of a panel consists of two rows of b, interleaved.
    private void packRows(Workspace workspace, int panel, int block, Operand b, int length) {
        int columns = columns(panel);
        long step = 4L * width(panel);
        int first = block * tiles.sizes().kBlock();
        int column = panel * tiles.sizes().columns();
        boolean all = first == 0 && column == 0 && length == b.rows() && columns == b.cols();
        Operand rows = all ? b : new Operand(b.memory(), b.at(first, column), b.ld(), false, length, columns);
        tiles.pairs(workspace, memory, at(panel, block), step, rows);
        int pairs = Math.ceilDiv(length, 2);
        memory.asSlice(at(panel, block) + pairs * step, (paddedLength(block) / 2 - pairs) * step)
                .fill((byte) 0);
        clearColumns(panel, block);
    }

    /// The implementation of [Bf16Tiles#pairs] without special instructions.
    public static void pairs(
            Bf16Tiles tiles, Workspace workspace, MemorySegment to, long toOff, long toStep, Operand x) {
        int columns = x.cols();
        int k = x.rows();
        int stride = (int) up(columns, 2 * GemmPacking.LANES);
        MemorySegment rows = workspace.segment(Slot.ROWS, 4L * stride);
        clear(rows, 0, 2 * stride);
        for (int p = 0; p < k; p += 2) {
            tiles.round(rows, 0, 2L * stride, x.memory(), x.at(p, 0), 4L * x.ld(), Math.min(2, k - p), columns);
            if (p + 1 == k) {
                clear(rows, 2L * stride, columns);
            }
            GemmPacking.interleaveHalves(to, toOff + p / 2 * toStep, rows, 0, 2L * stride, columns);
        }
    }

    @Override
    public Bf16Panels transposed(Parallel parallel, MemorySegment to) {
        return new Bf16Panels(to, 0, n, k, tiles).packTransposed(parallel, this);
    }

    /// Fills all panels with the transpose of the matrix in `other`, which is (n, k).
    private Bf16Panels packTransposed(Parallel parallel, Bf16Panels other) {
        int panels = count();
        parallel.parallelFor(panels * blocks(), task -> {
            int panel = task % panels;
            int block = task / panels;
            int first = panel * tiles.sizes().columns();
            int stride = (int) up(columns(panel), 2 * GemmPacking.LANES);
            // As many rows as the panels of `other` are wide: an even number, so no pair is split.
            int most = tiles.sizes().columns();
            MemorySegment rows = parallel.workspace().segment(Slot.ROWS, 2L * most * stride);
            int start = block * tiles.sizes().kBlock();
            int end = start + blockLength(block);
            int paddedEnd = start + paddedLength(block);
            for (int p = start; p < paddedEnd; ) {
                int next = Math.min(paddedEnd, p - p % most + most);
                int whole = Math.max(0, Math.min(end, next) - p);
                rows.asSlice(0, 2L * (next - p) * stride).fill((byte) 0);
                other.unpackRows(rows, 0, stride, p, whole, first, columns(panel));
                for (int q = p; q < next; q += 2) {
                    interleave(panel, block, (q - start) / 2, rows, 2L * (q - p) * stride, 2L * (q + 1 - p) * stride);
                }
                p = next;
            }
        });
        return this;
    }

    /// Writes rows `j` … `j + rows` of the transposed matrix, which lie in one panel, to `to`: elements `p` …
    /// `p + length` of each, in BF16.
    ///
    /// @param p even
    private void unpackRows(MemorySegment to, long toOff, int stride, int j, int rows, int p, int length) {
        int panel = j / tiles.sizes().columns();
        int column = j - panel * tiles.sizes().columns();
        int width = width(panel);
        for (int q = p; q < p + length; ) {
            int block = q / tiles.sizes().kBlock();
            int inside = q - block * tiles.sizes().kBlock();
            int next = Math.min(p + length, (block + 1) * tiles.sizes().kBlock());
            long from = at(panel, block) + 4L * ((long) (inside / 2) * width + column);
            int pairs = Math.ceilDiv(next - q, 2);
            GemmPacking.transpose(to, toOff + 2L * (q - p), stride / 2, memory, from, width, pairs, rows);
            q = next;
        }
    }

    private void clearColumns(int panel, int block) {
        int width = width(panel);
        for (int j = columns(panel); j < width; j++) {
            for (int p = 0; p < paddedLength(block) / 2; p++) {
                memory.set(INT, at(panel, block) + 4L * (p * width + j), 0);
            }
        }
    }

    private static void clear(MemorySegment s, long at, int shorts) {
        for (int i = 0; i < shorts; i++) {
            s.set(SHORT, at + 2L * i, (short) 0);
        }
    }

    /// A row of pairs ← two rows of BF16, each padded to a multiple of two vectors.
    private void interleave(int panel, int block, int pair, MemorySegment rows, long even, long odd) {
        int width = width(panel);
        GemmPacking.interleaveHalves(memory, at(panel, block) + 4L * pair * width, rows, even, odd, width);
    }

    @Override
    public void multiply(Parallel parallel, Operand c, Operand a, float beta, @Nullable Operand bias) {
        GemmBf16.multiply(parallel, c, a, this, beta, bias);
    }

    @Override
    public void multiplyRows(Workspace workspace, Operand c, Operand a, float beta, @Nullable Operand bias) {
        GemmBf16.multiplyRows(workspace, c, a, this, beta, bias);
    }

    // ---- reading, in F32

    @Override
    public void unpackTransposed(Parallel parallel, MemorySegment y, long yOff, int ldy) {
        parallel.parallelFor(n, j -> column(y, yOff + 4L * j * ldy, j));
    }

    @Override
    public void column(MemorySegment y, long yOff, int j) {
        int panel = j / tiles.sizes().columns();
        int width = width(panel);
        for (int block = 0; block < blocks(); block++) {
            long from = at(panel, block) + 4L * (j - panel * tiles.sizes().columns());
            long to = yOff + 4L * block * tiles.sizes().kBlock();
            int length = blockLength(block);
            for (int p = 0; p < length; p++) {
                int pair = memory.get(INT, from + 4L * (p / 2) * width);
                y.set(INT, to + 4L * p, p % 2 == 0 ? pair << 16 : pair & UPPER);
            }
        }
    }

    @Override
    public void row(MemorySegment y, long yOff, int i) {
        int block = i / tiles.sizes().kBlock();
        int inside = i - block * tiles.sizes().kBlock();
        for (int panel = 0; panel < count(); panel++) {
            long from = at(panel, block) + 4L * (inside / 2) * width(panel);
            row(y, yOff + 4L * panel * tiles.sizes().columns(), memory, from, columns(panel), 16 - inside % 2 * 16);
        }
    }

    /// y (n) ← from each of `n` pairs, the half that is in the upper position after a left shift by `shift`.
    private static void row(MemorySegment y, long yOff, MemorySegment pairs, long from, int n, int shift) {
        int j = 0;
        for (; j < Vectors.bound(n); j += V) {
            IntVector.fromMemorySegment(I, pairs, from + 4L * j, ORDER)
                    .lanewise(VectorOperators.LSHL, shift)
                    .and(UPPER)
                    .intoMemorySegment(y, yOff + 4L * j, ORDER);
        }
        for (; j < n; j++) {
            y.set(INT, yOff + 4L * j, pairs.get(INT, from + 4L * j) << shift & UPPER);
        }
    }

    // ---- between F32 and BF16

    /// The upper half of the result is x rounded to BF16, to nearest even; the lower half is undefined.
    private static IntVector rounded(IntVector x) {
        VectorMask<Integer> nan = x.and(0x7fffffff).compare(VectorOperators.GT, 0x7f800000);
        IntVector even = x.lanewise(VectorOperators.LSHR, 16).and(1).add(0x7fff);
        return x.add(even).blend(x.or(0x400000), nan);
    }

    /// y ← x rounded to BF16.
    public static void round(MemorySegment y, long yOff, MemorySegment x, long xOff, int n) {
        int i = 0;
        for (; i < Vectors.bound(n); i += V) {
            IntVector bits = rounded(IntVector.fromMemorySegment(I, x, xOff + 4L * i, ORDER));
            ShortVector upper =
                    (ShortVector) bits.lanewise(VectorOperators.LSHR, 16).convertShape(VectorOperators.I2S, HALF, 0);
            upper.intoMemorySegment(y, yOff + 2L * i, ORDER);
        }
        for (; i < n; i++) {
            y.set(SHORT, yOff + 2L * i, HostBuffer.toBf16(Vectors.get(x, xOff + 4L * i)));
        }
    }

    /// y ← x rounded to BF16, but stored as F32.
    public static void roundInF32(MemorySegment y, long yOff, MemorySegment x, long xOff, int n) {
        int i = 0;
        for (; i < Vectors.bound(n); i += V) {
            rounded(IntVector.fromMemorySegment(I, x, xOff + 4L * i, ORDER))
                    .and(UPPER)
                    .intoMemorySegment(y, yOff + 4L * i, ORDER);
        }
        for (; i < n; i++) {
            y.set(INT, yOff + 4L * i, HostBuffer.toBf16(Vectors.get(x, xOff + 4L * i)) << 16);
        }
    }

    /// y (2 · pairs, width) ← a block of a panel in F32; width is a multiple of the vector length.
    public static void widen(MemorySegment y, MemorySegment panel, long at, int width, int pairs) {
        for (int p = 0; p < pairs; p++) {
            long from = at + 4L * p * width;
            long to = 8L * p * width;
            for (int j = 0; j < Vectors.bound(width); j += V) {
                IntVector pair = IntVector.fromMemorySegment(I, panel, from + 4L * j, ORDER);
                pair.lanewise(VectorOperators.LSHL, 16).intoMemorySegment(y, to + 4L * j, ORDER);
                pair.and(UPPER).intoMemorySegment(y, to + 4L * (width + j), ORDER);
            }
        }
    }
}
