package dev.loran.kernels.simd;

import static dev.loran.kernels.simd.vector.Vectors.V;
import static dev.loran.kernels.simd.vector.Vectors.bound;
import static dev.loran.kernels.simd.vector.Vectors.get;
import static dev.loran.kernels.simd.vector.Vectors.load;
import static dev.loran.kernels.simd.vector.Vectors.set;
import static dev.loran.kernels.simd.vector.Vectors.splat;
import static dev.loran.kernels.simd.vector.Vectors.store;

import dev.loran.kernels.simd.AttentionSimd.Inputs;
import dev.loran.kernels.simd.gemm.Bf16Tiles;
import dev.loran.kernels.simd.gemm.GemmPacking;
import dev.loran.kernels.simd.gemm.GemmTiles;
import dev.loran.kernels.simd.vector.Parallel;
import dev.loran.kernels.simd.vector.Vectors;
import dev.loran.kernels.simd.vector.Workspace;
import dev.loran.kernels.simd.vector.Workspace.Slot;
import java.lang.foreign.MemorySegment;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.VectorOperators;
import org.jspecify.annotations.Nullable;

/// A block of queries against a block of keys, in a thread's scratch memory: what forward and backward share.
///
/// Scores are kept **transposed, a row a key**: the lanes of a vector are queries. A maximum or sum over keys is then a
/// vertical one, a hidden key is a row, and what a causal query may not see is the beginning of a row. No tile that is
/// hidden as a whole is computed. The prefix and the real keys are packed one after the other: for the loops they
/// are one sequence.
///
/// @param b row of the batch
/// @param first the first query, of `n`
/// @param from the first key, of `count`, the prefix' included
record AttentionBlock(Inputs a, Scratch w, int b, int first, int n, int from, int count) {
    /// Queries of a block, and elements of a row of scores: an odd number of cache lines, so that a column of scores
    /// meets all sets of the first-level cache.
    static final int QUERIES = 144;

    /// Keys of a block. All scratch of a pair of blocks stays in the second-level cache.
    static final int KEYS = 128;

    /// Bytes from row to row where a row has an entry for each query.
    static final long HIGH = 4L * QUERIES;

    /// 0, 1, 2 …
    private static final FloatVector LANE = FloatVector.zero(Vectors.F).addIndex(1);

    /// Byte offsets into a thread's scratch memory: queries and their gradients as rows and transposed, the sum over
    /// keys, packed keys and values, scores and their slopes, and three statistics of each query. With operands of BF16
    /// the rows of queries are right-hand sides, keys and values lie there twice, as [AttentionBf16] packs them, and a
    /// prefix and the real rows after it are first joined.
    record Scratch(
            @Nullable AttentionBf16 bf16,
            float[] tile,
            MemorySegment m,
            long q,
            long g,
            long sum,
            long qt,
            long gt,
            long k,
            long v,
            long scores,
            long slopes,
            long max,
            long total,
            long factor,
            long joined) {
        /// @param tiles for operands of BF16, else null
        static Scratch of(Parallel parallel, Inputs a, @Nullable Bf16Tiles tiles) {
            long perQuery = QUERIES * a.wide();
            long rows = tiles == null ? perQuery : AttentionBf16.panelBytes(tiles, a, QUERIES);
            long turned = tiles == null ? HIGH * a.columns() : AttentionBf16.columnsBytes(tiles, a, QUERIES);
            long keys = tiles == null ? (KEYS + GemmTiles.ROWS) * a.wide() : AttentionBf16.keysBytes(tiles, a);
            long pair = (KEYS + GemmTiles.ROWS) * HIGH;
            long g = perQuery + rows;
            long qt = g + rows;
            long k = qt + 2 * turned;
            long scores = k + 2 * keys;
            long max = scores + 2 * pair;
            long left = max + 3 * HIGH;
            long joined = left + (tiles == null ? 0 : AttentionBf16.leftBytes(tiles));
            Workspace workspace = parallel.workspace();
            MemorySegment m =
                    workspace.segment(Slot.ATTENTION, joined + (tiles == null || a.p() == 0 ? 0 : KEYS * a.wide()));
            return new Scratch(
                    tiles == null ? null : new AttentionBf16(tiles, workspace, a, m, left),
                    workspace.tile(),
                    m,
                    perQuery,
                    g,
                    0,
                    qt,
                    qt + turned,
                    k,
                    k + keys,
                    scores,
                    scores + pair,
                    max,
                    max + HIGH,
                    max + 2 * HIGH,
                    joined);
        }
    }

