package dev.loran.kernels.simd.gemm;

import dev.loran.kernels.simd.gemm.Bf16Tiles.Left;
import dev.loran.kernels.simd.vector.Parallel;
import dev.loran.kernels.simd.vector.Workspace;
import dev.loran.kernels.simd.vector.Workspace.Slot;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Random;
import org.jspecify.annotations.Nullable;

/// Products of two F32 matrices that are rounded to BF16 along the way, or of one such matrix and BF16 panels,
/// accumulated in F32. [WidenedTiles] do not round the left-hand side.
///
/// Each element of C is summed over k in order, in blocks that depend on k alone, so the bits are the same for every
/// number of threads.
public final class GemmBf16 {
    /// Makes rows of A begin in different sets of the cache.
    private static final int ROW_GAP = 64;

    private GemmBf16() {}

    // ---- which tiles

    /// Initialized on first use.
    private static final class Choice {
        private static final Bf16Tiles TILES;

        /// What was chosen, and why nothing faster.
        private static final String REASON;

        static {
            String amx = AmxTiles.obstacle();
            String avx512 = Avx512Tiles.obstacle();
            if (amx == null) {
                TILES = new AmxTiles();
                REASON = "BF16 products by AMX tiles";
            } else if (avx512 == null) {
                TILES = new Avx512Tiles();
                REASON = "BF16 products by AVX512-BF16; no AMX tiles, for " + amx;
            } else {
                TILES = new WidenedTiles();
                REASON = "BF16 weights widened to F32 in products, for " + avx512;
            }
        }
    }

    /// Returns the fastest tiles for BF16 panels on this machine.
    public static Bf16Tiles tiles() {
        return Choice.TILES;
    }

    /// Returns the tiles for products of two F32 matrices in BF16; null where no instruction multiplies BF16, so that
    /// rounding would cost time and give nothing.
    public static @Nullable Bf16Tiles productTiles() {
        return Choice.TILES.rounds() ? Choice.TILES : null;
    }

    /// Says in one line what [#tiles] chose, and why nothing faster.
    public static String describe() {
        return Choice.REASON;
    }

    /// Multiplies two random matrices with both kinds of tiles; returns a description of how the results differ, or
    /// null.
    public static @Nullable String disagreement(Bf16Tiles tiles, Bf16Tiles trusted) {
        int m = 33;
        int n = 50;
        int k = 70;
        Random random = new Random(7);
        try (Arena arena = Arena.ofShared();
                Parallel parallel = new Parallel(1)) {
            MemorySegment a = normal(arena, random, m * k);
            MemorySegment b = normal(arena, random, k * n);
            MemorySegment c = arena.allocate(4L * m * n, 64);
            MemorySegment expected = arena.allocate(4L * m * n, 64);
            Operand left = Operand.dense(a, 0, m, k);
            Operand right = Operand.dense(b, 0, k, n);
            multiply(parallel, Operand.dense(c, 0, m, n), left, panels(parallel, arena, tiles, right), 0, null);
            Bf16Panels panels = panels(parallel, arena, trusted, right);
            multiply(parallel, Operand.dense(expected, 0, m, n), left, panels, 0, null);
            for (long i = 0; i < (long) m * n; i++) {
                float is = c.getAtIndex(ValueLayout.JAVA_FLOAT, i);
                float should = expected.getAtIndex(ValueLayout.JAVA_FLOAT, i);
                // The terms are of magnitude 1 and the same on both sides; only the order of the 70 summands differs.
                if (!(Math.abs(is - should) <= 1e-4f)) {
                    return "their product of two small matrices is wrong: " + is + " for " + should;
                }
            }
            return null;
        }
    }

    private static Bf16Panels panels(Parallel parallel, Arena arena, Bf16Tiles tiles, Operand b) {
        int k = b.rows();
        int n = b.cols();
        return new Bf16Panels(arena.allocate(Bf16Panels.bytes(k, n, tiles), 64), 0, k, n, tiles).pack(parallel, b);
    }

    private static MemorySegment normal(Arena arena, Random random, int n) {
        MemorySegment x = arena.allocate(4L * n, 64);
        for (int i = 0; i < n; i++) {
            x.setAtIndex(ValueLayout.JAVA_FLOAT, i, (float) random.nextGaussian());
        }
        // Not all tiles round the left-hand side.
        Bf16Panels.roundInF32(x, 0, x, 0, n);
        return x;
    }

    // ---- the product

    /// B is packed in pieces of at most 32 MiB and this many rows, which is a whole number of blocks of k.
    private static final long PACKED_ELEMENTS = 1L << 24;

    private static final int PACKED_ROWS = 4096;

