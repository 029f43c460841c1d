package dev.loran.kernels.simd.gemm;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.IntVector;
import jdk.incubator.vector.VectorOperators;
import jdk.incubator.vector.VectorSpecies;

/// Copies of F32 matrices into the layouts that [GemmTiles] reads. Offsets are in bytes, strides in elements.
///
/// Elements are moved as 32-bit integers, so a copy preserves every bit, including those of a NaN.
public final class GemmPacking {
    /// 8 elements, or 4 if vectors have no more. Wider vectors would leave most blocks to the scalar loop.
    private static final VectorSpecies<Integer> P =
            FloatVector.SPECIES_PREFERRED.length() >= 8 ? IntVector.SPECIES_256 : IntVector.SPECIES_128;

    public static final int LANES = P.length();

    /// Number of rows that are transposed together.
    public static final int BLOCK = 8;

    private static final ByteOrder ORDER = ByteOrder.nativeOrder();
    private static final ValueLayout.OfInt INT = ValueLayout.JAVA_INT_UNALIGNED;

    /// `LOW.selectFrom(x, y)` is x0 y0 x1 y1 …, the lower halves interleaved; `HIGH` does the same for the upper
    /// halves. (Using `rearrange` with a shuffle instead costs three to four times as much.)
    private static final IntVector LOW = interleaved(0);

    private static final IntVector HIGH = interleaved(P.length() / 2);

    private GemmPacking() {}

    private static IntVector interleaved(int from) {
        int[] index = new int[P.length()];
        for (int i = 0; i < index.length; i++) {
            index[i] = from + i / 2 + i % 2 * P.length();
        }
        return IntVector.fromArray(P, index, 0);
    }

    /// dst(j, i) = src(i, j) for i < rows, j < cols.
    public static void transpose(
            MemorySegment dst,
            long dstOff,
            long dstStride,
            MemorySegment src,
            long srcOff,
            long srcStride,
            int rows,
            int cols) {
        int wholeRows = rows - rows % BLOCK;
        int wholeCols = cols - cols % P.length();
        for (int j = 0; j <= wholeCols - P.length(); j += P.length()) {
            for (int i = 0; i <= wholeRows - BLOCK; i += BLOCK) {
                long to = dstOff + 4 * (j * dstStride + i);
                transposeBlock(dst, to, 4 * dstStride, src, srcOff + 4 * (i * srcStride + j), 4 * srcStride);
            }
        }
        transposeScalar(dst, dstOff, dstStride, src, srcOff, srcStride, wholeRows, rows, 0, cols);
        transposeScalar(dst, dstOff, dstStride, src, srcOff, srcStride, 0, wholeRows, wholeCols, cols);
    }

    /// Copies rows of src, `cols` elements each, to rows of dst, `width` >= cols elements each, and fills the rest with
    /// zeros.
    public static void copyRows(
            MemorySegment dst,
            long dstOff,
            int width,
            MemorySegment src,
            long srcOff,
            long srcStride,
            int rows,
            int cols) {
        int whole = cols - cols % P.length();
        for (int i = 0; i < rows; i++) {
            long to = dstOff + 4L * i * width;
            long from = srcOff + 4L * i * srcStride;
            for (int j = 0; j <= whole - P.length(); j += P.length()) {
                load(src, from + 4L * j).intoMemorySegment(dst, to + 4L * j, ORDER);
            }
            for (int j = whole; j < cols; j++) {
                dst.set(INT, to + 4L * j, src.get(INT, from + 4L * j));
            }
            for (int j = cols; j < width; j++) {
                dst.set(INT, to + 4L * j, 0);
            }
        }
    }

