package dev.loran.kernels;

import static dev.loran.kernels.AttentionBlock.HIGH;
import static dev.loran.kernels.AttentionBlock.KEYS;
import static dev.loran.kernels.AttentionBlock.QUERIES;

import dev.loran.kernels.AttentionSimd.Problem;
import dev.loran.kernels.GemmSimd.Matrix;
import java.lang.foreign.MemorySegment;

/// The products of an [AttentionBlock] in BF16: operands are rounded as they are packed, weights of keys and their slopes
/// when they are multiplied, sums and the softmax are F32.
///
/// Queries come in groups, the columns of one panel: a group meets the keys that one of its queries sees, as a whole. What
/// is hidden among them has a weight of 0, as have keys and queries that are not there and only make tiles whole.
///
/// @param m scratch memory
/// @param left where the left-hand side of a product is packed, in bytes
record AttentionBf16(Bf16Tiles tiles, Workspace workspace, Problem a, MemorySegment m, long left) {
    // ---- what scratch memory it takes, in bytes

    /// A head's rows of `n` queries as columns of a right-hand side.
    static long columnsBytes(Bf16Tiles tiles, Problem a, int n) {
        return lines(Bf16Panels.bytes(a.d(), n, tiles));
    }

    /// A head's rows of `n` queries or keys as rows of a right-hand side.
    static long panelBytes(Bf16Tiles tiles, Problem a, int n) {
        return lines(Bf16Panels.bytes(n, a.d(), tiles));
    }

    /// A head's rows of a block of keys as a left-hand side, and after them as rows of a right-hand side.
    static long keysBytes(Bf16Tiles tiles, Problem a) {
        return rowsBytes(tiles, a) + panelBytes(tiles, a, KEYS);
    }

    private static long rowsBytes(Bf16Tiles tiles, Problem a) {
        return wholeRows(tiles, KEYS) * GemmBf16.stride(a.d(), tiles);
    }

    /// A left-hand side of keys by queries, or of queries by keys.
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

    /// Rows of d elements, `stride` bytes apart, as columns.
    void packColumns(long to, MemorySegment x, long at, long stride, int n) {
        columns(to, n).pack(workspace, new Matrix(x, at, elements(stride), true), a.d());
    }

    /// Rows of d elements, `stride` bytes apart, as rows of a right-hand side.
    void packPanel(long to, MemorySegment x, long at, long stride, int n) {
        rows(to, n).pack(workspace, new Matrix(x, at, elements(stride), false), n);
    }

    /// Rows of keys or values, d elements each, `stride` bytes apart.
    ///
    /// @param left whether they are wanted as a left-hand side
    /// @param right whether they are wanted as rows of a right-hand side
    void packKeys(long to, MemorySegment x, long at, long stride, int n, boolean left, boolean right) {
        if (left) {
            long row = GemmBf16.stride(a.d(), tiles);
            Matrix keys = new Matrix(x, at, elements(stride), false);
            GemmBf16.packRows(tiles, workspace, m, to, row, keys, n, a.d());
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

    /// As many queries as there are scores for; as many keys are whole tiles, too.
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

    /// How many of the block's keys the group of `query` meets, in whole tiles.
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
                tiles.panel(
                        workspace,
                        m,
                        y + 4L * first,
                        HIGH,
                        m,
                        keys + from,
                        stride,
                        m,
                        queries.at(panel, block),
                        width,
                        met(pair, first),
                        width,
                        queries.paddedLength(block),
                        block > 0);
            }
        }
    }

    /// sum (queries, d) ← xᵀ · rows of `keys`, or += from the second block of keys on: x (keys, queries).
    void timesKeys(AttentionBlock pair, long sum, long x, long keys) {
        Bf16Panels right = rows(keys + rowsBytes(tiles, a), pair.count());
        for (int first = 0; first < pair.n(); first += group()) {
            int queries = Math.min(group(), wholeQueries(pair.n()) - first);
            int met = met(pair, first);
            Matrix weights = new Matrix(m, x + 4L * first, QUERIES, true);
            multiply(m, sum + first * a.wide(), weights, queries, met, right, 0, pair.from() > 0);
        }
    }

    /// sums (keys, d) ← x · rows (queries, d), or += where `onto`, for the keys that are met: x (keys, queries).
    void timesQueries(AttentionBlock pair, MemorySegment sums, long to, long x, long rows, boolean onto) {
        Bf16Panels right = rows(rows, pair.n());
        int done = 0;
        for (int first = 0; first < pair.n(); first += group()) {
            // The first group that meets a key is followed by all that do.
            int met = met(pair, first);
            Matrix weights = new Matrix(m, x + done * HIGH + 4L * first, QUERIES, false);
            int queries = wholeQueries(pair.n()) - first;
            multiply(sums, to + done * a.wide(), weights, met - done, queries, right, first, onto);
            done = met;
        }
    }

    /// c (rows, d) ← op(weights) (rows, k) · right, from its row `from` on, or += where `onto`.
    private void multiply(
            MemorySegment c, long to, Matrix weights, int rows, int k, Bf16Panels right, int from, boolean onto) {
        if (rows == 0) {
            return;
        }
        if (k == 0) {
            if (!onto) {
                c.asSlice(to, rows * a.wide()).fill((byte) 0);
            }
            return;
        }
        long stride = GemmBf16.stride(k, tiles);
        GemmBf16.packRows(tiles, workspace, m, left, stride, weights, rows, k);
        for (int panel = 0; panel < right.count(); panel++) {
            int width = right.width(panel);
            tiles.panel(
                    workspace,
                    c,
                    to + 4L * panel * group(),
                    a.wide(),
                    m,
                    left,
                    stride,
                    m,
                    right.at(panel, 0) + 2L * from * width,
                    width,
                    rows,
                    width,
                    AttentionBlock.up(k, tiles.sizes().step()),
                    onto);
        }
    }
}
