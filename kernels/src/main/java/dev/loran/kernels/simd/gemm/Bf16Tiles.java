package dev.loran.kernels.simd.gemm;

import dev.loran.kernels.simd.vector.Workspace;
import dev.loran.kernels.simd.vector.Workspace.Slot;
import java.lang.foreign.MemorySegment;

/// The innermost loops of a product with BF16 panels ([Bf16Panels]) for one kind of processor: [AmxTiles],
/// [Avx512Tiles], or [WidenedTiles] using the Vector API.
public interface Bf16Tiles {
    /// Runs dot products of registers, independent of memory and of one another, on the calling thread for about a
    /// third of a second, to measure the upper bound for products.
    ///
    /// @return the number of floating-point operations done; 0 if no instruction computes such dot products
    default long dots() {
        return 0;
    }

    /// What a kind of tiles requires of the layout. All sums run over k in order, in blocks of `kBlock`.
    ///
    /// @param rows rows of a whole tile of C
    /// @param columns columns of a whole panel
    /// @param unit the number of columns of a panel is a multiple of this
    /// @param step elements of k multiplied at a time; rows of A and panels are padded with zeros to a multiple of it
    /// @param kBlock the longest block of k, a multiple of `step`
    /// @param bytesOfA bytes per element of A as written by [#packRows]
    /// @param taskRows rows of a task, which with a block of k take up to half of the second-level cache
    record Sizes(int rows, int columns, int unit, int step, int kBlock, int bytesOfA, int taskRows) {}

    Sizes sizes();

    /// Whether the left-hand side is rounded to BF16.
    default boolean rounds() {
        return true;
    }

    /// Rows of a left-hand side as written by [#packRows]: there is memory for whole tiles, and rows beyond those
    /// packed may contain anything.
    ///
    /// @param stride bytes from row to row, a multiple of 4
    record Left(MemorySegment memory, long offset, long stride) {
        Left from(int row) {
            return row == 0 ? this : new Left(memory, offset + row * stride, stride);
        }
    }

    /// One block of k of a panel of `width` columns.
    ///
    /// @param k a multiple of the step
    record Right(MemorySegment memory, long offset, int width, int k) {}

    /// y (rows, n) ← x rounded to BF16, to nearest even.
    ///
    /// @param toStep bytes from row to row of `to`; `ldx` likewise of x
    default void round(
            MemorySegment to, long toOff, long toStep, MemorySegment x, long xOff, long ldx, int rows, int n) {
        for (int i = 0; i < rows; i++) {
            Bf16Panels.round(to, toOff + i * toStep, x, xOff + i * ldx, n);
        }
    }

    /// to (⌈k / 2⌉, columns) ← the rounded pairs along k of x (k, columns), row-major, 32 bits each; if k is odd, the
    /// last row of x is paired with zeros.
    ///
    /// @param toStep as for [#round]
    default void pairs(Workspace workspace, MemorySegment to, long toOff, long toStep, Operand x) {
        Bf16Panels.pairs(this, workspace, to, toOff, toStep, x);
    }

    /// Writes the rows of a, rounded to BF16, to nearest even, if these tiles do so, in the form that [#panel] reads.
    void packRows(Workspace workspace, Left to, Operand a);

    /// c = a · b, or c += a · b if `onto`, for exactly the rows and columns of c; nothing else in its memory is
    /// written.
    void panel(Workspace workspace, Operand c, Left a, Right b, boolean onto);

    /// Tiles in machine code, which handles only whole rows and units; tiles at the edges go through scratch memory.
    interface Native extends Bf16Tiles {
        /// Elements of a vector.
        int V = 16;

        /// Computes `tiles` whole tiles of c, one below the other, = a · b, or += a · b if `onto`.
        void run(Operand c, Left a, Right b, int tiles, boolean onto);

        /// The part of [#round] that consists of whole vectors.
        default void roundVectors(
                MemorySegment to,
                long toOff,
                long toStep,
                MemorySegment x,
                long xOff,
                long ldx,
                int rows,
                int vectors) {
            Avx512Tiles.convert(to, toOff, toStep, x, xOff, ldx, rows, vectors);
        }

        @Override
        default void round(
                MemorySegment to, long toOff, long toStep, MemorySegment x, long xOff, long ldx, int rows, int n) {
            int whole = n - n % V;
            if (whole > 0 && rows > 0) {
                roundVectors(to, toOff, toStep, x, xOff, ldx, rows, whole / V);
            }
            if (whole < n) {
                Bf16Tiles.super.round(to, toOff + 2L * whole, toStep, x, xOff + 4L * whole, ldx, rows, n - whole);
            }
        }

        /// The part of [#pairs] that consists of whole vectors: `pairs` rows of them.
        default void pairVectors(
                MemorySegment to,
                long toOff,
                long toStep,
                MemorySegment x,
                long xOff,
                long ldx,
                int pairs,
                int vectors) {
            Avx512Tiles.convertPairs(to, toOff, toStep, x, xOff, ldx, pairs, vectors);
        }

        @Override
        default void pairs(Workspace workspace, MemorySegment to, long toOff, long toStep, Operand x) {
            int columns = x.cols();
            int k = x.rows();
            if (columns % V != 0 || columns > Avx512Tiles.PAIRED * V) {
                Bf16Tiles.super.pairs(workspace, to, toOff, toStep, x);
                return;
            }
            if (k > 1) {
                pairVectors(to, toOff, toStep, x.memory(), x.offset(), 4L * x.ld(), k / 2, columns / V);
            }
            if (k % 2 == 1) {
                lastPairs(to, toOff + k / 2 * toStep, x.memory(), x.at(k - 1, 0), columns / V);
            }
        }

        /// A row of [#pairs] whose upper halves are zeros.
        default void lastPairs(MemorySegment to, long toOff, MemorySegment x, long xOff, int vectors) {
            Avx512Tiles.convertLast(to, toOff, x, xOff, vectors);
        }

        @Override
        default void packRows(Workspace workspace, Left to, Operand a) {
            int rows = a.rows();
            int k = a.cols();
            if (!a.transposed()) {
                round(to.memory, to.offset, to.stride, a.memory(), a.offset(), 4L * a.ld(), rows, k);
                return;
            }
            int pairs = Math.ceilDiv(k, 2);
            int width = Math.ceilDiv(rows, V) * V;
            MemorySegment paired = workspace.segment(Slot.TURNED, 4L * pairs * width);
            pairs(workspace, paired, 0, 4L * width, a.t());
            GemmPacking.transpose(to.memory, to.offset, to.stride / 4, paired, 0, width, pairs, rows);
        }

        @Override
        default void panel(Workspace workspace, Operand c, Left a, Right b, boolean onto) {
            int each = sizes().rows();
            int whole = c.cols() == b.width ? c.rows() / each : 0;
            if (whole > 0) {
                run(c, a, b, whole, onto);
            }
            int done = whole * each;
            if (done < c.rows()) {
                int tiles = Math.ceilDiv(c.rows() - done, each);
                MemorySegment tile = workspace.segment(Slot.TILE, 4L * tiles * each * b.width);
                run(Operand.dense(tile, 0, tiles * each, b.width), a.from(done), b, tiles, false);
                long to = c.at(done, 0);
                long ldc = 4L * c.ld();
                GemmTiles.merge(c.memory(), to, ldc, tile, 0, 4L * b.width, c.rows() - done, c.cols(), onto);
            }
        }
    }
}