    /// The block of `n` queries from `first` on and of the keys from `from` on, without the tiles at its end that the
    /// mask hides, its keys and values packed.
    ///
    /// @param backward whether gradients are wanted: keys are then summed, too, and values make scores
    static AttentionBlock of(Inputs a, Scratch w, int b, int kvHead, int first, int n, int from, boolean backward) {
        int all = Math.min(keysOf(a), a.keys() - from);
        int shown = all;
        while (shown > 0 && a.hides(b, from + shown - 1)) {
            shown--;
        }
        int count = Math.min(all, up(shown, AttentionTiles.ROWS));
        AttentionBlock block = new AttentionBlock(a, w, b, first, n, from, count);
        block.packKeys(w.k, kvHead, a.prefixK(), a.k(), true, backward);
        block.packKeys(w.v, kvHead, a.prefixV(), a.v(), backward, true);
        return block;
    }

    /// Queries of each block: all have about as many.
    static int queriesOf(Inputs a) {
        return evenly(a.t(), QUERIES, AttentionTiles.UNIT);
    }

    /// Keys of each block.
    static int keysOf(Inputs a) {
        return evenly(a.keys(), KEYS, AttentionTiles.UNIT);
    }

    private static int evenly(int n, int most, int unit) {
        return up(Math.ceilDiv(n, Math.max(1, Math.ceilDiv(n, most))), unit);
    }

    static int up(int n, int unit) {
        return Math.ceilDiv(n, unit) * unit;
    }

    /// In the block, a query before key + gap does not see the key.
    private int gap() {
        return from - a.lead() - first;
    }

    /// Lanes in use: whole tiles.
    int width() {
        return up(n, AttentionTiles.UNIT);
    }

    /// How many of the block's keys the queries before `end` see.
    private int seenBefore(int end) {
        return Math.clamp((long) end - gap(), 0, count);
    }

    /// The same in whole tiles, which products read.
    int tilesBefore(int end) {
        return Math.min(count, up(seenBefore(end), AttentionTiles.ROWS));
    }

    private int firstSeeing(int key) {
        return Math.clamp((long) key + gap(), 0, width());
    }

    /// The prefix' rows and then the real ones; `left` and `right` say what they are multiplied as, which is one and
    /// the same in F32.
    private void packKeys(
            long to, int kvHead, @Nullable MemorySegment prefix, MemorySegment x, boolean left, boolean right) {
        int before = prefix == null ? 0 : Math.clamp((long) a.p() - from, 0, count);
        long at = a.key(b, from + before - a.p(), kvHead);
        if (w.bf16 != null && before == 0) {
            w.bf16.packKeys(to, x, at, a.keyStride(), count, left, right);
            return;
        }
        long rows = w.bf16 == null ? to : w.joined;
        if (prefix != null) {
            copyRows(a, w.m, rows, prefix, a.prefixKey(b, from, kvHead), a.keyStride(), before, 1f);
        }
        copyRows(a, w.m, rows + before * a.wide(), x, at, a.keyStride(), count - before, 1f);
        if (w.bf16 != null) {
            w.bf16.packKeys(to, w.m, rows, a.wide(), count, left, right);
        }
    }

    /// Keys whose scores are read for the vector of queries from `lane` on: in whole tiles of both kinds.
    int scored(int lane) {
        return w.bf16 == null
                ? Math.max(tilesBefore(lane + V), Math.min(count, up(seenBefore(lane + V), GemmTiles.ROWS)))
                : w.bf16.met(this, lane);
    }

