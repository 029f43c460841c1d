package dev.loran.kernels.simd.gemm;

import static dev.loran.kernels.simd.gemm.GemmTiles.S;
import static dev.loran.kernels.simd.gemm.GemmTiles.V;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;
import jdk.incubator.vector.FloatVector;

/// The tiles of [GemmTiles] for processors with 16 vector registers.
final class NarrowTiles {
    private static final long VB = S.vectorByteSize();

    private static final ByteOrder ORDER = ByteOrder.nativeOrder();
    private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT_UNALIGNED;

    private NarrowTiles() {}

    /// 12 accumulators, 2 vectors of B and 1 of A: 15 of 16 registers.
    static void tile6x2(
            float[] c, MemorySegment a, long a0, long lda, MemorySegment b, long bo, long ldb, int rows, int k) {
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
    }

    /// For the columns of at most one vector.
    static void tile6x1(
            float[] c, MemorySegment a, long a0, long lda, MemorySegment b, long bo, long ldb, int rows, int k) {
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
        c00.intoArray(c, 0);
        c10.intoArray(c, V);
        c20.intoArray(c, 2 * V);
        c30.intoArray(c, 3 * V);
        c40.intoArray(c, 4 * V);
        c50.intoArray(c, 5 * V);
    }
}
