package dev.loran.kernels;

import static dev.loran.kernels.Vectors.V;
import static dev.loran.kernels.Vectors.get;
import static dev.loran.kernels.Vectors.getInt;
import static dev.loran.kernels.Vectors.load;
import static dev.loran.kernels.Vectors.set;
import static dev.loran.kernels.Vectors.splat;
import static dev.loran.kernels.Vectors.store;

import dev.loran.kernels.Workspace.Slot;
import java.lang.foreign.MemorySegment;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.VectorOperators;
import org.jspecify.annotations.Nullable;

/// Scaled dot-product attention, blockwise (Dao et al., "FlashAttention", 2022): a block of queries meets block after
/// block of keys, with a running maximum and sum (the online softmax), so that scores exist for one pair of blocks only.
///
/// Scores are kept **transposed, a row a key**: the lanes of a vector are queries. A maximum or sum over keys is then a
/// vertical one, a hidden key is a row, and what a causal query may not see is the beginning of a row. The products are
/// tiles of [GemmTiles]; a key and a value are read where they lie.
final class AttentionSimd {
    /// Queries of a block and keys of a block: whole tiles on every width; all scratch of a block stays in the
    /// second-level cache.
    private static final int QUERIES = 96;

    private static final int KEYS = 48;

    /// The running maximum before any key was seen: below every real score, and finite, so that nothing becomes NaN.
    private static final float NONE = -1e30f;

    private AttentionSimd() {}

    /// The arguments that forward and backward share, in the letters and layouts of [dev.loran.engine.Backend#attention].
    record Problem(
            MemorySegment q,
            MemorySegment k,
            MemorySegment v,
            @Nullable MemorySegment prefixK,
            @Nullable MemorySegment prefixV,
            @Nullable MemorySegment mask,
            int batch,
            int t,
            int s,
            int p,
            int heads,
            int kvHeads,
            int d,
            boolean causal,
            float scale) {
        /// Columns of scratch matrices: d in whole units of a tile.
        int padded() {
            return Math.ceilDiv(d, GemmTiles.UNIT) * GemmTiles.UNIT;
        }

        long queryStride() {
            return 4L * heads * d;
        }

        long keyStride() {
            return 4L * kvHeads * d;
        }

        long query(int b, int i, int h) {
            return ((long) b * t + i) * queryStride() + 4L * h * d;
        }

        long statistics(int b, int i, int h) {
            return 4 * (((long) b * heads + h) * t + i);
        }

        boolean sharesPrefix() {
            return prefixK != null && prefixK.byteSize() == p * keyStride();
        }

        Keys real(int b, int kvHead) {
            return new Keys(
                    k, v, (long) b * s * keyStride() + 4L * kvHead * d, s, (long) b * (p + s) + p, causal ? s - t : s);
        }

        @Nullable
        Keys prefix(int b, int kvHead) {
            if (prefixK == null || prefixV == null) {
                return null;
            }
            long row = sharesPrefix() ? 0 : (long) b * p * keyStride();
            return new Keys(prefixK, prefixV, row + 4L * kvHead * d, p, (long) b * (p + s), p);
        }
    }

    /// Keys and values of one head of one row of the batch: the prefix, or the real ones.
    ///
    /// @param at byte offset of the first
    /// @param hidden index of its entry in the mask
    /// @param lead query i sees the keys up to i + lead
    record Keys(MemorySegment k, MemorySegment v, long at, int count, long hidden, int lead) {
        /// How many of the keys the queries before `end` may see.
        int seenBy(int end) {
            return Math.max(0, Math.min(count, end + lead));
        }
    }

