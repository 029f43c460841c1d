package dev.loran.kernels;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.VectorSpecies;

/// The innermost loops of the matrix product: one tile of C, held in registers while k runs.
///
/// The form is the one that C2 compiles to loads, broadcasts and fused multiply-adds alone: a constant species, every
/// accumulator a local variable, an offset for each row of A, all with one index, whose bounds checks then leave
/// the loop, strides of B as a parameter. Rows of A run along k; a row of B is the tile's columns for one k.
final class GemmTiles {
    static final VectorSpecies<Float> S = FloatVector.SPECIES_PREFERRED;

    /// Elements and bytes of a vector.
    static final int V = S.length();

    private static final long VB = S.vectorByteSize();

    /// AVX-512 and NEON have 32 vector registers, AVX2 and SSE have 16.
    private static final boolean WIDE =
            S.vectorBitSize() == 512 || System.getProperty("os.arch", "").equals("aarch64");

    /// Rows and columns of a whole tile.
    static final int ROWS = WIDE ? 8 : 6;

    static final int COLUMNS = WIDE && V >= 8 ? 3 * V : 2 * V;

    static final long TILE_BYTES = 4L * ROWS * COLUMNS;

    /// Tiles may be 1, 2 … units wide up to [#COLUMNS]: whole vectors, and at least the 8 that packing moves at a time.
    static final int UNIT = Math.max(V, 8);

    private static final ByteOrder ORDER = ByteOrder.nativeOrder();
    private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT_UNALIGNED;

    private GemmTiles() {}

    /// c = a * b, or c += a * b where `onto`, for one tile or a part of one. Nothing outside c's `rows` and `columns` is
    /// written.
    ///
    /// @param tile scratch memory of [#TILE_BYTES]
    /// @param ldc bytes from row to row of c, as `lda` of a and `ldb` of b
    /// @param width columns of b to read: a multiple of [#UNIT], at most [#COLUMNS]
    /// @param skipped the first columns of b that are not c's
    /// @param rows 1 to [#ROWS]
    /// @param columns of c, at most `width - skipped`
    static void product(
            MemorySegment tile,
            MemorySegment c,
            long co,
            long ldc,
            MemorySegment a,
            long ao,
            long lda,
            MemorySegment b,
            long bo,
            long ldb,
            int width,
            int skipped,
            int rows,
            int columns,
            int k,
            boolean onto) {
        if (!onto && rows == ROWS && columns == width) {
            multiply(c, co, ldc, a, ao, lda, b, bo, ldb, rows, width, k);
            return;
        }
        // Tiles that begin with what c holds would save the way through memory, but 24 more vectors in one method are
        // more than the JVM's first compiler can bear, and then the second is never reached.
        multiply(tile, 0, 4L * width, a, ao, lda, b, bo, ldb, rows, width, k);
        if (onto && rows == ROWS && columns == 3 * V) {
            addWhole(c, co, ldc, tile);
        } else {
            merge(c, co, ldc, tile, 4L * skipped, 4L * width, rows, columns, onto);
        }
    }

    /// c = a * b for one tile of [#ROWS] rows and `columns` columns; of the rows from `rows`
    /// on, c holds nonsense afterwards.
    ///
    /// @param rows 1 to [#ROWS]
    /// @param columns a multiple of [#UNIT], at most [#COLUMNS]
    /// @param ldc bytes from row to row of c, as `lda` of a and `ldb` of b
    static void multiply(
            MemorySegment c,
            long co,
            long ldc,
            MemorySegment a,
            long ao,
            long lda,
            MemorySegment b,
            long bo,
            long ldb,
            int rows,
            int columns,
            int k) {
        int vectors = columns / V;
        if (WIDE) {
            if (vectors == 1) {
                tile8x1(c, co, ldc, a, ao, lda, b, bo, ldb, rows, k);
            } else if (vectors == 2) {
                tile8x2(c, co, ldc, a, ao, lda, b, bo, ldb, rows, k);
            } else if (rows <= 4) {
                tile4x3(c, co, ldc, a, ao, lda, b, bo, ldb, rows, k);
            } else {
                tile8x3(c, co, ldc, a, ao, lda, b, bo, ldb, rows, k);
            }
        } else if (vectors == 1) {
            tile6x1(c, co, ldc, a, ao, lda, b, bo, ldb, rows, k);
        } else {
            tile6x2(c, co, ldc, a, ao, lda, b, bo, ldb, rows, k);
        }
    }

    /// c += tile for a dense tile of 3 vectors a row. Without inner loops: they would cost more than the additions.
    private static void addWhole(MemorySegment c, long co, long ldc, MemorySegment tile) {
        for (int i = 0; i < ROWS; i++) {
            long at = co + i * ldc;
            long from = 3L * i * VB;
            FloatVector x = FloatVector.fromMemorySegment(S, c, at, ORDER);
            FloatVector y = FloatVector.fromMemorySegment(S, c, at + VB, ORDER);
            FloatVector z = FloatVector.fromMemorySegment(S, c, at + 2 * VB, ORDER);
            x.add(FloatVector.fromMemorySegment(S, tile, from, ORDER)).intoMemorySegment(c, at, ORDER);
            y.add(FloatVector.fromMemorySegment(S, tile, from + VB, ORDER)).intoMemorySegment(c, at + VB, ORDER);
            z.add(FloatVector.fromMemorySegment(S, tile, from + 2 * VB, ORDER))
                    .intoMemorySegment(c, at + 2 * VB, ORDER);
        }
    }

