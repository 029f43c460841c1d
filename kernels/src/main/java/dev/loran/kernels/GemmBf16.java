package dev.loran.kernels;

import dev.loran.kernels.GemmSimd.Matrix;
import dev.loran.kernels.Workspace.Slot;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Random;
import org.jspecify.annotations.Nullable;

/// Products of F32 matrices rounded to BF16 on the way, or of one such and BF16 panels, summed in F32.
///
/// Each element of C is summed over k in order, in blocks that k alone decides: the same bits for every number of threads.
final class GemmBf16 {
    /// Rows of A begin in different sets of the cache.
    private static final int ROW_GAP = 64;

    private GemmBf16() {}

    // ---- which tiles

    /// Made when first asked for.
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

    /// The fastest tiles of this machine.
    static Bf16Tiles tiles() {
        return Choice.TILES;
    }

    /// What [#tiles] chose, and why nothing faster: one line.
    static String describe() {
        return Choice.REASON;
    }

    /// Multiplies two random matrices with both kinds of tiles; what they disagree about, or null.
    static @Nullable String disagreement(Bf16Tiles tiles, Bf16Tiles trusted) {
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
            Matrix left = new Matrix(a, 0, k, false);
            Matrix right = new Matrix(b, 0, n, false);
            multiply(
                    parallel,
                    new Matrix(c, 0, n, false),
                    left,
                    panels(parallel, arena, tiles, right, k, n),
                    m,
                    0,
                    null);
            Bf16Panels panels = panels(parallel, arena, trusted, right, k, n);
            multiply(parallel, new Matrix(expected, 0, n, false), left, panels, m, 0, null);
            for (long i = 0; i < (long) m * n; i++) {
                float is = c.getAtIndex(ValueLayout.JAVA_FLOAT, i);
                float should = expected.getAtIndex(ValueLayout.JAVA_FLOAT, i);
                // The terms are of size 1 and the same on both sides; only the order of 70 sums differs.
                if (!(Math.abs(is - should) <= 1e-4f)) {
                    return "their product of two small matrices is wrong: " + is + " for " + should;
                }
            }
            return null;
        }
    }

    private static Bf16Panels panels(Parallel parallel, Arena arena, Bf16Tiles tiles, Matrix b, int k, int n) {
        return new Bf16Panels(arena.allocate(Bf16Panels.bytes(k, n, tiles), 64), 0, k, n, tiles).pack(parallel, b);
    }

    private static MemorySegment normal(Arena arena, Random random, int n) {
        MemorySegment x = arena.allocate(4L * n, 64);
        for (int i = 0; i < n; i++) {
            x.setAtIndex(ValueLayout.JAVA_FLOAT, i, (float) random.nextGaussian());
        }
        return x;
    }

    // ---- the product

    /// B is packed in pieces of at most 32 MiB and so many rows: whole blocks of k.
    private static final long PACKED_ELEMENTS = 1L << 24;

    private static final int PACKED_ROWS = 4096;

    /// C (m, n) ← op(A) · op(B) + beta · C + bias, both rounded here, B once for all rows.
    static void product(
            Parallel parallel,
            Bf16Tiles tiles,
            Matrix c,
            Matrix a,
            Matrix b,
            int m,
            int n,
            int k,
            float beta,
            @Nullable Matrix bias) {
        if (m == 0 || n == 0) {
            return;
        }
        if (k == 0) {
            GemmSimd.prepare(c, 0, m, 0, n, beta, bias);
            return;
        }
        int rows = Math.min(k, PACKED_ROWS);
        int each = tiles.sizes().columns();
        int columns = (int) Math.min(n, Math.max(1, PACKED_ELEMENTS / rows / each) * each);
        MemorySegment memory = parallel.workspace().segment(Slot.PANELS, Bf16Panels.bytes(rows, columns, tiles));
        for (int j = 0; j < n; j += columns) {
            Matrix row = bias == null ? null : bias.from(0, j);
            for (int p = 0; p < k; p += rows) {
                Bf16Panels panels = new Bf16Panels(memory, 0, Math.min(rows, k - p), Math.min(columns, n - j), tiles)
                        .pack(parallel, b.from(p, j));
                multiply(parallel, c.from(0, j), a.from(0, p), panels, m, p == 0 ? beta : 1f, p == 0 ? row : null);
            }
        }
    }

    /// C (m, n) ← op(A) · B + beta · C + bias; bias, where there is one, is a row of n.
    static void multiply(
            Parallel parallel, Matrix c, Matrix a, Bf16Panels b, int m, float beta, @Nullable Matrix bias) {
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
                b.tiles().sizes().rows(),
                b.count(),
                (i, rows, panel, end) -> block(parallel.workspace(), c, a, b, i, rows, panel, end, beta, bias));
    }

    /// [#multiply] by the calling thread alone.
    static void multiplyRows(
            Workspace workspace, Matrix c, Matrix a, Bf16Panels b, int rows, float beta, @Nullable Matrix bias) {
        if (b.k() == 0) {
            GemmSimd.prepare(c, 0, rows, 0, b.n(), beta, bias);
        } else {
            block(workspace, c, a, b, 0, rows, 0, b.count(), beta, bias);
        }
    }

    /// Rows `i` … `i + rows` of C by some panels.
    private static void block(
            Workspace workspace,
            Matrix c,
            Matrix a,
            Bf16Panels b,
            int i,
            int rows,
            int panel0,
            int panel1,
            float beta,
            @Nullable Matrix bias) {
        Bf16Tiles tiles = b.tiles();
        int columns = tiles.sizes().columns();
        boolean onto = beta != 0f || bias != null;
        if (bias != null || beta != 0f && beta != 1f) {
            int j = panel0 * columns;
            GemmSimd.prepare(c, i, rows, j, Math.min(b.n(), panel1 * columns) - j, beta, bias);
        }
        for (int block = 0; block < b.blocks(); block++) {
            int k = b.paddedLength(block);
            long stride = stride(k, tiles);
            MemorySegment left =
                    pack(workspace, a, i, rows, (long) block * tiles.sizes().kBlock(), b, block);
            for (int panel = panel0; panel < panel1; panel++) {
                tiles.panel(
                        workspace,
                        c.memory(),
                        c.at(i, (long) panel * columns),
                        4L * c.ld(),
                        left,
                        0,
                        stride,
                        b.memory(),
                        b.at(panel, block),
                        b.width(panel),
                        rows,
                        b.columns(panel),
                        k,
                        onto);
            }
            onto = true;
        }
    }

    /// Bytes from row to row of A as [#packRows] leaves it.
    static long stride(int k, Bf16Tiles tiles) {
        return Math.ceilDiv(padded(k, tiles) * tiles.sizes().bytesOfA(), ROW_GAP) * (long) ROW_GAP + ROW_GAP;
    }

    private static int padded(int k, Bf16Tiles tiles) {
        return Math.ceilDiv(k, tiles.sizes().step()) * tiles.sizes().step();
    }

    /// Rows of A for one block of k, as the tiles read them.
    private static MemorySegment pack(
            Workspace workspace, Matrix a, int i, int rows, long k0, Bf16Panels b, int block) {
        Bf16Tiles tiles = b.tiles();
        int k = b.blockLength(block);
        long stride = stride(k, tiles);
        int whole = Math.ceilDiv(rows, tiles.sizes().rows()) * tiles.sizes().rows();
        MemorySegment left = workspace.segment(Slot.ROWS, whole * stride);
        packRows(tiles, workspace, left, 0, stride, a.from(i, k0), rows, k);
        return left;
    }

    /// [Bf16Tiles#packRows], and zeros up to whole steps of k.
    static void packRows(
            Bf16Tiles tiles,
            Workspace workspace,
            MemorySegment to,
            long toOff,
            long stride,
            Matrix a,
            int rows,
            int k) {
        tiles.packRows(workspace, to, toOff, stride, a, rows, k);
        int padding = (padded(k, tiles) - k) * tiles.sizes().bytesOfA();
        if (padding == 0) {
            return;
        }
        for (int row = 0; row < rows; row++) {
            long end = toOff + row * stride + (long) k * tiles.sizes().bytesOfA();
            for (int at = 0; at < padding; at += 2) {
                to.set(ValueLayout.JAVA_SHORT, end + at, (short) 0);
            }
        }
    }
}
