package dev.loran.kernels.simd.gemm;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.VectorSpecies;

/// The innermost loops of the matrix product: one tile of C, held in registers while k runs.
///
/// They are written in the form that C2 compiles to nothing but loads, broadcasts and fused multiply-adds: a constant
/// species, every accumulator a local variable, one offset per row of A, all with the same index, so that their bounds
/// checks leave the loop, and the strides of B as a parameter. Rows of A run along k; a row of B is the tile's columns
/// for one k.
///
/// A finished tile is first stored to an array, and from there written or added to C. If vectors are stored to memory
/// of both kinds, heap and native, as interpreted vector conversions do, the JVM's profile expects both at every store.
/// 24 such stores in one method are either too much for C1, in which case C2 is never reached, or more than C2 inlines,
/// in which case every accumulator is an object in every iteration over k. This happened, at random, in one process out
/// of four. A store to an array is never anything else.
public final class GemmTiles {
    public static final VectorSpecies<Float> S = FloatVector.SPECIES_PREFERRED;

    /// Elements and bytes of a vector.
    public static final int V = S.length();

    private static final long VB = S.vectorByteSize();

    /// AVX-512 and NEON have 32 vector registers, AVX2 and SSE have 16.
    private static final boolean WIDE =
            S.vectorBitSize() == 512 || System.getProperty("os.arch", "").equals("aarch64");

    /// Rows and columns of a whole tile.
    public static final int ROWS = WIDE ? 8 : 6;

    public static final int COLUMNS = WIDE && V >= 8 ? 3 * V : 2 * V;

    public static final int TILE = ROWS * COLUMNS;

    /// The number of columns of a tile is a multiple of this, up to [#COLUMNS]: whole vectors, and at least the 8
    /// elements that packing moves at a time.
    public static final int UNIT = Math.max(V, 8);

    private static final ByteOrder ORDER = ByteOrder.nativeOrder();
    private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT_UNALIGNED;

    private GemmTiles() {}

    /// c = a · b, or c += a · b if `onto`, for one tile or part of one: rows `row` to `row + ROWS` of c and a, and one
    /// panel and block of k of b.
    ///
    /// @param tile scratch memory of [#TILE] elements
    /// @param a only the columns of this block of k
    public static void product(
            float[] tile, Operand c, Operand a, int row, GemmPanels b, int panel, int block, boolean onto) {
        int j = panel * COLUMNS;
        int skipped = j - b.first(panel);
        int columns = Math.min(COLUMNS - skipped, b.n() - j);
        int rows = Math.min(ROWS, c.rows() - row);
        int width = b.width(panel);
        multiply(
                tile,
                a.memory(),
                a.at(row, 0),
                4L * a.ld(),
                b.memory(),
                b.at(panel, block),
                b.step(panel),
                width,
                rows,
                b.blockLength(block));
        long to = c.at(row, j);
        if (onto || columns < 3 * V) {
            put(c.memory(), to, 4L * c.ld(), tile, skipped, width, rows, columns, onto);
        } else {
            putWhole(c.memory(), to, 4L * c.ld(), tile, rows);
        }
    }

    /// c = tile (rows, columns), or c += tile if `onto`; columns is a multiple of the vector length.
    ///
    /// @param ldc bytes from row to row of c
    public static void keep(MemorySegment c, long co, long ldc, float[] tile, int rows, int columns, boolean onto) {
        if (onto || columns < 3 * V) {
            put(c, co, ldc, tile, 0, columns, rows, columns, onto);
        } else {
            putWhole(c, co, ldc, tile, rows);
        }
    }

    /// tile (rows, width) = a · b, summed over k; the contents of the rows after them are undefined.
    ///
    /// @param lda bytes from row to row of a; `ldb` likewise of b
    /// @param width a multiple of [#UNIT], at most [#COLUMNS]
    /// @param rows 1 to [#ROWS]
    public static void multiply(
            float[] tile,
            MemorySegment a,
            long ao,
            long lda,
            MemorySegment b,
            long bo,
            long ldb,
            int width,
            int rows,
            int k) {
        int vectors = width / V;
        if (WIDE) {
            if (vectors == 1) {
                tile8x1(tile, a, ao, lda, b, bo, ldb, rows, k);
            } else if (vectors == 2) {
                tile8x2(tile, a, ao, lda, b, bo, ldb, rows, k);
            } else if (rows <= 4) {
                tile4x3(tile, a, ao, lda, b, bo, ldb, rows, k);
            } else {
                tile8x3(tile, a, ao, lda, b, bo, ldb, rows, k);
            }
        } else if (vectors == 1) {
            NarrowTiles.tile6x1(tile, a, ao, lda, b, bo, ldb, rows, k);
        } else {
            NarrowTiles.tile6x2(tile, a, ao, lda, b, bo, ldb, rows, k);
        }
    }

