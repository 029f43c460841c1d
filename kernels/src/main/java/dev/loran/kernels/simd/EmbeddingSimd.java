package dev.loran.kernels.simd;

import static dev.loran.kernels.simd.vector.Vectors.getInt;

import dev.loran.engine.backend.BackendException;
import dev.loran.kernels.simd.gemm.FrozenWeight;
import dev.loran.kernels.simd.vector.Parallel;
import dev.loran.kernels.simd.vector.Vectors;
import java.lang.foreign.MemorySegment;

/// Lookup of table rows by number, and its gradient, which adds rows to the rows of the table.
final class EmbeddingSimd {
    /// Columns that one task of the gradient owns.
    private static final int STRIP = 64;

    private EmbeddingSimd() {}

    /// y (n, cols) ← rows `ids` (n) of `table` (tableRows, cols); a negative id gives a row of zeros.
    static void forward(
            Parallel parallel,
            MemorySegment y,
            MemorySegment table,
            MemorySegment ids,
            int n,
            long tableRows,
            int cols) {
        rows(
                parallel,
                y,
                ids,
                n,
                tableRows,
                cols,
                (id, at) -> MemorySegment.copy(table, 4L * id * cols, y, at, 4L * cols));
    }

    /// As above, for a table that is packed because it is also the weight of a head.
    static void forward(Parallel parallel, MemorySegment y, FrozenWeight table, MemorySegment ids, int n, int cols) {
        rows(parallel, y, ids, n, table.out(), cols, (id, at) -> table.row(y, at, id));
    }

    private interface Row {
        /// Writes row `id` of the table to byte offset `at`.
        void put(int id, long at);
    }

    private static void rows(
            Parallel parallel, MemorySegment y, MemorySegment ids, int n, long tableRows, int cols, Row row) {
        check("gatherRows", ids, n, tableRows);
        Vectors.forRows(parallel, n, cols, (from, to) -> {
            for (int i = from; i < to; i++) {
                int id = getInt(ids, 4L * i);
                if (id < 0) {
                    CopySimd.fill(y, 4L * i * cols, cols, 0f);
                } else {
                    row.put(id, 4L * i * cols);
                }
            }
        });
    }

    /// `dTable[ids[i]] += dy[i]` in the order of i. A task owns a strip of columns, so no two tasks write to the same
    /// element.
    static void backward(
            Parallel parallel,
            MemorySegment dTable,
            MemorySegment dy,
            MemorySegment ids,
            int n,
            int tableRows,
            int cols) {
        check("scatterAddRows", ids, n, tableRows);
        parallel.parallelFor(Math.ceilDiv(cols, STRIP), strip -> {
            int from = strip * STRIP;
            int width = Math.min(STRIP, cols - from);
            for (int i = 0; i < n; i++) {
                int id = getInt(ids, 4L * i);
                if (id >= 0) {
                    CopySimd.add(dTable, 4 * ((long) id * cols + from), dy, 4 * ((long) i * cols + from), width);
                }
            }
        });
    }

    private static void check(String op, MemorySegment ids, int n, long tableRows) {
        for (int i = 0; i < n; i++) {
            int id = getInt(ids, 4L * i);
            if (id >= tableRows) {
                throw new BackendException(op + ": id " + id + " does not exist in a table of " + tableRows + " rows");
            }
        }
    }
}
