package dev.loran.kernels.simd.gemm;

import java.lang.foreign.MemorySegment;

/// A matrix of F32 as it lies in native memory: element (i, j) is the one at i · ld + j, or at j · ld + i where
/// `transposed`.
///
/// @param offset of element (0, 0) in bytes, a multiple of 4
/// @param ld elements from one row in memory to the next
/// @param rows as it is read, that is, after transposing, as `cols`
public record Operand(MemorySegment memory, long offset, int ld, boolean transposed, int rows, int cols) {
    /// A dense row-major matrix.
    public static Operand dense(MemorySegment memory, long offset, int rows, int cols) {
        return new Operand(memory, offset, cols, false, rows, cols);
    }

    /// Byte offset of element (i, j).
    public long at(long i, long j) {
        return offset + 4 * (transposed ? j * ld + i : i * ld + j);
    }

    /// What is left from row `i` and column `j` on.
    public Operand from(int i, int j) {
        return i == 0 && j == 0 ? this : new Operand(memory, at(i, j), ld, transposed, rows - i, cols - j);
    }

    /// `count` rows from row `i` on.
    public Operand rows(int i, int count) {
        return i == 0 && count == rows ? this : new Operand(memory, at(i, 0), ld, transposed, count, cols);
    }

    /// `count` columns from column `j` on.
    public Operand columns(int j, int count) {
        return j == 0 && count == cols ? this : new Operand(memory, at(0, j), ld, transposed, rows, count);
    }

    /// The transposed matrix, in the same memory.
    public Operand t() {
        return new Operand(memory, offset, ld, !transposed, /* rows= */ cols, /* cols= */ rows);
    }

    /// Throws, beginning with `name`, which is the operation's and the argument's, unless the matrix can lie there.
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
