package dev.loran.kernels.simd;

import dev.loran.kernels.simd.gemm.GemmTiles;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.VectorSpecies;

/// The products of attention with a transposed matrix of scores. Unlike in [GemmTiles], rows of a are adjacent, and
/// consecutive k are [AttentionBlock#HIGH] bytes apart. That is a constant, because with a stride that it does not
/// know, C2 checks the bounds of every element.
final class AttentionTiles {
    private static final VectorSpecies<Float> S = GemmTiles.S;

    private static final int V = GemmTiles.V;

    private static final long VB = 4L * V;

    private static final long STEP = AttentionBlock.HIGH;

    /// With 16 registers there is room for only half as many rows.
    private static final boolean WIDE = GemmTiles.ROWS == 8;

    /// Rows of a tile; c and a must be padded to whole tiles of them.
    static final int ROWS = WIDE ? 8 : 4;

    /// Columns of a whole tile.
    static final int COLUMNS = 2 * V;

    /// Columns of c and b are a multiple of this: whole tiles or, with 512-bit vectors, half of one.
    static final int UNIT = 16;

    private static final ByteOrder ORDER = ByteOrder.nativeOrder();
    private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT_UNALIGNED;

    private AttentionTiles() {}

    /// tile (ROWS, columns) ← aᵀ · b (k, columns), with a (k, ROWS) and b in `m`.
    ///
    /// @param tile scratch of [GemmTiles#TILE] elements
    /// @param ldb bytes from row to row of b
    /// @param columns [#COLUMNS], or half of it with 512-bit vectors
    static void multiply(float[] tile, MemorySegment m, long a, long b, long ldb, int columns, int k) {
        if (columns == V) {
            tile8x1(tile, m, a, m, b, ldb, k);
        } else if (WIDE) {
            tile8x2(tile, m, a, m, b, ldb, k);
        } else {
            tile4x2(tile, m, a, m, b, ldb, k);
        }
    }

    /// 16 accumulators, 2 vectors of b and 1 of a: 19 of 32 registers.
    private static void tile8x2(float[] c, MemorySegment a, long a0, MemorySegment b, long bo, long ldb, int k) {
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
            long x = a0 + p * STEP;
            FloatVector b0 = FloatVector.fromMemorySegment(S, b, q, ORDER);
            FloatVector b1 = FloatVector.fromMemorySegment(S, b, q + VB, ORDER);
            FloatVector y = FloatVector.broadcast(S, a.get(FLOAT, x));
            c00 = y.fma(b0, c00);
            c01 = y.fma(b1, c01);
            y = FloatVector.broadcast(S, a.get(FLOAT, x + 4L));
            c10 = y.fma(b0, c10);
            c11 = y.fma(b1, c11);
            y = FloatVector.broadcast(S, a.get(FLOAT, x + 8L));
            c20 = y.fma(b0, c20);
            c21 = y.fma(b1, c21);
            y = FloatVector.broadcast(S, a.get(FLOAT, x + 12L));
            c30 = y.fma(b0, c30);
            c31 = y.fma(b1, c31);
            y = FloatVector.broadcast(S, a.get(FLOAT, x + 16L));
            c40 = y.fma(b0, c40);
            c41 = y.fma(b1, c41);
            y = FloatVector.broadcast(S, a.get(FLOAT, x + 20L));
            c50 = y.fma(b0, c50);
            c51 = y.fma(b1, c51);
            y = FloatVector.broadcast(S, a.get(FLOAT, x + 24L));
            c60 = y.fma(b0, c60);
            c61 = y.fma(b1, c61);
            y = FloatVector.broadcast(S, a.get(FLOAT, x + 28L));
            c70 = y.fma(b0, c70);
            c71 = y.fma(b1, c71);
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

    /// For the last 16 columns, if they are a single vector.
    private static void tile8x1(float[] c, MemorySegment a, long a0, MemorySegment b, long bo, long ldb, int k) {
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
            long x = a0 + p * STEP;
            FloatVector b0 = FloatVector.fromMemorySegment(S, b, q, ORDER);
            FloatVector y = FloatVector.broadcast(S, a.get(FLOAT, x));
            c00 = y.fma(b0, c00);
            y = FloatVector.broadcast(S, a.get(FLOAT, x + 4L));
            c10 = y.fma(b0, c10);
            y = FloatVector.broadcast(S, a.get(FLOAT, x + 8L));
            c20 = y.fma(b0, c20);
            y = FloatVector.broadcast(S, a.get(FLOAT, x + 12L));
            c30 = y.fma(b0, c30);
            y = FloatVector.broadcast(S, a.get(FLOAT, x + 16L));
            c40 = y.fma(b0, c40);
            y = FloatVector.broadcast(S, a.get(FLOAT, x + 20L));
            c50 = y.fma(b0, c50);
            y = FloatVector.broadcast(S, a.get(FLOAT, x + 24L));
            c60 = y.fma(b0, c60);
            y = FloatVector.broadcast(S, a.get(FLOAT, x + 28L));
            c70 = y.fma(b0, c70);
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

    /// 8 accumulators, 2 vectors of b and 1 of a: 11 of 16 registers.
    private static void tile4x2(float[] c, MemorySegment a, long a0, MemorySegment b, long bo, long ldb, int k) {
        FloatVector zero = FloatVector.zero(S);
        FloatVector c00 = zero, c01 = zero;
        FloatVector c10 = zero, c11 = zero;
        FloatVector c20 = zero, c21 = zero;
        FloatVector c30 = zero, c31 = zero;
        for (int p = 0; p < k; p++) {
            long q = bo + p * ldb;
            long x = a0 + p * STEP;
            FloatVector b0 = FloatVector.fromMemorySegment(S, b, q, ORDER);
            FloatVector b1 = FloatVector.fromMemorySegment(S, b, q + VB, ORDER);
            FloatVector y = FloatVector.broadcast(S, a.get(FLOAT, x));
            c00 = y.fma(b0, c00);
            c01 = y.fma(b1, c01);
            y = FloatVector.broadcast(S, a.get(FLOAT, x + 4L));
            c10 = y.fma(b0, c10);
            c11 = y.fma(b1, c11);
            y = FloatVector.broadcast(S, a.get(FLOAT, x + 8L));
            c20 = y.fma(b0, c20);
            c21 = y.fma(b1, c21);
            y = FloatVector.broadcast(S, a.get(FLOAT, x + 12L));
            c30 = y.fma(b0, c30);
            c31 = y.fma(b1, c31);
        }
        c00.intoArray(c, 0);
        c01.intoArray(c, V);
        c10.intoArray(c, 2 * V);
        c11.intoArray(c, 3 * V);
        c20.intoArray(c, 4 * V);
        c21.intoArray(c, 5 * V);
        c30.intoArray(c, 6 * V);
        c31.intoArray(c, 7 * V);
    }
}