    /// c = tile, or c += tile where `onto`, for blocks whose columns need not be whole vectors; all strides in bytes.
    static void merge(
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
    static void scale(MemorySegment c, long co, int n, float factor) {
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

    /// 24 accumulators, 3 vectors of B and 1 of A: 28 of 32 registers.
    private static void tile8x3(
            MemorySegment c,
            long co,
            long ldc,
            MemorySegment a,
            long a0,
            long lda,
            MemorySegment b,
            long bo,
            long ldb,
            int rows,
            int k) {
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
            x = FloatVector.broadcast(S, a.get(FLOAT, a7 + p * 4L));
            c70 = x.fma(b0, c70);
            c71 = x.fma(b1, c71);
            c72 = x.fma(b2, c72);
        }
        c00.intoMemorySegment(c, co, ORDER);
        c01.intoMemorySegment(c, co + VB, ORDER);
        c02.intoMemorySegment(c, co + 2 * VB, ORDER);
        c10.intoMemorySegment(c, co + ldc, ORDER);
        c11.intoMemorySegment(c, co + ldc + VB, ORDER);
        c12.intoMemorySegment(c, co + ldc + 2 * VB, ORDER);
        c20.intoMemorySegment(c, co + 2 * ldc, ORDER);
        c21.intoMemorySegment(c, co + 2 * ldc + VB, ORDER);
        c22.intoMemorySegment(c, co + 2 * ldc + 2 * VB, ORDER);
        c30.intoMemorySegment(c, co + 3 * ldc, ORDER);
        c31.intoMemorySegment(c, co + 3 * ldc + VB, ORDER);
        c32.intoMemorySegment(c, co + 3 * ldc + 2 * VB, ORDER);
        c40.intoMemorySegment(c, co + 4 * ldc, ORDER);
        c41.intoMemorySegment(c, co + 4 * ldc + VB, ORDER);
        c42.intoMemorySegment(c, co + 4 * ldc + 2 * VB, ORDER);
        c50.intoMemorySegment(c, co + 5 * ldc, ORDER);
        c51.intoMemorySegment(c, co + 5 * ldc + VB, ORDER);
        c52.intoMemorySegment(c, co + 5 * ldc + 2 * VB, ORDER);
        c60.intoMemorySegment(c, co + 6 * ldc, ORDER);
        c61.intoMemorySegment(c, co + 6 * ldc + VB, ORDER);
        c62.intoMemorySegment(c, co + 6 * ldc + 2 * VB, ORDER);
        c70.intoMemorySegment(c, co + 7 * ldc, ORDER);
        c71.intoMemorySegment(c, co + 7 * ldc + VB, ORDER);
        c72.intoMemorySegment(c, co + 7 * ldc + 2 * VB, ORDER);
    }

    /// For the columns that 3 vectors do not divide.
    private static void tile8x2(
            MemorySegment c,
            long co,
            long ldc,
            MemorySegment a,
            long a0,
            long lda,
            MemorySegment b,
            long bo,
            long ldb,
            int rows,
            int k) {
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
        c00.intoMemorySegment(c, co, ORDER);
        c01.intoMemorySegment(c, co + VB, ORDER);
        c10.intoMemorySegment(c, co + ldc, ORDER);
        c11.intoMemorySegment(c, co + ldc + VB, ORDER);
        c20.intoMemorySegment(c, co + 2 * ldc, ORDER);
        c21.intoMemorySegment(c, co + 2 * ldc + VB, ORDER);
        c30.intoMemorySegment(c, co + 3 * ldc, ORDER);
        c31.intoMemorySegment(c, co + 3 * ldc + VB, ORDER);
        c40.intoMemorySegment(c, co + 4 * ldc, ORDER);
        c41.intoMemorySegment(c, co + 4 * ldc + VB, ORDER);
        c50.intoMemorySegment(c, co + 5 * ldc, ORDER);
        c51.intoMemorySegment(c, co + 5 * ldc + VB, ORDER);
        c60.intoMemorySegment(c, co + 6 * ldc, ORDER);
        c61.intoMemorySegment(c, co + 6 * ldc + VB, ORDER);
        c70.intoMemorySegment(c, co + 7 * ldc, ORDER);
        c71.intoMemorySegment(c, co + 7 * ldc + VB, ORDER);
    }

    /// For the columns of at most one vector.
    private static void tile8x1(
            MemorySegment c,
            long co,
            long ldc,
            MemorySegment a,
            long a0,
            long lda,
            MemorySegment b,
            long bo,
            long ldb,
            int rows,
            int k) {
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
        c00.intoMemorySegment(c, co, ORDER);
        c10.intoMemorySegment(c, co + ldc, ORDER);
        c20.intoMemorySegment(c, co + 2 * ldc, ORDER);
        c30.intoMemorySegment(c, co + 3 * ldc, ORDER);
        c40.intoMemorySegment(c, co + 4 * ldc, ORDER);
        c50.intoMemorySegment(c, co + 5 * ldc, ORDER);
        c60.intoMemorySegment(c, co + 6 * ldc, ORDER);
        c70.intoMemorySegment(c, co + 7 * ldc, ORDER);
    }

    /// For the last rows, and for products of few rows.
    private static void tile4x3(
            MemorySegment c,
            long co,
            long ldc,
            MemorySegment a,
            long a0,
            long lda,
            MemorySegment b,
            long bo,
            long ldb,
            int rows,
            int k) {
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
        c00.intoMemorySegment(c, co, ORDER);
        c01.intoMemorySegment(c, co + VB, ORDER);
        c02.intoMemorySegment(c, co + 2 * VB, ORDER);
        c10.intoMemorySegment(c, co + ldc, ORDER);
        c11.intoMemorySegment(c, co + ldc + VB, ORDER);
        c12.intoMemorySegment(c, co + ldc + 2 * VB, ORDER);
        c20.intoMemorySegment(c, co + 2 * ldc, ORDER);
        c21.intoMemorySegment(c, co + 2 * ldc + VB, ORDER);
        c22.intoMemorySegment(c, co + 2 * ldc + 2 * VB, ORDER);
        c30.intoMemorySegment(c, co + 3 * ldc, ORDER);
        c31.intoMemorySegment(c, co + 3 * ldc + VB, ORDER);
        c32.intoMemorySegment(c, co + 3 * ldc + 2 * VB, ORDER);
    }

    /// 12 accumulators, 2 vectors of B and 1 of A: 15 of 16 registers.
    private static void tile6x2(
            MemorySegment c,
            long co,
            long ldc,
            MemorySegment a,
            long a0,
            long lda,
            MemorySegment b,
            long bo,
            long ldb,
            int rows,
            int k) {
        long a1 = a0 + Math.min(1, rows - 1) * lda;
        long a2 = a0 + Math.min(2, rows - 1) * lda;
        long a3 = a0 + Math.min(3, rows - 1) * lda;
        long a4 = a0 + Math.min(4, rows - 1) * lda;
        long a5 = a0 + Math.min(5, rows - 1) * lda;
        FloatVector zero = FloatVector.zero(S);
        FloatVector c00 = zero, c01 = zero;
        FloatVector c10 = zero, c11 = zero;
        FloatVector c20 = zero, c21 = zero;
        FloatVector c30 = zero, c31 = zero;
        FloatVector c40 = zero, c41 = zero;
        FloatVector c50 = zero, c51 = zero;
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
        }
        c00.intoMemorySegment(c, co, ORDER);
        c01.intoMemorySegment(c, co + VB, ORDER);
        c10.intoMemorySegment(c, co + ldc, ORDER);
        c11.intoMemorySegment(c, co + ldc + VB, ORDER);
        c20.intoMemorySegment(c, co + 2 * ldc, ORDER);
        c21.intoMemorySegment(c, co + 2 * ldc + VB, ORDER);
        c30.intoMemorySegment(c, co + 3 * ldc, ORDER);
        c31.intoMemorySegment(c, co + 3 * ldc + VB, ORDER);
        c40.intoMemorySegment(c, co + 4 * ldc, ORDER);
        c41.intoMemorySegment(c, co + 4 * ldc + VB, ORDER);
        c50.intoMemorySegment(c, co + 5 * ldc, ORDER);
        c51.intoMemorySegment(c, co + 5 * ldc + VB, ORDER);
    }

