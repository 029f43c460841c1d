package dev.loran.kernels.simd;

import static dev.loran.kernels.simd.AttentionBlock.HIGH;
import static dev.loran.kernels.simd.AttentionBlock.KEYS;
import static dev.loran.kernels.simd.AttentionBlock.QUERIES;

import dev.loran.kernels.simd.AttentionSimd.Inputs;
import dev.loran.kernels.simd.gemm.Bf16Panels;
import dev.loran.kernels.simd.gemm.Bf16Tiles;
import dev.loran.kernels.simd.gemm.Bf16Tiles.Left;
import dev.loran.kernels.simd.gemm.Bf16Tiles.Right;
import dev.loran.kernels.simd.gemm.GemmBf16;
import dev.loran.kernels.simd.gemm.Operand;
import dev.loran.kernels.simd.vector.Workspace;
import java.lang.foreign.MemorySegment;

/// The products of an [AttentionBlock] in BF16: operands are rounded when they are packed, attention weights and their
/// gradients when they are multiplied; sums and the softmax are F32.
///
/// Queries are processed in groups, the columns of one panel; a group is multiplied with every key that any of its
/// queries sees. Hidden entries among them have a weight of 0, and so do the padding keys and queries that complete
/// tiles.
///
/// @param m scratch memory
/// @param left byte offset at which the left-hand side of a product is packed
record AttentionBf16(Bf16Tiles tiles, Workspace workspace, Inputs a, MemorySegment m, long left) {
    // ---- scratch memory needed, in bytes

    /// Size of a head's rows of `n` queries as columns of a right-hand side.
    static long columnsBytes(Bf16Tiles tiles, Inputs a, int n) {
        return lines(Bf16Panels.bytes(a.d(), n, tiles));
    }

    /// Size of a head's rows of `n` queries or keys as rows of a right-hand side.
    static long panelBytes(Bf16Tiles tiles, Inputs a, int n) {
        return lines(Bf16Panels.bytes(n, a.d(), tiles));
    }

    /// Size of a head's rows of a block of keys as a left-hand side, followed by the same as rows of a right-hand side.
    static long keysBytes(Bf16Tiles tiles, Inputs a) {
        return rowsBytes(tiles, a) + panelBytes(tiles, a, KEYS);
    }

    private static long rowsBytes(Bf16Tiles tiles, Inputs a) {
        return wholeRows(tiles, KEYS) * GemmBf16.stride(a.d(), tiles);
    }

    /// Size of a left-hand side of keys by queries, or of queries by keys, whichever is larger.
    static long leftBytes(Bf16Tiles tiles) {
        return Math.max(
                wholeRows(tiles, KEYS) * GemmBf16.stride(QUERIES, tiles),
                wholeRows(tiles, QUERIES) * GemmBf16.stride(KEYS, tiles));
    }

    private static int wholeRows(Bf16Tiles tiles, int n) {
        return AttentionBlock.up(n, tiles.sizes().rows());
    }

    private static long lines(long bytes) {
        return Math.ceilDiv(bytes, 64) * 64;
    }

    // ---- packing

    /// Packs rows of d elements, `stride` bytes apart, as columns.
    void packColumns(long to, MemorySegment x, long at, long stride, int n) {
        columns(to, n).pack(workspace, new Operand(x, at, elements(stride), true, a.d(), n), a.d());
    }

    /// Packs rows of d elements, `stride` bytes apart, as rows of a right-hand side.
    void packPanel(long to, MemorySegment x, long at, long stride, int n) {
        rows(to, n).pack(workspace, new Operand(x, at, elements(stride), false, n, a.d()), n);
    }

    /// Packs rows of keys or values, d elements each, `stride` bytes apart.
    ///
    /// @param left whether they are needed as a left-hand side
    /// @param right whether they are needed as rows of a right-hand side
    void packKeys(long to, MemorySegment x, long at, long stride, int n, boolean left, boolean right) {
        if (left) {
            long row = GemmBf16.stride(a.d(), tiles);
            Operand keys = new Operand(x, at, elements(stride), false, n, a.d());
            GemmBf16.packRows(tiles, workspace, new Left(m, to, row), keys);
            m.asSlice(to + n * row, (wholeKeys(n) - n) * row).fill((byte) 0);
        }
        if (right) {
            packPanel(to + rowsBytes(tiles, a), x, at, stride, n);
        }
    }