    /// Byte offsets into a thread's scratch memory.
    private record Scratch(
            MemorySegment tile,
            MemorySegment m,
            long q,
            long qt,
            long g,
            long gt,
            long scores,
            long other,
            long turned,
            long sum,
            long rows,
            long max,
            long total,
            long factor) {
        static Scratch of(Parallel parallel, int padded) {
            long matrix = 4L * QUERIES * padded;
            long pair = 4L * QUERIES * KEYS;
            long perKey = 4L * KEYS * padded;
            long one = 4L * QUERIES;
            long at = 5 * matrix + 3 * pair + perKey;
            MemorySegment m = parallel.workspace().segment(Slot.ATTENTION, at + 3 * one);
            return new Scratch(
                    parallel.workspace().segment(Slot.TILE, GemmTiles.TILE_BYTES),
                    m,
                    0,
                    matrix,
                    2 * matrix,
                    3 * matrix,
                    5 * matrix,
                    5 * matrix + pair,
                    5 * matrix + 2 * pair,
                    4 * matrix,
                    5 * matrix + 3 * pair,
                    at,
                    at + one,
                    at + 2 * one);
        }
    }

    // ---- forward

    /// out (batch, t, heads, d) and lse (batch, heads, t). A task is a block of queries of one head.
    static void forward(Parallel parallel, MemorySegment out, MemorySegment lse, Problem a) {
        int blocks = Math.ceilDiv(a.t, QUERIES);
        parallel.parallelFor(a.batch * a.heads * blocks, task -> {
            int h = task / blocks % a.heads;
            int b = task / blocks / a.heads;
            forwardBlock(out, lse, a, Scratch.of(parallel, a.padded()), b, h, task % blocks * QUERIES);
        });
    }

    private static void forwardBlock(
            MemorySegment out, MemorySegment lse, Problem a, Scratch w, int b, int h, int first) {
        int n = Math.min(QUERIES, a.t - first);
        int width = paddedQueries(n);
        loadQueries(w.m, w.q, w.qt, a.q, a.query(b, first, h), a, n, a.scale);
        CopySimd.fill(w.m, w.sum, QUERIES * a.padded(), 0f);
        CopySimd.fill(w.m, w.max, QUERIES, NONE);
        CopySimd.fill(w.m, w.total, QUERIES, 0f);
        int kvHead = h / (a.heads / a.kvHeads);
        Keys prefix = a.prefix(b, kvHead);
        if (prefix != null) {
            forwardKeys(a, w, prefix, first, n, width);
        }
        forwardKeys(a, w, a.real(b, kvHead), first, n, width);
        finish(w.m, w.factor, w.max, w.total, width);
        MemorySegment.copy(w.m, w.max, lse, a.statistics(b, first, h), 4L * n);
        for (int i = 0; i < n; i++) {
            BinarySimd.mulScalar(
                    out, a.query(b, first + i, h), w.m, w.sum + 4L * i * a.padded(), get(w.m, w.factor + 4L * i), a.d);
        }
    }

    private static void forwardKeys(Problem a, Scratch w, Keys keys, int first, int n, int width) {
        int seen = keys.seenBy(first + n);
        long wide = 4L * a.padded();
        for (int j = 0; j < seen; j += KEYS) {
            int count = Math.min(KEYS, seen - j);
            scores(a, w, keys, j, count, first, width);
            for (int lane = 0; lane < width; lane += V) {
                online(w.m, w.scores + 4L * lane, count, w.max + 4L * lane, w.total + 4L * lane, w.factor + 4L * lane);
            }
            GemmPacking.transpose(w.m, w.turned, KEYS, w.m, w.scores, QUERIES, count, width);
            for (int i = 0; i < n; i++) {
                float factor = get(w.m, w.factor + 4L * i);
                if (factor != 1f) {
                    BinarySimd.mulScalar(w.m, w.sum + i * wide, w.m, w.sum + i * wide, factor, a.padded());
                }
            }
            timesRows(w.m, w.sum, w.turned, keys.v, keys.at + j * a.keyStride(), a, w, n, count);
        }
    }

    /// One step of the online softmax for the queries of one vector: scores become exp(score − maximum), the maximum and
    /// the sum move on, and `factor` says by how much what was summed before shrinks.
    private static void online(MemorySegment m, long scores, int count, long max, long total, long factor) {
        FloatVector before = load(m, max);
        FloatVector now = before;
        for (int j = 0; j < count; j++) {
            FloatVector s = load(m, scores + 4L * QUERIES * j);
            now = now.blend(s, s.compare(VectorOperators.GT, now));
        }
        FloatVector shrink = VectorMath.expOfNegative(before.sub(now));
        FloatVector sum = load(m, total).mul(shrink);
        for (int j = 0; j < count; j++) {
            FloatVector e =
                    VectorMath.expOfNegative(load(m, scores + 4L * QUERIES * j).sub(now));
            store(m, scores + 4L * QUERIES * j, e);
            sum = sum.add(e);
        }
        store(m, max, now);
        store(m, total, sum);
        store(m, factor, shrink);
    }

