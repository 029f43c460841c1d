package dev.loran.kernels;

import static dev.loran.kernels.Vectors.F;
import static dev.loran.kernels.Vectors.I;
import static dev.loran.kernels.Vectors.V;

import dev.loran.kernels.GemmSimd.Matrix;
import dev.loran.kernels.Workspace.Slot;
import java.lang.foreign.MemorySegment;
import java.nio.ByteOrder;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.IntVector;
import jdk.incubator.vector.VectorOperators;

/// BF16 panels multiplied as F32, where nothing multiplies BF16: a task widens one block of a panel at a time into scratch
/// memory of the second-level cache, where all its rows use it ([GemmTiles]). A few rows, as in generation, would wait for
/// that memory: they widen each vector for themselves.
final class WidenedTiles implements Bf16Tiles {
    private static final int FEW = 4;

    /// Pairs along k that one vector of columns passes before the next: memory is read almost in order.
    private static final int RUN = 32;

    private static final ByteOrder ORDER = ByteOrder.nativeOrder();
    private static final Sizes SIZES =
            new Sizes(GemmTiles.ROWS, GemmTiles.COLUMNS, GemmTiles.UNIT, 2, 512, Float.BYTES);

    @Override
    public Sizes sizes() {
        return SIZES;
    }

    @Override
    public void packRows(Workspace workspace, MemorySegment to, long toOff, long stride, Matrix a, int rows, int k) {
        Matrix from = a;
        if (a.transposed()) {
            MemorySegment turned = workspace.segment(Slot.TURNED, 4L * rows * k);
            GemmPacking.transpose(turned, 0, k, a.memory(), a.offset(), a.ld(), k, rows);
            from = new Matrix(turned, 0, k, false);
        }
        for (int row = 0; row < rows; row++) {
            Bf16Panels.roundInF32(to, toOff + row * stride, from.memory(), from.at(row, 0), k);
        }
    }

    @Override
    public void panel(
            Workspace workspace,
            MemorySegment c,
            long co,
            long ldc,
            MemorySegment a,
            long ao,
            long lda,
            MemorySegment b,
            long bo,
            int width,
            int rows,
            int columns,
            int k,
            boolean onto) {
        if (rows <= FEW) {
            MemorySegment sums = workspace.segment(Slot.TILE, 4L * FEW * width);
            fewRows(sums, a, ao, lda, b, bo, width, rows, k / 2);
            GemmTiles.merge(c, co, ldc, sums, 0, 4L * width, rows, columns, onto);
            return;
        }
        MemorySegment wide = workspace.segment(Slot.WIDENED, 4L * k * width);
        Bf16Panels.widen(wide, b, bo, width, k / 2);
        float[] tile = workspace.tile();
        for (int i = 0; i < rows; i += GemmTiles.ROWS) {
            int count = Math.min(GemmTiles.ROWS, rows - i);
            long to = co + i * ldc;
            GemmTiles.product(
                    tile, c, to, ldc, a, ao + i * lda, lda, wide, 0, 4L * width, width, 0, count, columns, k, onto);
        }
    }

    /// sums = a · b; beyond `rows`, up to an even number of rows, sums holds nonsense afterwards.
    private static void fewRows(
            MemorySegment sums,
            MemorySegment a,
            long ao,
            long lda,
            MemorySegment b,
            long bo,
            int width,
            int rows,
            int pairs) {
        long step = 4L * width;
        sums.asSlice(0, FEW * step).fill((byte) 0);
        for (int p = 0; p < pairs; p += RUN) {
            int run = Math.min(RUN, pairs - p);
            for (int i = 0; i < rows; i += 2) {
                long row = ao + i * lda + 8L * p;
                long next = i + 1 < rows ? lda : 0;
                for (int j = 0; j < width; j += V) {
                    twoRows(sums, i * step + 4L * j, step, a, row, next, b, bo + p * step + 4L * j, step, run);
                }
            }
        }
    }

    /// c += a · b for a vector of columns of two rows of c.
    private static void twoRows(
            MemorySegment c,
            long co,
            long ldc,
            MemorySegment a,
            long a0,
            long lda,
            MemorySegment b,
            long bo,
            long ldb,
            int pairs) {
        long a1 = a0 + lda;
        FloatVector even0 = FloatVector.zero(F);
        FloatVector even1 = even0;
        FloatVector odd0 = even0;
        FloatVector odd1 = even0;
        for (int p = 0; p < pairs; p++) {
            IntVector pair = IntVector.fromMemorySegment(I, b, bo + p * ldb, ORDER);
            FloatVector even = pair.lanewise(VectorOperators.LSHL, 16).reinterpretAsFloats();
            FloatVector odd = pair.and(0xffff0000).reinterpretAsFloats();
            even0 = Vectors.splat(a, a0 + p * 8L).fma(even, even0);
            even1 = Vectors.splat(a, a1 + p * 8L).fma(even, even1);
            odd0 = Vectors.splat(a, a0 + p * 8L + 4).fma(odd, odd0);
            odd1 = Vectors.splat(a, a1 + p * 8L + 4).fma(odd, odd1);
        }
        Vectors.store(c, co, Vectors.load(c, co).add(even0.add(odd0)));
        Vectors.store(c, co + ldc, Vectors.load(c, co + ldc).add(even1.add(odd1)));
    }
}