    /// y (keys, queries) ← rows (keys, d) · turned (d, queries), but for what is hidden tile by tile.
    void scores(long y, long rows, long turned) {
        if (w.bf16 != null) {
            w.bf16.scores(this, y, rows, turned);
            return;
        }
        int width = width();
        for (int i = 0; i < tilesBefore(width); i += GemmTiles.ROWS) {
            int seeing = firstSeeing(i / AttentionTiles.ROWS * AttentionTiles.ROWS);
            int columns;
            for (int c = seeing / GemmTiles.UNIT * GemmTiles.UNIT; c < width; c += columns) {
                columns = evenly(width - c, GemmTiles.COLUMNS, GemmTiles.UNIT);
                int tile = Math.min(GemmTiles.ROWS, count - i);
                long left = rows + i * a.wide();
                GemmTiles.multiply(w.tile, w.m, left, a.wide(), w.m, turned + 4L * c, HIGH, columns, tile, a.d());
                GemmTiles.keep(w.m, y + i * HIGH + 4L * c, HIGH, w.tile, tile, columns, false);
            }
        }
    }

    /// One pass over the scores that a vector of queries, the one from `lane` on, has for all keys.
    @FunctionalInterface
    interface Pass {
        void over(AttentionBlock pair, int lane);
    }

    /// All passes in turn over the scores of one vector of queries, then of the next.
    ///
    /// Two exponentials are more than C2 inlines in one method, and of a pass that it has begun to inline when that
    /// happens it leaves loads, stores and the exponential as calls, with vectors as objects. Here it inlines none: at
    /// a call that reaches three methods or more, as often each, it cannot tell which. So each pass is compiled for
    /// itself.
    void forLanes(Pass[] passes) {
        for (int lane = 0; lane < width(); lane += V) {
            for (Pass pass : passes) {
                pass.over(this, lane);
            }
        }
    }

    /// x (keys, queries) ← `value` where one of the vector of queries from `lane` on comes before the key, the mask
    /// hides it, or it is none.
    void hide(long x, int lane, float value) {
        int scored = scored(lane);
        int seen = Math.min(count, scored);
        hideAhead(w.m, x + 4L * lane, seen, lane - gap(), value);
        if (a.mask() != null) {
            for (int i = 0; i < seen; i++) {
                if (a.hides(b, from + i)) {
                    store(w.m, x + i * HIGH + 4L * lane, splat(value));
                }
            }
        }
        for (int i = seen; i < scored; i++) {
            store(w.m, x + i * HIGH + 4L * lane, splat(value));
        }
    }

    /// `last`: the last key that the first query sees.
    private static void hideAhead(MemorySegment m, long x, int count, int last, float value) {
        for (int i = Math.clamp(last + 1L, 0, count); i < count; i++) {
            FloatVector all = load(m, x + i * HIGH);
            store(m, x + i * HIGH, all.blend(value, LANE.compare(VectorOperators.LT, i - last)));
        }
    }

    /// sum (queries, d) ← xᵀ · rows, or += from the second block of keys on: x (keys, queries), rows (keys, d).
    void timesKeys(long x, long rows) {
        if (w.bf16 != null) {
            w.bf16.timesKeys(this, w.sum, x, rows);
            return;
        }
        for (int j = 0; j < a.columns(); j += AttentionTiles.COLUMNS) {
            int columns = Math.min(AttentionTiles.COLUMNS, a.columns() - j);
            for (int i = 0; i < width(); i += AttentionTiles.ROWS) {
                int seen = seenBefore(i + AttentionTiles.ROWS);
                AttentionTiles.multiply(w.tile, w.m, x + 4L * i, rows + 4L * j, a.wide(), columns, seen);
                long to = w.sum + i * a.wide() + 4L * j;
                GemmTiles.put(w.m, to, a.wide(), w.tile, 0, columns, AttentionTiles.ROWS, columns, from > 0);
            }
        }
    }