    /// [#put] for a tile of 3 vectors per row. It has no inner loop, which would cost more than the stores.
    private static void putWhole(MemorySegment c, long co, long ldc, float[] tile, int rows) {
        for (int i = 0; i < rows; i++) {
            long at = co + i * ldc;
            int from = 3 * i * V;
            FloatVector.fromArray(S, tile, from).intoMemorySegment(c, at, ORDER);
            FloatVector.fromArray(S, tile, from + V).intoMemorySegment(c, at + VB, ORDER);
            FloatVector.fromArray(S, tile, from + 2 * V).intoMemorySegment(c, at + 2 * VB, ORDER);
        }
    }

    /// c = tile, or c += tile if `onto`, without the first `skipped` columns of the tile.
    ///
    /// @param ldc bytes from row to row of c
    /// @param width elements from row to row of the tile
    public static void put(
            MemorySegment c,
            long co,
            long ldc,
            float[] tile,
            int skipped,
            int width,
            int rows,
            int columns,
            boolean onto) {
        int whole = columns - columns % V;
        for (int i = 0; i < rows; i++) {
            int from = i * width + skipped;
            long at = co + i * ldc;
            for (int j = 0; j <= whole - V; j += V) {
                FloatVector sum = FloatVector.fromArray(S, tile, from + j);
                if (onto) {
                    sum = FloatVector.fromMemorySegment(S, c, at + 4L * j, ORDER)
                            .add(sum);
                }
                sum.intoMemorySegment(c, at + 4L * j, ORDER);
            }
            for (int j = whole; j < columns; j++) {
                float sum = tile[from + j];
                c.set(FLOAT, at + 4L * j, onto ? c.get(FLOAT, at + 4L * j) + sum : sum);
            }
        }
    }

    /// c = tile, or c += tile if `onto`, for blocks whose columns need not be whole vectors; all strides in bytes.
    public static void merge(
            MemorySegment c,
            long co,
            long ldc,
            MemorySegment tile,
            long to,
            long ldt,
            int rows,
            int columns,
            boolean onto) {
        int whole = columns - columns % V;
        for (int i = 0; i < rows; i++) {
            long from = to + i * ldt;
            long at = co + i * ldc;
            for (int j = 0; j <= whole - V; j += V) {
                FloatVector sum = FloatVector.fromMemorySegment(S, tile, from + 4L * j, ORDER);
                if (onto) {
                    sum = FloatVector.fromMemorySegment(S, c, at + 4L * j, ORDER)
                            .add(sum);
                }
                sum.intoMemorySegment(c, at + 4L * j, ORDER);
            }
            for (int j = whole; j < columns; j++) {
                float sum = tile.get(FLOAT, from + 4L * j);
                c.set(FLOAT, at + 4L * j, onto ? c.get(FLOAT, at + 4L * j) + sum : sum);
            }
        }
    }

    /// c *= factor, `n` elements.
    public static void scale(MemorySegment c, long co, int n, float factor) {
        int whole = n - n % V;
        for (int j = 0; j <= whole - V; j += V) {
            FloatVector.fromMemorySegment(S, c, co + 4L * j, ORDER)
                    .mul(factor)
                    .intoMemorySegment(c, co + 4L * j, ORDER);
        }
        for (int j = whole; j < n; j++) {
            c.set(FLOAT, co + 4L * j, factor * c.get(FLOAT, co + 4L * j));
        }
    }