    /// For the columns of at most one vector.
    private static void tile6x1(
            MemorySegment c,
            long co,
            long ldc,
            MemorySegment a,
            long a0,
            long lda,
            MemorySegment b,
            long bo,
            long ldb,
            int rows,
            int k) {
        long a1 = a0 + Math.min(1, rows - 1) * lda;
        long a2 = a0 + Math.min(2, rows - 1) * lda;
        long a3 = a0 + Math.min(3, rows - 1) * lda;
        long a4 = a0 + Math.min(4, rows - 1) * lda;
        long a5 = a0 + Math.min(5, rows - 1) * lda;
        FloatVector zero = FloatVector.zero(S);
        FloatVector c00 = zero;
        FloatVector c10 = zero;
        FloatVector c20 = zero;
        FloatVector c30 = zero;
        FloatVector c40 = zero;
        FloatVector c50 = zero;
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
        }
        c00.intoMemorySegment(c, co, ORDER);
        c10.intoMemorySegment(c, co + ldc, ORDER);
        c20.intoMemorySegment(c, co + 2 * ldc, ORDER);
        c30.intoMemorySegment(c, co + 3 * ldc, ORDER);
        c40.intoMemorySegment(c, co + 4 * ldc, ORDER);
        c50.intoMemorySegment(c, co + 5 * ldc, ORDER);
    }
}
