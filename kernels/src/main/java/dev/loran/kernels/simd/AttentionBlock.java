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

/// A block of queries against a block of keys, in the scratch memory of a thread: what forward and backward share.
///
/// Scores are kept **transposed, one row per key**: the lanes of a vector are queries. A maximum or sum over keys is
/// then a vertical operation, a hidden key is a row, and what a causal query may not see is the beginning of a row.
/// Tiles that are completely hidden are not computed. The prefix and the real keys are packed one after the other, so
/// the loops see a single sequence.
///
/// @param b row of the batch
/// @param first the first of `n` queries
/// @param from the first of `count` keys, counting those of the prefix
record AttentionBlock(Inputs a, Scratch w, int b, int first, int n, int from, int count) {
    /// Queries of a block, and elements of a row of scores. It is an odd number of cache lines, so that a column of
    /// scores is spread over all sets of the first-level cache.
    static final int QUERIES = 144;

    /// Keys of a block. All scratch memory of a pair of blocks fits in the second-level cache.
    static final int KEYS = 128;

    /// Bytes from row to row of a matrix with one entry per query in each row.
    static final long HIGH = 4L * QUERIES;

    /// 0, 1, 2 …
    private static final FloatVector LANE = FloatVector.zero(Vectors.F).addIndex(1);

