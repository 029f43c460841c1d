package dev.loran.kernels.simd;

import static dev.loran.kernels.simd.AttentionBlock.QUERIES;
import static dev.loran.kernels.simd.SimdOperations.f32;
import static dev.loran.kernels.simd.SimdOperations.i32;
import static dev.loran.kernels.simd.SimdOperations.optional;
import static dev.loran.kernels.simd.vector.Vectors.get;
import static dev.loran.kernels.simd.vector.Vectors.getInt;
import static dev.loran.kernels.simd.vector.Vectors.set;

import dev.loran.engine.backend.AttentionKernels;
import dev.loran.engine.backend.AttentionKernels.Problem;
import dev.loran.engine.backend.AttentionKernels.RopeTables;
import dev.loran.engine.backend.AttentionKernels.Scoring;
import dev.loran.engine.backend.AttentionKernels.Sizes;
import dev.loran.engine.backend.AttentionKernels.Slopes;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.Gradient;
import dev.loran.engine.backend.Matrix;
import dev.loran.kernels.simd.AttentionBlock.Scratch;
import dev.loran.kernels.simd.gemm.Bf16Tiles;
import dev.loran.kernels.simd.vector.Parallel;
import dev.loran.kernels.simd.vector.Workspace.Slot;
import java.lang.foreign.MemorySegment;
import org.jspecify.annotations.Nullable;

/// Scaled dot-product attention, blockwise (Dao et al., "FlashAttention", 2022): a block of queries is processed
/// against one block of keys after another with a running maximum and sum (the online softmax), so that scores exist
/// only for one pair of blocks at a time.
///
/// Products use the tiles of [dev.loran.kernels.simd.gemm.GemmTiles] if lanes are queries and those of
/// [AttentionTiles] if they are elements of a head.
record AttentionSimd(Backend backend, Parallel parallel) implements AttentionKernels {
    /// Tasks per thread: enough that one slow task does not leave the other threads idle.
    private static final int TASKS = 4;

    /// Bytes of a cache line.
    private static final long LINE = 64;

