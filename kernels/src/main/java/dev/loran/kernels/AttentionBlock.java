package dev.loran.kernels;

import static dev.loran.kernels.Vectors.V;
import static dev.loran.kernels.Vectors.bound;
import static dev.loran.kernels.Vectors.get;
import static dev.loran.kernels.Vectors.load;
import static dev.loran.kernels.Vectors.set;
import static dev.loran.kernels.Vectors.splat;
import static dev.loran.kernels.Vectors.store;

import dev.loran.kernels.AttentionSimd.Problem;
import dev.loran.kernels.Workspace.Slot;
import java.lang.foreign.MemorySegment;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.VectorOperators;

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
record AttentionBlock(Problem a, Scratch w, int b, int first, int n, int from, int count) {
    /// Queries of a block, and elements of a row of scores: an odd number of cache lines, so that a column of scores meets
    /// all sets of the first-level cache.
    static final int QUERIES = 144;

    /// Keys of a block. All scratch of a pair of blocks stays in the second-level cache.
    static final int KEYS = 128;

    /// Bytes from row to row where a row has an entry for each query.
    static final long HIGH = 4L * QUERIES;

    /// 0, 1, 2 …
    private static final FloatVector LANE = FloatVector.zero(Vectors.F).addIndex(1);

    /// Byte offsets into a thread's scratch memory: queries and their gradients as rows and transposed, the sum over keys,
    /// packed keys and values, scores and their slopes, and three statistics of each query.
    record Scratch(
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
            long factor) {
        static Scratch of(Parallel parallel, Problem a) {
            long perQuery = QUERIES * a.wide();
            long turned = HIGH * a.d();
            long perKey = (KEYS + GemmTiles.ROWS) * a.wide();
            long pair = (KEYS + GemmTiles.ROWS) * HIGH;
            long qt = 3 * perQuery;
            long k = qt + 2 * turned;
            long scores = k + 2 * perKey;
            long max = scores + 2 * pair;
            return new Scratch(
                    parallel.workspace().tile(),
                    parallel.workspace().segment(Slot.ATTENTION, max + 3 * HIGH),
                    0,
                    perQuery,
                    2 * perQuery,
                    qt,
                    qt + turned,
                    k,
                    k + perKey,
                    scores,
                    scores + pair,
                    max,
                    max + HIGH,
                    max + 2 * HIGH);
        }
    }

    /// The block of `n` queries from `first` on and of the keys from `from` on, without the tiles at its end that the mask
    /// hides, its keys and values packed.
    static AttentionBlock of(Problem a, Scratch w, int b, int kvHead, int first, int n, int from) {
        int all = Math.min(keysOf(a), a.keys() - from);
        int shown = all;
        while (shown > 0 && a.hides(b, from + shown - 1)) {
            shown--;
        }
        int count = Math.min(all, up(shown, AttentionTiles.ROWS));
        AttentionBlock block = new AttentionBlock(a, w, b, first, n, from, count);
        block.packKeys(kvHead);
        return block;
    }

    /// Queries of each block: all have about as many.
    static int queriesOf(Problem a) {
        return evenly(a.t(), QUERIES, AttentionTiles.UNIT);
    }