    /// factor ← 1 / total, max ← max + log(total), the lse; 0 and NONE for a query that saw no key.
    private static void finish(MemorySegment m, long factor, long max, long total, int width) {
        for (int lane = 0; lane < width; lane += V) {
            FloatVector sum = load(m, total + 4L * lane);
            var nothing = sum.compare(VectorOperators.EQ, 0f);
            store(m, factor + 4L * lane, splat(1f).div(sum).blend(0f, nothing));
            FloatVector lse = load(m, max + 4L * lane).add(VectorMath.log(sum));
            store(m, max + 4L * lane, lse.blend(NONE, nothing));
        }
    }

    // ---- backward

    /// Where the gradients go; each may be absent. A shared prefix is summed over the batch in `prefixPartial`, which holds
    /// (2, batch, p, kvHeads, d).
    record Gradients(
            @Nullable MemorySegment dq,
            @Nullable MemorySegment dk,
            @Nullable MemorySegment dv,
            @Nullable MemorySegment dPrefixK,
            @Nullable MemorySegment dPrefixV) {}

    /// dQ, dK, dV and the prefix' two, from P = exp(scores − lse) made again. A task is one key head of one row of the
    /// batch, with all query heads that read it: the sums over queries have one owner and one order.
    static void backward(
            Parallel parallel, Gradients to, MemorySegment dOut, MemorySegment out, MemorySegment lse, Problem a) {
        boolean partial = a.sharesPrefix() && a.batch > 1 && to.dPrefixK != null && to.dPrefixV != null;
        long prefixBytes = a.p * a.keyStride();
        MemorySegment sums =
                partial ? parallel.workspace().segment(Slot.PARTIAL, 2L * a.batch * prefixBytes) : MemorySegment.NULL;
        parallel.parallelFor(a.batch * a.kvHeads, task -> {
            int b = task / a.kvHeads;
            int kvHead = task % a.kvHeads;
            Scratch w = Scratch.of(parallel, a.padded());
            long realRows = rowsOf(a.s);
            long bytes = 4L * a.padded() * (realRows + rowsOf(a.p));
            MemorySegment keySums = parallel.workspace().segment(Slot.KEY_GRADIENTS, 2 * bytes);
            keySums.asSlice(0, 2 * bytes).fill((byte) 0);
            Keys prefix = a.prefix(b, kvHead);
            Keys real = a.real(b, kvHead);
            int group = a.heads / a.kvHeads;
            for (int h = kvHead * group; h < (kvHead + 1) * group; h++) {
                for (int first = 0; first < a.t; first += QUERIES) {
                    int n = Math.min(QUERIES, a.t - first);
                    loadGradients(a, w, dOut, out, lse, b, h, first, n);
                    backwardKeys(a, w, real, keySums, 0, bytes, first, n);
                    if (prefix != null) {
                        backwardKeys(a, w, prefix, keySums, 4L * a.padded() * realRows, bytes, first, n);
                    }
                    if (to.dq != null) {
                        for (int i = 0; i < n; i++) {
                            BinarySimd.mulScalar(
                                    to.dq, a.query(b, first + i, h), w.m, w.sum + 4L * i * a.padded(), a.scale, a.d);
                        }
                    }
                }
            }
            keepKeys(to.dk, real.at, keySums, 0, a, a.s);
            keepKeys(to.dv, real.at, keySums, bytes, a, a.s);
            if (prefix != null && a.p > 0) {
                long from = 4L * a.padded() * realRows;
                long at = partial ? b * prefixBytes + prefix.at : prefix.at;
                keepKeys(partial ? sums : to.dPrefixK, at, keySums, from, a, a.p);
                keepKeys(
                        partial ? sums : to.dPrefixV,
                        partial ? at + a.batch * prefixBytes : at,
                        keySums,
                        bytes + from,
                        a,
                        a.p);
            }
        });
        if (partial && to.dPrefixK != null && to.dPrefixV != null) {
            sumOverBatch(to.dPrefixK, sums, 0, a.batch, prefixBytes);
            sumOverBatch(to.dPrefixV, sums, a.batch * prefixBytes, a.batch, prefixBytes);
        }
    }