    /// The inputs of forward and backward, in the letters and layouts of [AttentionKernels.Problem].
    record Inputs(
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
            Scoring scoring) {
        static Inputs of(Problem a) {
            Sizes z = a.sizes();
            Buffer mask = a.mask();
            return new Inputs(
                    f32(a.q()),
                    f32(a.k()),
                    f32(a.v()),
                    optional(a.prefixK()),
                    optional(a.prefixV()),
                    mask == null ? null : i32(mask),
                    z.batch(),
                    z.t(),
                    z.s(),
                    z.p(),
                    z.heads(),
                    z.kvHeads(),
                    z.d(),
                    a.scoring());
        }

        /// Columns of scratch matrices, rounded up to whole tiles.
        int columns() {
            return AttentionBlock.up(d, AttentionTiles.UNIT);
        }

        /// Bytes from row to row of scratch memory with one row per query or key; again an odd number of cache lines.
        long wide() {
            return 64L * (Math.ceilDiv(d, 16) | 1);
        }

        /// The number of prefix and real keys.
        int keys() {
            return p + s;
        }

        /// Query i sees the keys up to and including i + lead.
        int lead() {
            return scoring.causal() ? keys() - t : keys();
        }

        /// The place among the keys of what query 0 stands at.
        int place() {
            return keys() - t;
        }

        /// Whether a query may see few of the keys before it.
        boolean isSparse() {
            return scoring.window() > 0 || scoring.packed();
        }

        float scale() {
            return (float) scoring.scale();
        }

        /// The number of query heads that share one key head.
        int group() {
            return heads / kvHeads;
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

        long key(int b, int i, int kvHead) {
            return ((long) b * s + i) * keyStride() + 4L * kvHead * d;
        }

        long prefixKey(int b, int i, int kvHead) {
            return ((long) (sharesPrefix() ? 0 : b) * p + i) * keyStride() + 4L * kvHead * d;
        }

        long statistics(int b, int i, int h) {
            return 4 * (((long) b * heads + h) * t + i);
        }

        boolean sharesPrefix() {
            return prefixK != null && prefixK.byteSize() == p * keyStride();
        }

        boolean hides(int b, int key) {
            return mask != null && text(b, key) == 0;
        }

        /// The number of the text that a key belongs to, if rows are packed; 0 for a hidden key.
        int text(int b, int key) {
            return mask == null ? 1 : getInt(mask, 4 * ((long) b * keys() + key));
        }
    }

    // ---- softmax and positions

    @Override
    public void softmax(Buffer y, Matrix x) {
        SoftmaxSimd.forward(parallel, f32(y), f32(x.buffer()), x.rows(), x.cols());
    }

    @Override
    public void softmaxBackward(Gradient dx, Buffer dy, Matrix y) {
        MemorySegment to = f32(dx.buffer());
        SoftmaxSimd.backward(parallel, to, f32(dy), f32(y.buffer()), y.rows(), y.cols(), dx.accumulate());
    }

    @Override
    public void rope(Buffer y, Buffer x, RopeTables tables, int batch, int heads, int sign) {
        RopeSimd.forward(parallel, f32(y), f32(x), tables, batch, heads, sign);
    }

    // ---- tasks

    /// The work of one task: `count` key heads starting at `kvHead`, and the query heads that share them, in row `b` of
    /// the batch.
    @FunctionalInterface
    private interface Heads {
        void accept(int b, int kvHead, int count);
    }

    /// A task is a row of the batch, or some of its heads if there are few rows: a thread that reads all heads of a row
    /// reads memory in order. No sum depends on this division.
    private static void forHeads(Parallel parallel, Inputs a, Heads body) {
        int parts = Math.clamp(Math.ceilDiv(TASKS * parallel.threads(), Math.max(1, a.batch)), 1, a.kvHeads);
        while (a.kvHeads % parts != 0) {
            parts++;
        }
        int each = a.kvHeads / parts;
        int all = parts;
        parallel.parallelFor(a.batch * all, task -> body.accept(task / all, task % all * each, each));
    }

    /// Reads the part of x that belongs to all heads once. The heads are processed one after the other, and the rows of
    /// each are short and far apart, out of reach of the prefetcher.
    private static void fetch(Scratch w, MemorySegment x, long at, long stride, int rows, long bytes) {
        int seen = 0;
        for (int i = 0; i < rows; i++) {
            seen |= fetch(x, at + i * stride, bytes);
        }
        // Without this store, the reads would be eliminated as dead code.
        set(w.m(), w.factor(), seen);
    }

    private static int fetch(MemorySegment x, long at, long bytes) {
        int seen = 0;
        for (int i = 0; i < (int) (bytes / LINE); i++) {
            seen |= getInt(x, at + LINE * i);
        }
        return seen;
    }

    private static void fetchKeys(Inputs a, Scratch w, int b, int kvHead, int count) {
        fetch(w, a.k, a.key(b, 0, kvHead), a.keyStride(), a.s, 4L * count * a.d);
        fetch(w, a.v, a.key(b, 0, kvHead), a.keyStride(), a.s, 4L * count * a.d);
    }

    private static void fetchQueries(Inputs a, Scratch w, MemorySegment x, int b, int kvHead, int count) {
        fetch(w, x, a.query(b, 0, kvHead * a.group()), a.queryStride(), a.t, 4L * count * a.group() * a.d);
    }

    // ---- forward

    /// The tiles that multiply BF16 operands; null for F32. Not used for single queries.
    private @Nullable Bf16Tiles tiles() {
        return SimdOperations.tiles(backend.operands());
    }

    @Override
    public void attention(Buffer out, Buffer lse, Problem problem) {
        forward(parallel, f32(out), f32(lse), Inputs.of(problem), tiles());
    }

    static void forward(Parallel parallel, MemorySegment out, MemorySegment lse, Inputs a, @Nullable Bf16Tiles tiles) {
        if (a.t == 1) {
            AttentionDecode.forward(parallel, out, lse, a);
            return;
        }
        int size = AttentionBlock.queriesOf(a);
        forHeads(parallel, a, (b, kvHead, count) -> {
            Scratch w = Scratch.of(parallel, a, tiles);
            fetchQueries(a, w, a.q, b, kvHead, count);
            fetchKeys(a, w, b, kvHead, count);
            for (int h = kvHead * a.group(); h < (kvHead + count) * a.group(); h++) {
                for (int first = 0; first < a.t; first += size) {
                    forwardQueries(out, lse, a, w, b, h, first, Math.min(size, a.t - first));
                }
            }
        });
    }

    private static void forwardQueries(
            MemorySegment out, MemorySegment lse, Inputs a, Scratch w, int b, int h, int first, int n) {
        MemorySegment m = w.m();
        long at = a.query(b, first, h);
        AttentionBlock.packQueries(a, w, w.qt(), a.q, at, n, a.scale());
        CopySimd.fill(m, w.max(), QUERIES, AttentionSoftmax.NONE);
        CopySimd.fill(m, w.total(), QUERIES, 0f);
        AttentionBlock.prepare(a, w, b, first, n);
        int end = Math.min(a.keys(), first + n + a.lead());
        for (int from = 0; from < end; from += AttentionBlock.keysOf(a)) {
            if (AttentionBlock.meet(a, b, first, n, from)) {
                forwardKeys(AttentionBlock.of(a, w, b, h / a.group(), first, n, from, false));
            }
        }
        AttentionSoftmax.finish(m, w.factor(), w.max(), w.total());
        MemorySegment.copy(m, w.max(), lse, a.statistics(b, first, h), 4L * n);
        scaleRows(a, w, n);
        AttentionBlock.keepRows(a, out, at, a.queryStride(), m, w.sum(), n, 1f);
    }

    private static void forwardKeys(AttentionBlock pair) {
        Scratch w = pair.w();
        pair.scores(w.scores(), w.k(), w.qt());
        AttentionSoftmax.forward(pair);
        if (pair.onto()) {
            scaleRows(pair.a(), w, pair.n());
        }
        pair.timesKeys(w.scores(), w.v());
    }

    /// Multiplies each row of the sum by its query's factor.
    private static void scaleRows(Inputs a, Scratch w, int n) {
        for (int i = 0; i < n; i++) {
            long row = w.sum() + i * a.wide();
            BinarySimd.mulScalar(w.m(), row, w.m(), row, get(w.m(), w.factor() + 4L * i), a.columns());
        }
    }

    // ---- backward

    /// What a backward pass writes, and what it reads besides the inputs; any gradient may be absent.
    record Backward(
            @Nullable MemorySegment dq,
            @Nullable MemorySegment dk,
            @Nullable MemorySegment dv,
            @Nullable MemorySegment dPrefixK,
            @Nullable MemorySegment dPrefixV,
            MemorySegment dOut,
            MemorySegment out,
            MemorySegment lse) {}

    @Override
    public void attentionBackward(Slopes slopes, Buffer dOut, Buffer out, Buffer lse, Problem problem) {
        Backward to = new Backward(
                optional(slopes.dq()),
                optional(slopes.dk()),
                optional(slopes.dv()),
                optional(slopes.dPrefixK()),
                optional(slopes.dPrefixV()),
                f32(dOut),
                f32(out),
                f32(lse));
        backward(parallel, to, Inputs.of(problem), tiles());
    }

    /// Recomputes P = exp(scores − lse). A key head and all query heads that share it belong to one task, so sums over
    /// queries have a single owner and a fixed order. A shared prefix is summed over the batch in scratch memory of
    /// shape (2, batch, p, kvHeads, d).
    static void backward(Parallel parallel, Backward to, Inputs a, @Nullable Bf16Tiles tiles) {
        boolean partial = a.sharesPrefix() && a.batch > 1 && to.dPrefixK != null && to.dPrefixV != null;
        long prefixBytes = a.p * a.keyStride();
        MemorySegment sums =
                partial ? parallel.workspace().segment(Slot.PARTIAL, 2L * a.batch * prefixBytes) : MemorySegment.NULL;
        long values = a.wide() * (a.keys() + AttentionTiles.ROWS);
        forHeads(parallel, a, (b, firstHead, heads) -> {
            Scratch w = Scratch.of(parallel, a, tiles);
            fetchQueries(a, w, a.q, b, firstHead, heads);
            fetchQueries(a, w, to.dOut, b, firstHead, heads);
            fetchQueries(a, w, to.out, b, firstHead, heads);
            fetchKeys(a, w, b, firstHead, heads);
            MemorySegment keySums = parallel.workspace().segment(Slot.KEY_GRADIENTS, 2 * values);
            for (int kvHead = firstHead; kvHead < firstHead + heads; kvHead++) {
                backwardHead(to, a, w, keySums, b, kvHead);
                long real = a.p * a.wide();
                keepKeys(a, to.dk, a.key(b, 0, kvHead), keySums, real, a.s, a.scale());
                keepKeys(a, to.dv, a.key(b, 0, kvHead), keySums, values + real, a.s, 1f);
                long at = partial ? b * prefixBytes + 4L * kvHead * a.d : a.prefixKey(b, 0, kvHead);
                keepKeys(a, partial ? sums : to.dPrefixK, at, keySums, 0, a.p, a.scale());
                long atValues = partial ? at + a.batch * prefixBytes : at;
                keepKeys(a, partial ? sums : to.dPrefixV, atValues, keySums, values, a.p, 1f);
            }
        });
        if (partial && to.dPrefixK != null && to.dPrefixV != null) {
            sumOverBatch(to.dPrefixK, sums, 0, a.batch, prefixBytes);
            sumOverBatch(to.dPrefixV, sums, a.batch * prefixBytes, a.batch, prefixBytes);
        }
    }

    /// Computes dQ of the query heads that share one key head; its dK, not yet scaled, and its dV become the two halves
    /// of `keySums`.
    private static void backwardHead(Backward to, Inputs a, Scratch w, MemorySegment keySums, int b, int kvHead) {
        long values = a.wide() * (a.keys() + AttentionTiles.ROWS);
        CopySimd.fill(keySums, 0, Math.toIntExact(2 * values / 4), 0f);
        int size = AttentionBlock.queriesOf(a);
        for (int h = kvHead * a.group(); h < (kvHead + 1) * a.group(); h++) {
            for (int first = 0; first < a.t; first += size) {
                int n = Math.min(size, a.t - first);
                loadGradients(a, w, to, b, h, first, n);
                int end = Math.min(a.keys(), first + n + a.lead());
                boolean onto = first > 0 || h % a.group() > 0;
                AttentionBlock.prepare(a, w, b, first, n);
                for (int from = 0; from < end; from += AttentionBlock.keysOf(a)) {
                    if (AttentionBlock.meet(a, b, first, n, from)) {
                        AttentionBlock pair = AttentionBlock.of(a, w, b, kvHead, first, n, from, true);
                        backwardKeys(pair, keySums, from * a.wide(), values, onto);
                    }
                }
                if (to.dq != null) {
                    long at = a.query(b, first, h);
                    AttentionBlock.keepRows(a, to.dq, at, a.queryStride(), w.m(), w.sum(), n, a.scale());
                }
            }
        }
    }

    /// Loads queries, their gradients (both as rows and transposed), lse, and D = Σ dOut · out, which is kept in
    /// `total`.
    private static void loadGradients(Inputs a, Scratch w, Backward from, int b, int h, int first, int n) {
        MemorySegment m = w.m();
        MemorySegment dOut = from.dOut;
        MemorySegment out = from.out;
        MemorySegment lse = from.lse;
        long at = a.query(b, first, h);
        AttentionBlock.packQueries(a, w, w.qt(), a.q, at, n, a.scale());
        AttentionBlock.packQueries(a, w, w.gt(), dOut, at, n, 1f);
        AttentionBlock.packRows(a, w, w.q(), a.q, at, n);
        AttentionBlock.packRows(a, w, w.g(), dOut, at, n);
        // For a lane without a query, exp(score − ∞) = 0.
        CopySimd.fill(m, w.max(), QUERIES, Float.POSITIVE_INFINITY);
        CopySimd.fill(m, w.total(), QUERIES, 0f);
        MemorySegment.copy(lse, a.statistics(b, first, h), m, w.max(), 4L * n);
        for (int i = 0; i < n; i++) {
            long row = at + i * a.queryStride();
            set(m, w.total() + 4L * i, ReductionSimd.dot(dOut, row, out, row, a.d));
        }
    }

    /// Adds the contribution of a pair of blocks to dQ (in the scratch sum), to dK and, `values` bytes after it, to dV.
    private static void backwardKeys(AttentionBlock pair, MemorySegment keySums, long to, long values, boolean onto) {
        Scratch w = pair.w();
        pair.scores(w.scores(), w.k(), w.qt());
        pair.scores(w.slopes(), w.v(), w.gt());
        AttentionSoftmax.backward(pair);
        pair.timesQueries(keySums, to + values, w.scores(), w.g(), onto);
        pair.timesQueries(keySums, to, w.slopes(), w.q(), onto);
        pair.timesKeys(w.slopes(), w.k());
    }

    /// Copies rows of scratch memory, scaled, to rows of a gradient if that is wanted.
    private static void keepKeys(
            Inputs a, @Nullable MemorySegment to, long at, MemorySegment from, long fromAt, int count, float factor) {
        if (to != null) {
            AttentionBlock.keepRows(a, to, at, a.keyStride(), from, fromAt, count, factor);
        }
    }

    private static void sumOverBatch(MemorySegment to, MemorySegment partial, long at, int batch, long bytes) {
        MemorySegment.copy(partial, at, to, 0, bytes);
        for (int b = 1; b < batch; b++) {
            CopySimd.add(to, 0, partial, at + b * bytes, Math.toIntExact(bytes / 4));
        }
    }
}
