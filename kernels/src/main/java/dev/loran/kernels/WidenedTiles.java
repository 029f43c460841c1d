package dev.loran.kernels;

import dev.loran.kernels.Workspace.Slot;
import java.lang.foreign.MemorySegment;

/// BF16 panels multiplied as F32, where nothing multiplies BF16: a task widens one block of a panel at a time into scratch
/// memory of the second-level cache, where all its rows use it ([GemmTiles]).
final class WidenedTiles implements Bf16Tiles {
    private static final Sizes SIZES =
            new Sizes(GemmTiles.ROWS, GemmTiles.COLUMNS, GemmTiles.UNIT, 2, 512, Float.BYTES);

    @Override
    public Sizes sizes() {
        return SIZES;
    }

    @Override
    public void packRow(MemorySegment to, long toOff, MemorySegment x, long xOff, int n) {
        Bf16Panels.roundInF32(to, toOff, x, xOff, n);
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
        MemorySegment wide = workspace.segment(Slot.WIDENED, 4L * k * width);
        Bf16Panels.widen(wide, b, bo, width, k / 2);
        MemorySegment tile = workspace.segment(Slot.TILE, GemmTiles.TILE_BYTES);
        for (int i = 0; i < rows; i += GemmTiles.ROWS) {
            int count = Math.min(GemmTiles.ROWS, rows - i);
            long to = co + i * ldc;
            GemmTiles.product(
                    tile, c, to, ldc, a, ao + i * lda, lda, wide, 0, 4L * width, width, 0, count, columns, k, onto);
        }
    }
}