    /// Rows of scratch for `count` keys: room for whole tiles.
    private static long rowsOf(int count) {
        return count + GemmTiles.ROWS;
    }

    /// Queries, their gradients (both as rows and transposed), lse, and D = Σ dOut · out, kept in `total`.
    private static void loadGradients(
            Problem a,
            Scratch w,
            MemorySegment dOut,
            MemorySegment out,
            MemorySegment lse,
            int b,
            int h,
            int first,
            int n) {
        long at = a.query(b, first, h);
        loadQueries(w.m, w.q, w.qt, a.q, at, a, n, a.scale);
        loadQueries(w.m, w.g, w.gt, dOut, at, a, n, 1f);
        CopySimd.fill(w.m, w.sum, QUERIES * a.padded(), 0f);
        // A lane without a query: exp(score − ∞) = 0.
        CopySimd.fill(w.m, w.max, QUERIES, Float.POSITIVE_INFINITY);
        CopySimd.fill(w.m, w.total, QUERIES, 0f);
        MemorySegment.copy(lse, a.statistics(b, first, h), w.m, w.max, 4L * n);
        for (int i = 0; i < n; i++) {
            long row = at + i * a.queryStride();
            set(w.m, w.total + 4L * i, ReductionSimd.dot(dOut, row, out, row, a.d));
        }
    }

    /// Adds what `n` queries from `first` on give to dQ (in `sum`), and to dK and dV (at `dKeys` and `dValues` bytes after
    /// it in `keySums`).
    private static void backwardKeys(
            Problem a, Scratch w, Keys keys, MemorySegment keySums, long dKeys, long dValues, int first, int n) {
        int width = paddedQueries(n);
        int seen = keys.seenBy(first + n);
        long wide = 4L * a.padded();
        long high = 4L * QUERIES;
        for (int j = 0; j < seen; j += KEYS) {
            int count = Math.min(KEYS, seen - j);
            long at = keys.at + j * a.keyStride();
            scores(a, w, keys, j, count, first, width);
            product(w.tile, w.m, w.other, high, keys.v, at, a.keyStride(), w.m, w.gt, high, count, width, a.d, false);
            for (int lane = 0; lane < width; lane += V) {
                slopes(w.m, w.scores + 4L * lane, w.other + 4L * lane, count, w.max + 4L * lane, w.total + 4L * lane);
            }
            long to = dKeys + j * wide;
            product(
                    w.tile,
                    keySums,
                    to + dValues,
                    wide,
                    w.m,
                    w.scores,
                    high,
                    w.m,
                    w.g,
                    wide,
                    count,
                    a.padded(),
                    width,
                    true);
            product(w.tile, keySums, to, wide, w.m, w.other, high, w.m, w.q, wide, count, a.padded(), width, true);
            GemmPacking.transpose(w.m, w.turned, KEYS, w.m, w.other, QUERIES, count, width);
            timesRows(w.m, w.sum, w.turned, keys.k, at, a, w, n, count);
        }
    }

    /// scores ← P = exp(scores − lse) and dP ← dS = P · (dP − D), for the queries of one vector.
    private static void slopes(MemorySegment m, long scores, long dP, int count, long lse, long d) {
        FloatVector norm = load(m, lse);
        FloatVector mean = load(m, d);
        for (int j = 0; j < count; j++) {
            long row = 4L * QUERIES * j;
            FloatVector p = VectorMath.expOfNegative(load(m, scores + row).sub(norm));
            store(m, scores + row, p);
            store(m, dP + row, load(m, dP + row).sub(mean).mul(p));
        }
    }