    /// sums (keys, d) ← x · rows, or += where `onto`, for the keys that are seen: x (keys, queries), rows (queries, d).
    void timesQueries(MemorySegment sums, long to, long x, long rows, boolean onto) {
        if (w.bf16 != null) {
            w.bf16.timesQueries(this, sums, to, x, rows, onto);
            return;
        }
        int columns;
        for (int j = 0; j < a.columns(); j += columns) {
            columns = evenly(a.columns() - j, GemmTiles.COLUMNS, GemmTiles.UNIT);
            for (int i = 0; i < tilesBefore(width()); i += GemmTiles.ROWS) {
                int c = firstSeeing(i);
                int tile = Math.min(GemmTiles.ROWS, tilesBefore(width()) - i);
                long left = x + i * HIGH + 4L * c;
                long right = rows + c * a.wide() + 4L * j;
                GemmTiles.multiply(w.tile, w.m, left, HIGH, w.m, right, a.wide(), columns, tile, Math.max(0, n - c));
                GemmTiles.keep(sums, to + i * a.wide() + 4L * j, a.wide(), w.tile, tile, columns, onto);
            }
        }
    }

    // ---- rows of a head

    /// The queries from `first` on, scaled, as columns.
    static void packQueries(Inputs a, Scratch w, long to, MemorySegment x, long at, int n, float factor) {
        // By way of the sum, which nothing is in yet: rows lie far apart in x, and there is always a whole tile of them
        // here.
        if (w.bf16 == null || factor != 1f) {
            copyRows(a, w.m, w.sum, x, at, a.queryStride(), n, factor);
        }
        if (w.bf16 == null) {
            int whole = up(n, AttentionTiles.UNIT);
            GemmPacking.transpose(w.m, to, QUERIES, w.m, w.sum, a.wide() / 4, whole, a.columns());
        } else if (factor != 1f) {
            w.bf16.packColumns(to, w.m, w.sum, a.wide(), n);
        } else {
            w.bf16.packColumns(to, x, at, a.queryStride(), n);
        }
    }

    /// The queries from `first` on as rows that are multiplied with what a key has for each of them.
    static void packRows(Inputs a, Scratch w, long to, MemorySegment x, long at, int n) {
        if (w.bf16 == null) {
            copyRows(a, w.m, to, x, at, a.queryStride(), n, 1f);
        } else {
            w.bf16.packPanel(to, x, at, a.queryStride(), n);
        }
    }

    /// `n` rows of d elements, `stride` bytes apart, scaled, as rows of scratch, with zeros up to whole tiles.
    ///
    /// Column by column, a vector wide: the rows of a head lie far apart, where no prefetcher looks, and a loop of one
    /// load and one store a round has many cache lines under way at once.
    private static void copyRows(
            Inputs a, MemorySegment m, long to, MemorySegment x, long at, long stride, int n, float factor) {
        int j = 0;
        for (; j < bound(a.d()); j += V) {
            copyColumn(m, to + 4L * j, a.wide(), x, at + 4L * j, stride, n, factor);
        }
        for (; j < a.columns(); j++) {
            for (int i = 0; i < n; i++) {
                set(m, to + i * a.wide() + 4L * j, j < a.d() ? factor * get(x, at + i * stride + 4L * j) : 0f);
            }
        }
    }

    /// `n` rows of scratch, scaled, to rows of d elements, `stride` bytes apart.
    static void keepRows(
            Inputs a, MemorySegment y, long at, long stride, MemorySegment m, long from, int n, float factor) {
        int j = 0;
        for (; j < bound(a.d()); j += V) {
            copyColumn(y, at + 4L * j, stride, m, from + 4L * j, a.wide(), n, factor);
        }
        for (; j < a.d(); j++) {
            for (int i = 0; i < n; i++) {
                set(y, at + i * stride + 4L * j, factor * get(m, from + i * a.wide() + 4L * j));
            }
        }
    }

    private static void copyColumn(
            MemorySegment y, long yo, long yStride, MemorySegment x, long xo, long xStride, int n, float factor) {
        for (int i = 0; i < n; i++) {
            store(y, yo + i * yStride, load(x, xo + i * xStride).mul(factor));
        }
    }
}