    /// dst (n) ← pairs of 16 bits, the lower one from one row and the upper one from another. Both rows are read up to
    /// the next multiple of 2 [#LANES] elements.
    public static void interleaveHalves(MemorySegment dst, long to, MemorySegment src, long lower, long upper, int n) {
        for (int j = 0; j < n; j += 2 * LANES) {
            IntVector x = load(src, lower + 2L * j);
            IntVector y = load(src, upper + 2L * j);
            IntVector even = x.and(0xffff).or(y.lanewise(VectorOperators.LSHL, 16));
            IntVector odd = x.lanewise(VectorOperators.LSHR, 16).or(y.and(0xffff0000));
            LOW.selectFrom(even, odd).intoMemorySegment(dst, to + 4L * j, ORDER);
            if (j + LANES < n) {
                HIGH.selectFrom(even, odd).intoMemorySegment(dst, to + 4L * (j + LANES), ORDER);
            }
        }
    }

    private static void transposeScalar(
            MemorySegment dst,
            long dstOff,
            long dstStride,
            MemorySegment src,
            long srcOff,
            long srcStride,
            int row0,
            int row1,
            int col0,
            int col1) {
        for (int i = row0; i < row1; i++) {
            for (int j = col0; j < col1; j++) {
                dst.set(INT, dstOff + 4 * (j * dstStride + i), src.get(INT, srcOff + 4 * (i * srcStride + j)));
            }
        }
    }

    /// Three rounds of interleaving rows i and i + 4 (a perfect shuffle) bring 8 rows of one vector each into column
    /// order, whatever the vector length.
    private static void transposeBlock(
            MemorySegment dst, long to, long dstBytes, MemorySegment src, long from, long srcBytes) {
        IntVector r0 = load(src, from);
        IntVector r1 = load(src, from + srcBytes);
        IntVector r2 = load(src, from + 2 * srcBytes);
        IntVector r3 = load(src, from + 3 * srcBytes);
        IntVector r4 = load(src, from + 4 * srcBytes);
        IntVector r5 = load(src, from + 5 * srcBytes);
        IntVector r6 = load(src, from + 6 * srcBytes);
        IntVector r7 = load(src, from + 7 * srcBytes);
        IntVector s0 = LOW.selectFrom(r0, r4);
        IntVector s1 = HIGH.selectFrom(r0, r4);
        IntVector s2 = LOW.selectFrom(r1, r5);
        IntVector s3 = HIGH.selectFrom(r1, r5);
        IntVector s4 = LOW.selectFrom(r2, r6);
        IntVector s5 = HIGH.selectFrom(r2, r6);
        IntVector s6 = LOW.selectFrom(r3, r7);
        IntVector s7 = HIGH.selectFrom(r3, r7);
        r0 = LOW.selectFrom(s0, s4);
        r1 = HIGH.selectFrom(s0, s4);
        r2 = LOW.selectFrom(s1, s5);
        r3 = HIGH.selectFrom(s1, s5);
        r4 = LOW.selectFrom(s2, s6);
        r5 = HIGH.selectFrom(s2, s6);
        r6 = LOW.selectFrom(s3, s7);
        r7 = HIGH.selectFrom(s3, s7);
        store(dst, to, dstBytes, 0, LOW.selectFrom(r0, r4));
        store(dst, to, dstBytes, 1, HIGH.selectFrom(r0, r4));
        store(dst, to, dstBytes, 2, LOW.selectFrom(r1, r5));
        store(dst, to, dstBytes, 3, HIGH.selectFrom(r1, r5));
        store(dst, to, dstBytes, 4, LOW.selectFrom(r2, r6));
        store(dst, to, dstBytes, 5, HIGH.selectFrom(r2, r6));
        store(dst, to, dstBytes, 6, LOW.selectFrom(r3, r7));
        store(dst, to, dstBytes, 7, HIGH.selectFrom(r3, r7));
    }

    private static IntVector load(MemorySegment src, long offset) {
        return IntVector.fromMemorySegment(P, src, offset, ORDER);
    }

    /// Stores the `n`-th vector of a block of 8 rows in column order.
    private static void store(MemorySegment dst, long to, long dstBytes, int n, IntVector v) {
        int column = n * P.length() / BLOCK;
        int row = n * P.length() % BLOCK;
        v.intoMemorySegment(dst, to + column * dstBytes + 4L * row, ORDER);
    }
}