    /// Rows of scratch to rows of a gradient, if it is asked for.
    private static void keepKeys(
            @Nullable MemorySegment to, long at, MemorySegment from, long fromAt, Problem a, int count) {
        if (to != null) {
            for (int i = 0; i < count; i++) {
                MemorySegment.copy(from, fromAt + 4L * i * a.padded(), to, at + i * a.keyStride(), 4L * a.d);
            }
        }
    }

    private static void sumOverBatch(MemorySegment to, MemorySegment partial, long at, int batch, long bytes) {
        MemorySegment.copy(partial, at, to, 0, bytes);
        for (int b = 1; b < batch; b++) {
            CopySimd.add(to, 0, partial, at + b * bytes, Math.toIntExact(bytes / 4));
        }
    }

    // ---- both

    private static int paddedQueries(int n) {
        return Math.ceilDiv(n, GemmTiles.UNIT) * GemmTiles.UNIT;
    }

    /// `n` rows of d elements from `at` on, times `factor`, as rows of scratch, and transposed; zeros around them.
    private static void loadQueries(
            MemorySegment m, long rows, long turned, MemorySegment x, long at, Problem a, int n, float factor) {
        int padded = a.padded();
        int width = paddedQueries(n);
        GemmPacking.copyRows(m, rows, padded, x, at, a.queryStride() / 4, n, a.d);
        CopySimd.fill(m, rows + 4L * n * padded, (width - n) * padded, 0f);
        if (factor != 1f) {
            BinarySimd.mulScalar(m, rows, m, rows, factor, n * padded);
        }
        GemmPacking.transpose(m, turned, QUERIES, m, rows, padded, width, a.d);
    }

    /// scores (count, width) ← keys · queriesᵀ from key `j` on, −∞ where a query does not see a key.
    private static void scores(Problem a, Scratch w, Keys keys, int j, int count, int first, int width) {
        long high = 4L * QUERIES;
        long at = keys.at + j * a.keyStride();
        product(w.tile, w.m, w.scores, high, keys.k, at, a.keyStride(), w.m, w.qt, high, count, width, a.d, false);
        for (int i = 0; i < count; i++) {
            boolean masked = a.mask != null && getInt(a.mask, 4 * (keys.hidden + j + i)) == 0;
            // Queries from here on see key j + i.
            int from = masked ? width : Math.min(width, j + i - keys.lead - first);
            if (from > 0) {
                CopySimd.fill(w.m, w.scores + i * high, from, Float.NEGATIVE_INFINITY);
            }
        }
    }

    /// sum (n, d) += x (n, count) · rows (count, d), rows of `keys` from `at` on, x being rows of KEYS elements.
    private static void timesRows(
            MemorySegment m, long sum, long x, MemorySegment keys, long at, Problem a, Scratch w, int n, int count) {
        long wide = 4L * a.padded();
        if (a.d == a.padded()) {
            product(w.tile, m, sum, wide, m, x, 4L * KEYS, keys, at, a.keyStride(), n, a.d, count, true);
        } else {
            GemmPacking.copyRows(m, w.rows, a.padded(), keys, at, a.keyStride() / 4, count, a.d);
            product(w.tile, m, sum, wide, m, x, 4L * KEYS, m, w.rows, wide, n, a.padded(), count, true);
        }
    }

    /// c (rows, cols) ← a · b (or +=) in tiles; all strides in bytes, cols whole units.
    private static void product(
            MemorySegment tile,
            MemorySegment c,
            long co,
            long ldc,
            MemorySegment a,
            long ao,
            long lda,
            MemorySegment b,
            long bo,
            long ldb,
            int rows,
            int cols,
            int k,
            boolean onto) {
        for (int j = 0; j < cols; j += GemmTiles.COLUMNS) {
            int width = Math.min(GemmTiles.COLUMNS, cols - j);
            for (int i = 0; i < rows; i += GemmTiles.ROWS) {
                GemmTiles.product(
                        tile,
                        c,
                        co + i * ldc + 4L * j,
                        ldc,
                        a,
                        ao + i * lda,
                        lda,
                        b,
                        bo + 4L * j,
                        ldb,
                        width,
                        0,
                        Math.min(GemmTiles.ROWS, rows - i),
                        width,
                        k,
                        onto);
            }
        }
    }
}