    /// 24 accumulators, 3 vectors of B and 1 of A: 28 of 32 registers. The last row of A is read first: reads end in an
    /// ordinary method, which C2 no longer inlines once a method has grown to 18,000 nodes, as it has by about the last
    /// read.
    private static void tile8x3(
            float[] c, MemorySegment a, long a0, long lda, MemorySegment b, long bo, long ldb, int rows, int k) {
        long a1 = a0 + Math.min(1, rows - 1) * lda;
        long a2 = a0 + Math.min(2, rows - 1) * lda;
        long a3 = a0 + Math.min(3, rows - 1) * lda;
        long a4 = a0 + Math.min(4, rows - 1) * lda;
        long a5 = a0 + Math.min(5, rows - 1) * lda;
        long a6 = a0 + Math.min(6, rows - 1) * lda;
        long a7 = a0 + Math.min(7, rows - 1) * lda;
        FloatVector zero = FloatVector.zero(S);
        FloatVector c00 = zero, c01 = zero, c02 = zero;
        FloatVector c10 = zero, c11 = zero, c12 = zero;
        FloatVector c20 = zero, c21 = zero, c22 = zero;
        FloatVector c30 = zero, c31 = zero, c32 = zero;
        FloatVector c40 = zero, c41 = zero, c42 = zero;
        FloatVector c50 = zero, c51 = zero, c52 = zero;
        FloatVector c60 = zero, c61 = zero, c62 = zero;
        FloatVector c70 = zero, c71 = zero, c72 = zero;
        for (int p = 0; p < k; p++) {
            long q = bo + p * ldb;
            FloatVector b0 = FloatVector.fromMemorySegment(S, b, q, ORDER);
            FloatVector b1 = FloatVector.fromMemorySegment(S, b, q + VB, ORDER);
            FloatVector b2 = FloatVector.fromMemorySegment(S, b, q + 2 * VB, ORDER);
            float x7 = a.get(FLOAT, a7 + p * 4L);
            FloatVector x = FloatVector.broadcast(S, a.get(FLOAT, a0 + p * 4L));
            c00 = x.fma(b0, c00);
            c01 = x.fma(b1, c01);
            c02 = x.fma(b2, c02);
            x = FloatVector.broadcast(S, a.get(FLOAT, a1 + p * 4L));
            c10 = x.fma(b0, c10);
            c11 = x.fma(b1, c11);
            c12 = x.fma(b2, c12);
            x = FloatVector.broadcast(S, a.get(FLOAT, a2 + p * 4L));
            c20 = x.fma(b0, c20);
            c21 = x.fma(b1, c21);
            c22 = x.fma(b2, c22);
            x = FloatVector.broadcast(S, a.get(FLOAT, a3 + p * 4L));
            c30 = x.fma(b0, c30);
            c31 = x.fma(b1, c31);
            c32 = x.fma(b2, c32);
            x = FloatVector.broadcast(S, a.get(FLOAT, a4 + p * 4L));
            c40 = x.fma(b0, c40);
            c41 = x.fma(b1, c41);
            c42 = x.fma(b2, c42);
            x = FloatVector.broadcast(S, a.get(FLOAT, a5 + p * 4L));
            c50 = x.fma(b0, c50);
            c51 = x.fma(b1, c51);
            c52 = x.fma(b2, c52);
            x = FloatVector.broadcast(S, a.get(FLOAT, a6 + p * 4L));
            c60 = x.fma(b0, c60);
            c61 = x.fma(b1, c61);
            c62 = x.fma(b2, c62);
            x = FloatVector.broadcast(S, x7);
            c70 = x.fma(b0, c70);
            c71 = x.fma(b1, c71);
            c72 = x.fma(b2, c72);
        }
        c00.intoArray(c, 0);
        c01.intoArray(c, V);
        c02.intoArray(c, 2 * V);
        c10.intoArray(c, 3 * V);
        c11.intoArray(c, 4 * V);
        c12.intoArray(c, 5 * V);
        c20.intoArray(c, 6 * V);
        c21.intoArray(c, 7 * V);
        c22.intoArray(c, 8 * V);
        c30.intoArray(c, 9 * V);
        c31.intoArray(c, 10 * V);
        c32.intoArray(c, 11 * V);
        c40.intoArray(c, 12 * V);
        c41.intoArray(c, 13 * V);
        c42.intoArray(c, 14 * V);
        c50.intoArray(c, 15 * V);
        c51.intoArray(c, 16 * V);
        c52.intoArray(c, 17 * V);
        c60.intoArray(c, 18 * V);
        c61.intoArray(c, 19 * V);
        c62.intoArray(c, 20 * V);
        c70.intoArray(c, 21 * V);
        c71.intoArray(c, 22 * V);
        c72.intoArray(c, 23 * V);
    }

