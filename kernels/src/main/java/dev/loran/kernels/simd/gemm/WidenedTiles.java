package dev.loran.kernels.simd.gemm;

import static dev.loran.kernels.simd.vector.Vectors.F;
import static dev.loran.kernels.simd.vector.Vectors.I;
import static dev.loran.kernels.simd.vector.Vectors.V;

import dev.loran.engine.backend.AttentionKernels.Sizes;
import dev.loran.kernels.simd.gemm.Bf16Tiles.Left;
import dev.loran.kernels.simd.gemm.Bf16Tiles.Right;
import dev.loran.kernels.simd.vector.Vectors;
import dev.loran.kernels.simd.vector.Workspace;
import dev.loran.kernels.simd.vector.Workspace.Slot;
import java.lang.foreign.MemorySegment;
import java.nio.ByteOrder;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.IntVector;
import jdk.incubator.vector.VectorOperators;

/// BF16 panels multiplied by F32 as F32, for processors that cannot multiply BF16. A task widens one block of a panel
/// at a time into scratch memory in the second-level cache, where all its rows use it ([GemmTiles]). A few rows, as in
/// generation, would be slowed down by going through that memory; for them, each vector is widened in registers.
public final class WidenedTiles implements Bf16Tiles {
    private static final int FEW = 4;

    /// More than of an F32 product: a panel is widened once for all of them.
    private static final int TASK_ROWS = 128;

    /// Number of pairs along k that are processed for one vector of columns before the next: memory is read almost in
    /// order.
    private static final int RUN = 32;

    private static final ByteOrder ORDER = ByteOrder.nativeOrder();
    private static final Sizes SIZES =
            new Sizes(GemmTiles.ROWS, GemmTiles.COLUMNS, GemmTiles.UNIT, 2, 512, Float.BYTES, TASK_ROWS);

    @Override
    public Sizes sizes() {
        return SIZES;
    }

    @Override
    public boolean rounds() {
        return false;
    }

    @Override
    public void packRows(Workspace workspace, Left to, Operand a) {
        int rows = a.rows();
        int k = a.cols();
        if (a.transposed()) {
            GemmPacking.transpose(to.memory(), to.offset(), to.stride() / 4, a.memory(), a.offset(), a.ld(), k, rows);
            return;
        }
        for (int row = 0; row < rows; row++) {
            MemorySegment.copy(a.memory(), a.at(row, 0), to.memory(), to.offset() + row * to.stride(), 4L * k);
        }
    }

    @Override
    public void panel(Workspace workspace, Operand c, Left a, Right b, boolean onto) {
        int rows = c.rows();
        int width = b.width();
        if (rows <= FEW) {
            MemorySegment sums = workspace.segment(Slot.TILE, 4L * FEW * width);
            fewRows(sums, a, b, rows);
            GemmTiles.merge(c.memory(), c.offset(), 4L * c.ld(), sums, 0, 4L * width, rows, c.cols(), onto);
            return;
        }
        MemorySegment wide = workspace.segment(Slot.WIDENED, 4L * b.k() * width);
        if (FmaTiles.available()) {
            FmaTiles.widen(wide, b);
            FmaTiles.product(workspace, c, a, wide, width, b.k(), onto);
            return;
        }
        Bf16Panels.widen(wide, b.memory(), b.offset(), width, b.k() / 2);
        float[] tile = workspace.tile();
        GemmPanels panel = GemmPanels.one(wide, b.k(), c.cols());
        Operand left = new Operand(a.memory(), a.offset(), (int) (a.stride() / 4), false, rows, b.k());
        for (int i = 0; i < rows; i += GemmTiles.ROWS) {
            GemmTiles.product(tile, c, left, i, panel, 0, 0, onto);
        }
    }

    /// sums = a · b. Rows of sums beyond `rows`, up to an even number, are left with meaningless values.
    private static void fewRows(MemorySegment sums, Left a, Right b, int rows) {
        int width = b.width();
        int pairs = b.k() / 2;
        long step = 4L * width;
        sums.asSlice(0, FEW * step).fill((byte) 0);
        for (int p = 0; p < pairs; p += RUN) {
            int run = Math.min(RUN, pairs - p);
            for (int i = 0; i < rows; i += 2) {
                long row = a.offset() + i * a.stride() + 8L * p;
                long next = i + 1 < rows ? a.stride() : 0;
                for (int j = 0; j < width; j += V) {
                    long from = b.offset() + p * step + 4L * j;
                    twoRows(sums, i * step + 4L * j, step, a.memory(), row, next, b.memory(), from, step, run);
                }
            }
        }
    }

    /// c += a · b for two rows of c and one vector of columns.
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