    /// Keys of each block.
    static int keysOf(Problem a) {
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

    private void packKeys(int kvHead) {
        int prefix = Math.clamp((long) a.p() - from, 0, count);
        MemorySegment prefixK = a.prefixK();
        MemorySegment prefixV = a.prefixV();
        if (prefixK != null && prefixV != null) {
            copyRows(a, w.m, w.k, prefixK, a.prefixKey(b, from, kvHead), a.keyStride(), prefix);
            copyRows(a, w.m, w.v, prefixV, a.prefixKey(b, from, kvHead), a.keyStride(), prefix);
        }
        long at = a.key(b, from + prefix - a.p(), kvHead);
        long to = prefix * a.wide();
        copyRows(a, w.m, w.k + to, a.k(), at, a.keyStride(), count - prefix);
        copyRows(a, w.m, w.v + to, a.v(), at, a.keyStride(), count - prefix);
    }

    /// y (keys, queries) ← rows (keys, d) · turned (d, queries), but for what is hidden tile by tile.
    void scores(long y, long rows, long turned) {
        int width = width();
        for (int i = 0; i < tilesBefore(width); i += GemmTiles.ROWS) {
            int seeing = firstSeeing(i / AttentionTiles.ROWS * AttentionTiles.ROWS);
            int columns;
            for (int c = seeing / GemmTiles.UNIT * GemmTiles.UNIT; c < width; c += columns) {
                columns = evenly(width - c, GemmTiles.COLUMNS, GemmTiles.UNIT);
                GemmTiles.product(
                        w.tile,
                        w.m,
                        y + i * HIGH + 4L * c,
                        HIGH,
                        w.m,
                        rows + i * a.wide(),
                        a.wide(),
                        w.m,
                        turned + 4L * c,
                        HIGH,
                        columns,
                        0,
                        Math.min(GemmTiles.ROWS, count - i),
                        columns,
                        a.d(),
                        false);
            }
        }
    }

    /// x (keys, queries) ← `value` where one of the vector of queries from `lane` on comes before the key, or the mask
    /// hides it.
    void hide(long x, int lane, float value) {
        int seen = tilesBefore(lane + V);
        hideAhead(w.m, x + 4L * lane, seen, lane - gap(), value);
        if (a.mask() != null) {
            for (int i = 0; i < seen; i++) {
                if (a.hides(b, from + i)) {
                    store(w.m, x + i * HIGH + 4L * lane, splat(value));
                }
            }
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
        for (int j = 0; j < a.columns(); j += AttentionTiles.COLUMNS) {
            int columns = Math.min(AttentionTiles.COLUMNS, a.columns() - j);
            for (int i = 0; i < width(); i += AttentionTiles.ROWS) {
                AttentionTiles.product(
                        w.tile,
                        w.m,
                        w.sum + i * a.wide() + 4L * j,
                        a.wide(),
                        w.m,
                        x + 4L * i,
                        4,
                        HIGH,
                        w.m,
                        rows + 4L * j,
                        a.wide(),
                        columns,
                        seenBefore(i + AttentionTiles.ROWS),
                        from > 0);
            }
        }
    }

    /// sums (keys, d) ← x · rows, or += where `onto`, for the keys that are seen: x (keys, queries), rows (queries, d).
    void timesQueries(MemorySegment sums, long to, long x, long rows, boolean onto) {
        for (int j = 0; j < a.columns(); j += AttentionTiles.COLUMNS) {
            int columns = Math.min(AttentionTiles.COLUMNS, a.columns() - j);
            for (int i = 0; i < tilesBefore(width()); i += AttentionTiles.ROWS) {
                int c = firstSeeing(i);
                AttentionTiles.product(
                        w.tile,
                        sums,
                        to + i * a.wide() + 4L * j,
                        a.wide(),
                        w.m,
                        x + i * HIGH + 4L * c,
                        HIGH,
                        4,
                        w.m,
                        rows + c * a.wide() + 4L * j,
                        a.wide(),
                        columns,
                        Math.max(0, n - c),
                        onto);
            }
        }
    }

    // ---- rows of a head

    /// `n` rows of d elements, `stride` bytes apart, as rows of scratch, with zeros up to whole tiles.
    ///
    /// Column by column, a vector wide: the rows of a head lie far apart, where no prefetcher looks, and a loop of one load
    /// and one store a round has many cache lines under way at once.
    static void copyRows(Problem a, MemorySegment m, long to, MemorySegment x, long at, long stride, int n) {
        int j = 0;
        for (; j < bound(a.d()); j += V) {
            copyColumn(m, to + 4L * j, a.wide(), x, at + 4L * j, stride, n, 1f);
        }
        for (; j < a.columns(); j++) {
            for (int i = 0; i < n; i++) {
                set(m, to + i * a.wide() + 4L * j, j < a.d() ? get(x, at + i * stride + 4L * j) : 0f);
            }
        }
    }

    /// `n` rows of scratch, scaled, to rows of d elements, `stride` bytes apart.
    static void keepRows(
            Problem a, MemorySegment y, long at, long stride, MemorySegment m, long from, int n, float factor) {
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

    /// `n` rows of d elements, `stride` elements apart, transposed and scaled, with zeros up to whole tiles.
    static void turn(Problem a, MemorySegment m, long to, MemorySegment x, long at, long stride, int n, float factor) {
        GemmPacking.transpose(m, to, QUERIES, x, at, stride, n, a.d());
        for (int j = n; j < up(n, AttentionTiles.UNIT); j++) {
            for (int i = 0; i < a.d(); i++) {
                set(m, to + i * HIGH + 4L * j, 0f);
            }
        }
        if (factor != 1f) {
            BinarySimd.mulScalar(m, to, m, to, factor, a.d() * QUERIES);
        }
    }
}
