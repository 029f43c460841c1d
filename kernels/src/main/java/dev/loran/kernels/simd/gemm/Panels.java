package dev.loran.kernels.simd.gemm;

import dev.loran.kernels.simd.vector.Parallel;
import dev.loran.kernels.simd.vector.Workspace;
import java.lang.foreign.MemorySegment;
import org.jspecify.annotations.Nullable;

/// The right-hand matrix (k, n) of a product in the form that tiles read: in F32 ([GemmPanels]) or rounded to BF16
/// ([Bf16Panels]). All other memory is native, row-major and F32; offsets are in bytes.
public sealed interface Panels permits GemmPanels, Bf16Panels {
    /// Returns panels of a (k, n) matrix in [#bytes] bytes at `offset`, to be filled by [#pack]: for `tiles`, or in F32
    /// (null).
    static Panels of(@Nullable Bf16Tiles tiles, MemorySegment memory, long offset, int k, int n) {
        return tiles == null ? GemmPanels.packed(memory, offset, k, n) : new Bf16Panels(memory, offset, k, n, tiles);
    }

    /// The number of bytes that [#of] needs, rounded up to whole vectors.
    static long bytes(@Nullable Bf16Tiles tiles, int k, int n) {
        long bytes = tiles == null ? 4 * GemmPanels.floats(k, n) : Bf16Panels.bytes(k, n, tiles);
        return Math.ceilDiv(bytes, 64) * 64;
    }

    int k();

    int n();

    /// Fills the panels with b.
    Panels pack(Parallel parallel, Operand b);

    /// Returns the panels of the transposed matrix (n, k), of the same kind, at the beginning of `memory`.
    Panels transposed(Parallel parallel, MemorySegment memory);

    /// c (m, n) ← a · this + beta · c + bias; bias, if present, is a row of n elements. With beta = 0, c is not read.
    void multiply(Parallel parallel, Operand c, Operand a, float beta, @Nullable Operand bias);

    /// [#multiply] as part of a task, on the calling thread alone. Long sums are not split among threads: the bits are
    /// those that [#multiply] gives for many rows.
    void multiplyRows(Workspace workspace, Operand c, Operand a, float beta, @Nullable Operand bias);

    /// y (n) ← row `i`. It takes one run of memory per panel, whereas a column takes about a cache line per element.
    void row(MemorySegment y, long yOff, int i);

    /// y (k) ← column `j`.
    void column(MemorySegment y, long yOff, int j);

    /// y (n, k) ← the transposed matrix, `ldy` elements from row to row.
    void unpackTransposed(Parallel parallel, MemorySegment y, long yOff, int ldy);
}