    /// c ← a · b + beta · c + bias; both operands are rounded here, b once for all rows.
    public static void product(
            Parallel parallel, Bf16Tiles tiles, Operand c, Operand a, Operand b, float beta, @Nullable Operand bias) {
        int n = b.cols();
        int k = b.rows();
        if (c.rows() == 0 || n == 0) {
            return;
        }
        if (k == 0) {
            GemmSimd.prepare(c, 0, c.rows(), 0, n, beta, bias);
            return;
        }
        int rows = Math.min(k, PACKED_ROWS);
        int each = tiles.sizes().columns();
        int columns = (int) Math.min(n, Math.max(1, PACKED_ELEMENTS / rows / each) * each);
        MemorySegment memory = parallel.workspace().segment(Slot.PANELS, Bf16Panels.bytes(rows, columns, tiles));
        for (int j = 0; j < n; j += columns) {
            Operand row = bias == null ? null : bias.from(0, j);
            for (int p = 0; p < k; p += rows) {
                Bf16Panels panels = new Bf16Panels(memory, 0, Math.min(rows, k - p), Math.min(columns, n - j), tiles)
                        .pack(parallel, b.from(p, j));
                multiply(parallel, c.from(0, j), a.from(0, p), panels, p == 0 ? beta : 1f, p == 0 ? row : null);
            }
        }
    }

    /// c ← a · b + beta · c + bias; bias, if present, is a row with as many columns as b.
    public static void multiply(
            Parallel parallel, Operand c, Operand a, Bf16Panels b, float beta, @Nullable Operand bias) {
        int m = c.rows();
        if (m == 0 || b.n() == 0) {
            return;
        }
        if (b.k() == 0) {
            GemmSimd.prepare(c, 0, m, 0, b.n(), beta, bias);
            return;
        }
        GemmSimd.forBlocks(
                parallel,
                m,
                b.tiles().sizes().taskRows(),
                b.tiles().sizes().rows(),
                b.count(),
                (i, rows, panel, end) ->
                        block(parallel.workspace(), c.rows(i, rows), a.rows(i, rows), b, panel, end, beta, bias));
    }

    /// [#multiply] on the calling thread alone.
    public static void multiplyRows(
            Workspace workspace, Operand c, Operand a, Bf16Panels b, float beta, @Nullable Operand bias) {
        if (b.k() == 0) {
            GemmSimd.prepare(c, 0, c.rows(), 0, b.n(), beta, bias);
        } else {
            block(workspace, c, a, b, 0, b.count(), beta, bias);
        }
    }

    /// The work of one task on its rows of C: some of the panels.
    private static void block(
            Workspace workspace,
            Operand c,
            Operand a,
            Bf16Panels b,
            int panel0,
            int panel1,
            float beta,
            @Nullable Operand bias) {
        Bf16Tiles tiles = b.tiles();
        int columns = tiles.sizes().columns();
        boolean onto = beta != 0f || bias != null;
        if (bias != null || beta != 0f && beta != 1f) {
            int j = panel0 * columns;
            GemmSimd.prepare(c, 0, c.rows(), j, Math.min(b.n(), panel1 * columns) - j, beta, bias);
        }
        for (int block = 0; block < b.blocks(); block++) {
            Left left = pack(workspace, tiles, a.columns(block * tiles.sizes().kBlock(), b.blockLength(block)));
            for (int panel = panel0; panel < panel1; panel++) {
                Operand to = c.columns(panel * columns, b.columns(panel));
                tiles.panel(workspace, to, left, b.right(panel, block), onto);
            }
            onto = true;
        }
    }

    /// Bytes from row to row of A as written by [#packRows].
    public static long stride(int k, Bf16Tiles tiles) {
        return Math.ceilDiv(padded(k, tiles) * tiles.sizes().bytesOfA(), ROW_GAP) * (long) ROW_GAP + ROW_GAP;
    }

    private static int padded(int k, Bf16Tiles tiles) {
        return Math.ceilDiv(k, tiles.sizes().step()) * tiles.sizes().step();
    }

    /// Packs rows of A for one block of k, as the tiles read them.
    private static Left pack(Workspace workspace, Bf16Tiles tiles, Operand a) {
        long stride = stride(a.cols(), tiles);
        int whole = Math.ceilDiv(a.rows(), tiles.sizes().rows()) * tiles.sizes().rows();
        Left left = new Left(workspace.segment(Slot.ROWS, whole * stride), 0, stride);
        packRows(tiles, workspace, left, a);
        return left;
    }

    /// Calls [Bf16Tiles#packRows], and adds zeros up to a whole number of steps of k.
    public static void packRows(Bf16Tiles tiles, Workspace workspace, Left to, Operand a) {
        tiles.packRows(workspace, to, a);
        int k = a.cols();
        int padding = (padded(k, tiles) - k) * tiles.sizes().bytesOfA();
        if (padding == 0) {
            return;
        }
        for (int row = 0; row < a.rows(); row++) {
            long end =
                    to.offset() + row * to.stride() + (long) k * tiles.sizes().bytesOfA();
            for (int at = 0; at < padding; at += 2) {
                to.memory().set(ValueLayout.JAVA_SHORT, end + at, (short) 0);
            }
        }
    }
}