    /// Byte offsets into the scratch memory of a thread: queries and their gradients, both as rows and transposed; the
    /// sum over keys; packed keys and values; scores and their gradients; and, per query, three statistics and the
    /// number of its text. With BF16 operands, the rows of queries are right-hand sides, keys and values are stored in
    /// two forms, as [AttentionBf16] packs them, and a prefix and the real rows after it are joined first.
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
            long text,
            long joined) {
        /// @param tiles for BF16 operands, else null
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
            long left = max + 4 * HIGH;
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
                    max + 3 * HIGH,
                    joined);
        }
    }

    /// Returns the block of `n` queries starting at `first` and the keys starting at `from`, with its keys and values
    /// packed, and without trailing tiles that the mask hides completely.
    ///
    /// @param backward whether gradients are wanted: keys are then also summed with weights, as values are in forward,
    ///     and values are also multiplied with rows of dOut, as keys are with queries
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

    /// Prepares the sum over keys and the numbers of the texts of the queries starting at `first`, which are packed,
    /// for blocks of keys of which some may be skipped.
    static void prepare(Inputs a, Scratch w, int b, int first, int n) {
        if (a.isSparse()) {
            CopySimd.fill(w.m, w.sum, Math.toIntExact(QUERIES * a.wide() / 4), 0f);
        }
        for (int i = 0; a.scoring().packed() && i < n; i++) {
            set(w.m, w.text + 4L * i, a.text(b, a.place() + first + i));
        }
    }

    /// Whether any of the `n` queries starting at `first` may see any key of the block starting at `from`.
    static boolean meet(Inputs a, int b, int first, int n, int from) {
        int end = Math.min(a.keys(), from + keysOf(a));
        int window = a.scoring().window();
        int place = a.place() + first;
        if (window > 0 && (end <= place - window + 1 || from >= place + n + window - 1)) {
            return false;
        }
        return !a.scoring().packed() || from < a.p() || shareTexts(a, b, place, n, from, end);
    }

    /// Whether a key from `from` to `end` belongs to a text between the lowest and the highest of the queries' texts.
    private static boolean shareTexts(Inputs a, int b, int place, int n, int from, int end) {
        int lowest = Integer.MAX_VALUE;
        int highest = 0;
        for (int i = place; i < place + n; i++) {
            lowest = Math.min(lowest, a.text(b, i));
            highest = Math.max(highest, a.text(b, i));
        }
        for (int j = from; j < end; j++) {
            if (a.text(b, j) >= lowest && a.text(b, j) <= highest) {
                return true;
            }
        }
        return false;
    }

    /// Whether the sum over keys already holds something.
    boolean onto() {
        return from > 0 || a.isSparse();
    }

    /// The number of queries per block; all blocks have about the same number.
    static int queriesOf(Inputs a) {
        return evenly(a.t(), QUERIES, AttentionTiles.UNIT);
    }

    /// The number of keys per block.
    static int keysOf(Inputs a) {
        return evenly(a.keys(), KEYS, AttentionTiles.UNIT);
    }

    private static int evenly(int n, int most, int unit) {
        return up(Math.ceilDiv(n, Math.max(1, Math.ceilDiv(n, most))), unit);
    }

    static int up(int n, int unit) {
        return Math.ceilDiv(n, unit) * unit;
    }

    /// Within the block, query i sees key j if and only if i ≥ j + gap.
    private int gap() {
        return from - a.lead() - first;
    }

    /// The number of lanes in use, rounded up to whole tiles.
    int width() {
        return up(n, AttentionTiles.UNIT);
    }

    /// How many of the block's keys are seen by the queries before `end`.
    private int seenBefore(int end) {
        return Math.clamp((long) end - gap(), 0, count);
    }

    /// As `seenBefore`, rounded up to the whole tiles that products read.
    int tilesBefore(int end) {
        return Math.min(count, up(seenBefore(end), AttentionTiles.ROWS));
    }

    private int firstSeeing(int key) {
        return Math.clamp((long) key + gap(), 0, width());
    }

    /// Packs the rows of the prefix, followed by the real ones. `left` and `right` say on which side of products they
    /// are used; in F32 both use the same form.
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

    /// The number of keys whose scores are read for the vector of queries starting at `lane`, in whole tiles of both
    /// kinds.
    int scored(int lane) {
        return w.bf16 == null
                ? Math.max(tilesBefore(lane + V), Math.min(count, up(seenBefore(lane + V), GemmTiles.ROWS)))
                : w.bf16.met(this, lane);
    }

    /// y (keys, queries) ← rows (keys, d) · turned (d, queries), leaving out tiles that are completely hidden.
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

    /// One pass over the scores of all keys for one vector of queries, the one starting at `lane`.
    @FunctionalInterface
    interface Pass {
        void over(AttentionBlock pair, int lane);
    }

    /// Runs all passes in turn over the scores of one vector of queries, then of the next.
    ///
    /// Two exponentials are more than C2 inlines into one method. When it reaches that limit in the middle of inlining
    /// a pass, it leaves loads, stores and the exponential as calls, and allocates the vectors as objects. Here it
    /// inlines none of the passes: a call site that reaches three or more methods equally often is megamorphic. Each
    /// pass is therefore compiled separately.
    void forLanes(Pass[] passes) {
        for (int lane = 0; lane < width(); lane += V) {
            for (Pass pass : passes) {
                pass.over(this, lane);
            }
        }
    }

    /// x (keys, queries) ← `value` for the vector of queries starting at `lane`, wherever the query comes before the
    /// key, the key is outside its window or belongs to another text, the mask hides the key, or the key is only
    /// padding.
    void hide(long x, int lane, float value) {
        int scored = scored(lane);
        int seen = Math.min(count, scored);
        hideAhead(w.m, x + 4L * lane, seen, lane - gap(), value);
        if (a.scoring().window() > 0) {
            hideFar(x, lane, seen, value);
        }
        if (a.scoring().packed()) {
            hideOtherTexts(x, lane, seen, value);
        }
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

    /// `last` is the last key that the first query sees.
    private static void hideAhead(MemorySegment m, long x, int count, int last, float value) {
        for (int i = Math.clamp(last + 1L, 0, count); i < count; i++) {
            FloatVector all = load(m, x + i * HIGH);
            store(m, x + i * HIGH, all.blend(value, LANE.compare(VectorOperators.LT, i - last)));
        }
    }

    private void hideFar(long x, int lane, int seen, float value) {
        // The distance of the block's first key from the place of the first of these queries.
        int ahead = from - (a.place() + first + lane);
        int window = a.scoring().window();
        for (int j = 0; j < seen; j++) {
            long at = x + j * HIGH + 4L * lane;
            FloatVector all = load(w.m, at);
            int distance = ahead + j;
            store(
                    w.m,
                    at,
                    all.blend(value, LANE.compare(VectorOperators.GE, distance + window))
                            .blend(value, LANE.compare(VectorOperators.LE, distance - window)));
        }
    }

    private void hideOtherTexts(long x, int lane, int seen, float value) {
        FloatVector own = load(w.m, w.text + 4L * lane);
        for (int j = Math.clamp((long) a.p() - from, 0, seen); j < seen; j++) {
            long at = x + j * HIGH + 4L * lane;
            FloatVector all = load(w.m, at);
            store(w.m, at, all.blend(value, own.compare(VectorOperators.NE, a.text(b, from + j))));
        }
    }

    /// sum (queries, d) ← xᵀ · rows, or += from the second block of keys on, with x (keys, queries) and rows (keys, d).
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
                GemmTiles.put(w.m, to, a.wide(), w.tile, 0, columns, AttentionTiles.ROWS, columns, onto());
            }
        }
    }

    /// sums (keys, d) ← x · rows, or += if `onto`, for the keys that are seen, with x (keys, queries) and rows
    /// (queries, d).
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

    /// Packs the queries starting at `first`, scaled, as columns.
    static void packQueries(Inputs a, Scratch w, long to, MemorySegment x, long at, int n, float factor) {
        // This goes through `sum`, which is still unused: rows are far apart in x, whereas here they are close together
        // and always fill whole tiles.
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

    /// Packs the queries starting at `first` as rows, to be multiplied with what a key has for each of them.
    static void packRows(Inputs a, Scratch w, long to, MemorySegment x, long at, int n) {
        if (w.bf16 == null) {
            copyRows(a, w.m, to, x, at, a.queryStride(), n, 1f);
        } else {
            w.bf16.packPanel(to, x, at, a.queryStride(), n);
        }
    }

    /// Copies `n` rows of d elements, `stride` bytes apart, to scratch memory, scaled and padded with zeros to whole
    /// tiles.
    ///
    /// It proceeds by columns one vector wide: the rows of a head are far apart, out of reach of the prefetcher, and a
    /// loop with one load and one store per iteration has many cache lines in flight at once.
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

    /// Copies `n` rows of scratch memory, scaled, to rows of d elements, `stride` bytes apart.
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
