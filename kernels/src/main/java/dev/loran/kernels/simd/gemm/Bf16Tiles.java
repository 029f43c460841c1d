package dev.loran.kernels.simd.gemm;

import dev.loran.kernels.simd.vector.Workspace;
import dev.loran.kernels.simd.vector.Workspace.Slot;
import java.lang.foreign.MemorySegment;

/// The innermost loops of a product with BF16 panels ([Bf16Panels]), as one kind of processor does them: [AmxTiles],
/// [Avx512Tiles], or [WidenedTiles] on the Vector API.
public interface Bf16Tiles {
    /// Dots of registers with one another, independent of memory and of each other, on the calling thread, a third of a
    /// second or so long: what products cannot exceed.
    ///
    /// @return the floating-point operations that were done; 0 where no instruction does such dots
    default long dots() {
        return 0;
    }

    /// What a kind of tiles asks of the layout. All sums are over k in order, in blocks of `kBlock`.
    ///
    /// @param rows rows of a whole tile of C
    /// @param columns columns of a whole panel
    /// @param unit a panel has 1, 2 … units of columns
    /// @param step elements of k that are multiplied at a time: rows of A and panels are padded with zeros to these
    /// @param kBlock the longest block of k; whole steps
    /// @param bytesOfA of an element of A as [#packRows] leaves it
    record Sizes(int rows, int columns, int unit, int step, int kBlock, int bytesOfA) {}

    Sizes sizes();

    /// Rows of a left-hand side as [#packRows] leaves them: whole tiles of memory, where rows beyond those packed may
    /// hold anything.
    ///
    /// @param stride bytes from row to row, a multiple of 4
    record Left(MemorySegment memory, long offset, long stride) {
        Left from(int row) {
            return row == 0 ? this : new Left(memory, offset + row * stride, stride);
        }
    }

    /// One block of k of a panel of `width` columns.
    ///
    /// @param k whole steps
    record Right(MemorySegment memory, long offset, int width, int k) {}

    /// y (rows, n) ← x rounded to BF16, to nearest even.
    ///
    /// @param toStep bytes from row to row of `to`, as `ldx` of x
    default void round(
            MemorySegment to, long toOff, long toStep, MemorySegment x, long xOff, long ldx, int rows, int n) {
        for (int i = 0; i < rows; i++) {
            Bf16Panels.round(to, toOff + i * toStep, x, xOff + i * ldx, n);
        }
    }

    /// to (⌈k / 2⌉, columns) ← the rounded pairs along k of x (k, columns), row-major, in 32 bits each; a last row of x
    /// without another is paired with zeros.
    ///
    /// @param toStep as for [#round]
    default void pairs(Workspace workspace, MemorySegment to, long toOff, long toStep, Operand x) {
        Bf16Panels.pairs(this, workspace, to, toOff, toStep, x);
    }

    /// The rows of a, rounded to BF16, to nearest even, in the form that [#panel] reads.
    void packRows(Workspace workspace, Left to, Operand a);

    /// c = a · b, or c += a · b where `onto`: the rows and columns that c has; nothing else of it is written.
    void panel(Workspace workspace, Operand c, Left a, Right b, boolean onto);

    /// Tiles in machine code, which know only whole rows and units: those at the edges go by way of scratch memory.
    interface Native extends Bf16Tiles {
        /// Elements of a vector.
        int V = 16;

        /// `tiles` whole tiles of c, one below the other, = a · b, or += a · b where `onto`.
        void run(Operand c, Left a, Right b, int tiles, boolean onto);

        /// The whole vectors of [#round].
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

        /// The whole vectors of [#pairs]: `pairs` rows of them.
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
