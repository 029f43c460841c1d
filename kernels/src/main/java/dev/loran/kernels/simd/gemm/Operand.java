package dev.loran.kernels.simd.gemm;

import java.lang.foreign.MemorySegment;

/// An F32 matrix in native memory: element (i, j) is at i · ld + j, or at j · ld + i if `transposed`.
///
/// @param offset byte offset of element (0, 0), a multiple of 4
/// @param ld elements from one row to the next in memory
/// @param rows rows as read, that is, after transposing; `cols` likewise
public record Operand(MemorySegment memory, long offset, int ld, boolean transposed, int rows, int cols) {
    /// A dense row-major matrix.
    public static Operand dense(MemorySegment memory, long offset, int rows, int cols) {
        return new Operand(memory, offset, cols, false, rows, cols);
    }

    /// Byte offset of element (i, j).
    public long at(long i, long j) {
        return offset + 4 * (transposed ? j * ld + i : i * ld + j);
    }

    /// The part of the matrix starting at row `i` and column `j`.
    public Operand from(int i, int j) {
        return i == 0 && j == 0 ? this : new Operand(memory, at(i, j), ld, transposed, rows - i, cols - j);
    }

    /// `count` rows starting at row `i`.
    public Operand rows(int i, int count) {
        return i == 0 && count == rows ? this : new Operand(memory, at(i, 0), ld, transposed, count, cols);
    }

    /// `count` columns starting at column `j`.
    public Operand columns(int j, int count) {
        return j == 0 && count == cols ? this : new Operand(memory, at(0, j), ld, transposed, rows, count);
    }

    /// The transposed matrix, in the same memory.
    public Operand t() {
        return new Operand(memory, offset, ld, !transposed, /* rows= */ cols, /* cols= */ rows);
    }

    /// Throws unless the matrix fits in its memory. `name`, which names the operation and the argument, is the prefix
    /// of the message.
    public void check(String name) {
        int inMemory = transposed ? cols : rows;
        int width = transposed ? rows : cols;
        String shape = "(" + inMemory + ", " + width + ")";
        if (rows < 0 || cols < 0) {
            throw new IllegalArgumentException(name + " is " + shape + ", a size is negative");
        }
        if (ld < width) {
            throw new IllegalArgumentException(
                    name + " is " + shape + " but its leading dimension is " + ld + "; it must be at least the row");
        }
        if (!memory.isNative()) {
            throw new IllegalArgumentException(name + " is on the Java heap; copy it to native memory");
        }
        long end = rows == 0 || cols == 0 ? offset : offset + 4 * ((inMemory - 1L) * ld + width);
        if (offset < 0 || end > memory.byteSize()) {
            throw new IllegalArgumentException(name + " " + shape + " at byte " + offset + " ends at byte " + end
                    + " but its memory has " + memory.byteSize());
        }
    }
}