    private Bf16Panels columns(long at, int n) {
        return new Bf16Panels(m, at, a.d(), n, tiles);
    }

    private Bf16Panels rows(long at, int n) {
        return new Bf16Panels(m, at, wholeQueries(n), a.d(), tiles);
    }

    /// Rounds `n` up to whole units of columns: the queries that have scores, padding included; or keys, in whole
    /// tiles.
    private int wholeQueries(int n) {
        return AttentionBlock.up(n, tiles.sizes().unit());
    }

    private static int wholeKeys(int n) {
        return AttentionBlock.up(n, AttentionTiles.ROWS);
    }

    private static int elements(long bytes) {
        return Math.toIntExact(bytes / 4);
    }

    // ---- groups of queries

    private int group() {
        return tiles.sizes().columns();
    }

    /// How many of the block's keys are multiplied with the group of `query`, in whole tiles.
    int met(AttentionBlock pair, int query) {
        return wholeKeys(pair.tilesBefore((query / group() + 1) * group()));
    }

    // ---- products

    /// y (keys, queries) ← keys (keys, d) · columns (d, queries), group by group.
    void scores(AttentionBlock pair, long y, long keys, long columns) {
        Bf16Panels queries = columns(columns, pair.n());
        long stride = GemmBf16.stride(a.d(), tiles);
        for (int panel = 0; panel < queries.count(); panel++) {
            int first = panel * group();
            int width = queries.width(panel);
            for (int block = 0; block < queries.blocks(); block++) {
                long from =
                        (long) block * tiles.sizes().kBlock() * tiles.sizes().bytesOfA();
                Operand scores = new Operand(m, y + 4L * first, QUERIES, false, met(pair, first), width);
                Left left = new Left(m, keys + from, stride);
                tiles.panel(workspace, scores, left, queries.right(panel, block), block > 0);
            }
        }
    }

    /// sum (queries, d) ← xᵀ · rows of `keys`, or += from the second block of keys on, with x (keys, queries).
    void timesKeys(AttentionBlock pair, long sum, long x, long keys) {
        Bf16Panels right = rows(keys + rowsBytes(tiles, a), pair.count());
        for (int first = 0; first < pair.n(); first += group()) {
            int queries = Math.min(group(), wholeQueries(pair.n()) - first);
            int met = met(pair, first);
            Operand weights = new Operand(m, x + 4L * first, QUERIES, true, queries, met);
            multiply(m, sum + first * a.wide(), weights, right, 0, pair.onto());
        }
    }

    /// sums (keys, d) ← x · rows (queries, d), or += if `onto`, for the keys that any group sees, with x (keys,
    /// queries).
    void timesQueries(AttentionBlock pair, MemorySegment sums, long to, long x, long rows, boolean onto) {
        Bf16Panels right = rows(rows, pair.n());
        int done = 0;
        for (int first = 0; first < pair.n(); first += group()) {
            // Every group after the first one that sees a key sees it too.
            int met = met(pair, first);
            int queries = wholeQueries(pair.n()) - first;
            Operand weights = new Operand(m, x + done * HIGH + 4L * first, QUERIES, false, met - done, queries);
            multiply(sums, to + done * a.wide(), weights, right, first, onto);
            done = met;
        }
    }

    /// c (rows, d) ← weights (rows, k) · right, starting at row `from` of right, or += if `onto`.
    private void multiply(MemorySegment c, long to, Operand weights, Bf16Panels right, int from, boolean onto) {
        int rows = weights.rows();
        int k = weights.cols();
        if (rows == 0) {
            return;
        }
        if (k == 0) {
            if (!onto) {
                c.asSlice(to, rows * a.wide()).fill((byte) 0);
            }
            return;
        }
        Left packed = new Left(m, left, GemmBf16.stride(k, tiles));
        GemmBf16.packRows(tiles, workspace, packed, weights);
        for (int panel = 0; panel < right.count(); panel++) {
            int width = right.width(panel);
            Operand target = new Operand(c, to + 4L * panel * group(), elements(a.wide()), false, rows, width);
            long at = right.at(panel, 0) + 2L * from * width;
            Right part =
                    new Right(m, at, width, AttentionBlock.up(k, tiles.sizes().step()));
            tiles.panel(workspace, target, packed, part, onto);
        }
    }
}
