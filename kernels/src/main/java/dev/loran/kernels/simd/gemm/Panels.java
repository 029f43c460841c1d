package dev.loran.kernels.simd.gemm;

import dev.loran.kernels.simd.vector.Parallel;
import dev.loran.kernels.simd.vector.Workspace;
import java.lang.foreign.MemorySegment;
import org.jspecify.annotations.Nullable;

/// The right-hand matrix (k, n) of a product in the form that tiles read: in F32 ([GemmPanels]) or rounded to BF16
/// ([Bf16Panels]). Memory outside is native, row-major and F32; offsets are in bytes.
public sealed interface Panels permits GemmPanels, Bf16Panels {
    /// Panels of a (k, n) matrix in [#bytes] bytes at `offset`, to be filled by [#pack]: for `tiles`, or in F32 (null).
    static Panels of(@Nullable Bf16Tiles tiles, MemorySegment memory, long offset, int k, int n) {
        return tiles == null ? GemmPanels.packed(memory, offset, k, n) : new Bf16Panels(memory, offset, k, n, tiles);
    }

    /// What [#of] needs: whole vectors.
    static long bytes(@Nullable Bf16Tiles tiles, int k, int n) {
        long bytes = tiles == null ? 4 * GemmPanels.floats(k, n) : Bf16Panels.bytes(k, n, tiles);
        return Math.ceilDiv(bytes, 64) * 64;
    }

    int k();

    int n();

    /// Fills the panels with b.
    Panels pack(Parallel parallel, Operand b);

    /// The panels of the transposed matrix (n, k), of the same kind, at the beginning of `memory`.
    Panels transposed(Parallel parallel, MemorySegment memory);

    /// c (m, n) ← a · this + beta · c + bias; bias, where there is one, is a row of n. With beta = 0, c is not read.
    void multiply(Parallel parallel, Operand c, Operand a, float beta, @Nullable Operand bias);

    /// [#multiply] as a part of a task, by the calling thread alone. Long sums are not shared out: the bits are those
    /// that [#multiply] gives for many rows.
    void multiplyRows(Workspace workspace, Operand c, Operand a, float beta, @Nullable Operand bias);

    /// y (n) ← row `i`: a run of memory a panel, where a column is a line or so an element.
    void row(MemorySegment y, long yOff, int i);

    /// y (k) ← column `j`.
    void column(MemorySegment y, long yOff, int j);

    /// y (n, k) ← the transposed matrix, `ldy` elements from row to row.
    void unpackTransposed(Parallel parallel, MemorySegment y, long yOff, int ldy);
}