    /// For the remaining columns if the width is not a multiple of 3 vectors.
    private static void tile8x2(
            float[] c, MemorySegment a, long a0, long lda, MemorySegment b, long bo, long ldb, int rows, int k) {
        long a1 = a0 + Math.min(1, rows - 1) * lda;
        long a2 = a0 + Math.min(2, rows - 1) * lda;
        long a3 = a0 + Math.min(3, rows - 1) * lda;
        long a4 = a0 + Math.min(4, rows - 1) * lda;
        long a5 = a0 + Math.min(5, rows - 1) * lda;
        long a6 = a0 + Math.min(6, rows - 1) * lda;
        long a7 = a0 + Math.min(7, rows - 1) * lda;
        FloatVector zero = FloatVector.zero(S);
        FloatVector c00 = zero, c01 = zero;
        FloatVector c10 = zero, c11 = zero;
        FloatVector c20 = zero, c21 = zero;
        FloatVector c30 = zero, c31 = zero;
        FloatVector c40 = zero, c41 = zero;
        FloatVector c50 = zero, c51 = zero;
        FloatVector c60 = zero, c61 = zero;
        FloatVector c70 = zero, c71 = zero;
        for (int p = 0; p < k; p++) {
            long q = bo + p * ldb;
            FloatVector b0 = FloatVector.fromMemorySegment(S, b, q, ORDER);
            FloatVector b1 = FloatVector.fromMemorySegment(S, b, q + VB, ORDER);
            FloatVector x = FloatVector.broadcast(S, a.get(FLOAT, a0 + p * 4L));
            c00 = x.fma(b0, c00);
            c01 = x.fma(b1, c01);
            x = FloatVector.broadcast(S, a.get(FLOAT, a1 + p * 4L));
            c10 = x.fma(b0, c10);
            c11 = x.fma(b1, c11);
            x = FloatVector.broadcast(S, a.get(FLOAT, a2 + p * 4L));
            c20 = x.fma(b0, c20);
            c21 = x.fma(b1, c21);
            x = FloatVector.broadcast(S, a.get(FLOAT, a3 + p * 4L));
            c30 = x.fma(b0, c30);
            c31 = x.fma(b1, c31);
            x = FloatVector.broadcast(S, a.get(FLOAT, a4 + p * 4L));
            c40 = x.fma(b0, c40);
            c41 = x.fma(b1, c41);
            x = FloatVector.broadcast(S, a.get(FLOAT, a5 + p * 4L));
            c50 = x.fma(b0, c50);
            c51 = x.fma(b1, c51);
            x = FloatVector.broadcast(S, a.get(FLOAT, a6 + p * 4L));
            c60 = x.fma(b0, c60);
            c61 = x.fma(b1, c61);
            x = FloatVector.broadcast(S, a.get(FLOAT, a7 + p * 4L));
            c70 = x.fma(b0, c70);
            c71 = x.fma(b1, c71);
        }
        c00.intoArray(c, 0);
        c01.intoArray(c, V);
        c10.intoArray(c, 2 * V);
        c11.intoArray(c, 3 * V);
        c20.intoArray(c, 4 * V);
        c21.intoArray(c, 5 * V);
        c30.intoArray(c, 6 * V);
        c31.intoArray(c, 7 * V);
        c40.intoArray(c, 8 * V);
        c41.intoArray(c, 9 * V);
        c50.intoArray(c, 10 * V);
        c51.intoArray(c, 11 * V);
        c60.intoArray(c, 12 * V);
        c61.intoArray(c, 13 * V);
        c70.intoArray(c, 14 * V);
        c71.intoArray(c, 15 * V);
    }

    /// For the columns of at most one vector.
    private static void tile8x1(
            float[] c, MemorySegment a, long a0, long lda, MemorySegment b, long bo, long ldb, int rows, int k) {
        long a1 = a0 + Math.min(1, rows - 1) * lda;
        long a2 = a0 + Math.min(2, rows - 1) * lda;
        long a3 = a0 + Math.min(3, rows - 1) * lda;
        long a4 = a0 + Math.min(4, rows - 1) * lda;
        long a5 = a0 + Math.min(5, rows - 1) * lda;
        long a6 = a0 + Math.min(6, rows - 1) * lda;
        long a7 = a0 + Math.min(7, rows - 1) * lda;
        FloatVector zero = FloatVector.zero(S);
        FloatVector c00 = zero;
        FloatVector c10 = zero;
        FloatVector c20 = zero;
        FloatVector c30 = zero;
        FloatVector c40 = zero;
        FloatVector c50 = zero;
        FloatVector c60 = zero;
        FloatVector c70 = zero;
        for (int p = 0; p < k; p++) {
            long q = bo + p * ldb;
            FloatVector b0 = FloatVector.fromMemorySegment(S, b, q, ORDER);
            FloatVector x = FloatVector.broadcast(S, a.get(FLOAT, a0 + p * 4L));
            c00 = x.fma(b0, c00);
            x = FloatVector.broadcast(S, a.get(FLOAT, a1 + p * 4L));
            c10 = x.fma(b0, c10);
            x = FloatVector.broadcast(S, a.get(FLOAT, a2 + p * 4L));
            c20 = x.fma(b0, c20);
            x = FloatVector.broadcast(S, a.get(FLOAT, a3 + p * 4L));
            c30 = x.fma(b0, c30);
            x = FloatVector.broadcast(S, a.get(FLOAT, a4 + p * 4L));
            c40 = x.fma(b0, c40);
            x = FloatVector.broadcast(S, a.get(FLOAT, a5 + p * 4L));
            c50 = x.fma(b0, c50);
            x = FloatVector.broadcast(S, a.get(FLOAT, a6 + p * 4L));
            c60 = x.fma(b0, c60);
            x = FloatVector.broadcast(S, a.get(FLOAT, a7 + p * 4L));
            c70 = x.fma(b0, c70);
        }
        c00.intoArray(c, 0);
        c10.intoArray(c, V);
        c20.intoArray(c, 2 * V);
        c30.intoArray(c, 3 * V);
        c40.intoArray(c, 4 * V);
        c50.intoArray(c, 5 * V);
        c60.intoArray(c, 6 * V);
        c70.intoArray(c, 7 * V);
    }

    /// For the last rows, and for products of few rows.
    private static void tile4x3(
            float[] c, MemorySegment a, long a0, long lda, MemorySegment b, long bo, long ldb, int rows, int k) {
        long a1 = a0 + Math.min(1, rows - 1) * lda;
        long a2 = a0 + Math.min(2, rows - 1) * lda;
        long a3 = a0 + Math.min(3, rows - 1) * lda;
        FloatVector zero = FloatVector.zero(S);
        FloatVector c00 = zero, c01 = zero, c02 = zero;
        FloatVector c10 = zero, c11 = zero, c12 = zero;
        FloatVector c20 = zero, c21 = zero, c22 = zero;
        FloatVector c30 = zero, c31 = zero, c32 = zero;
        for (int p = 0; p < k; p++) {
            long q = bo + p * ldb;
            FloatVector b0 = FloatVector.fromMemorySegment(S, b, q, ORDER);
            FloatVector b1 = FloatVector.fromMemorySegment(S, b, q + VB, ORDER);
            FloatVector b2 = FloatVector.fromMemorySegment(S, b, q + 2 * VB, ORDER);
            FloatVector x = FloatVector.broadcast(S, a.get(FLOAT, a0 + p * 4L));
            c00 = x.fma(b0, c00);
            c01 = x.fma(b1, c01);
            c02 = x.fma(b2, c02);
            x = FloatVector.broadcast(S, a.get(FLOAT, a1 + p * 4L));
            c10 = x.fma(b0, c10);
            c11 = x.fma(b1, c11);
            c12 = x.fma(b2, c12);
            x = FloatVector.broadcast(S, a.get(FLOAT, a2 + p * 4L));
            c20 = x.fma(b0, c20);
            c21 = x.fma(b1, c21);
            c22 = x.fma(b2, c22);
            x = FloatVector.broadcast(S, a.get(FLOAT, a3 + p * 4L));
            c30 = x.fma(b0, c30);
            c31 = x.fma(b1, c31);
            c32 = x.fma(b2, c32);
        }
        c00.intoArray(c, 0);
        c01.intoArray(c, V);
        c02.intoArray(c, 2 * V);
        c10.intoArray(c, 3 * V);
        c11.intoArray(c, 4 * V);
        c12.intoArray(c, 5 * V);
        c20.intoArray(c, 6 * V);
        c21.intoArray(c, 7 * V);
        c22.intoArray(c, 8 * V);
        c30.intoArray(c, 9 * V);
        c31.intoArray(c, 10 * V);
        c32.intoArray(c, 11 * V);
    }
}
