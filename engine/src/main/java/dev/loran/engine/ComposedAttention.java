package dev.loran.engine;

import org.jspecify.annotations.Nullable;

/// Attention from primitives, with the scores of all queries and keys in memory: the oracle of every blockwise kernel,
/// and the fallback. Letters as in [Backend#attention]; S = p + s is the number of keys with the prefix in front.
final class ComposedAttention {
    /// Score of a hidden key: exp of it less any real score is 0, and it stays finite in every dtype.
    private static final double HIDDEN = -1e30;

    private ComposedAttention() {}

    static void forward(
            Backend be,
            Buffer out,
            Buffer lse,
            Buffer q,
            Buffer k,
            Buffer v,
            @Nullable Buffer prefixK,
            @Nullable Buffer prefixV,
            @Nullable Buffer mask,
            int batch,
            int t,
            int s,
            int p,
            int heads,
            int kvHeads,
            int d,
            boolean causal,
            double scale) {
        int keys = p + s;
        int rows = batch * heads * t;
        try (Scratch scratch = new Scratch(be)) {
            Buffer qh = byHead(scratch, q, batch, t, heads, d);
            Buffer kh = keysByHead(scratch, k, prefixK, batch, s, p, heads, kvHeads, d);
            Buffer vh = keysByHead(scratch, v, prefixV, batch, s, p, heads, kvHeads, d);
            Buffer scores = scores(scratch, qh, kh, mask, batch, t, s, p, heads, d, causal, scale);
            // A query that sees nothing: its maximum is HIDDEN, and its row of probabilities is set to 0 by `sees`.
            Buffer max = scratch.allocate(q.dtype(), rows);
            Buffer sees = scratch.allocate(q.dtype(), rows);
            int[] shape = {rows, keys};
            int[] dense = {keys, 1};
            int[] perRow = {1, 0};
            be.rowMax(max, scores, rows, keys);
            visible(scratch, sees, max, rows);
            be.binary(BinaryFn.SUB, scores, scores, max, shape, dense, perRow);
            be.unary(UnaryFn.EXP, scores, scores);
            Buffer sums = scratch.like(max);
            be.sum(sums, scores, rows, keys, 1, false);
            be.binary(BinaryFn.DIV, scores, scores, sums, shape, dense, perRow);
            be.binary(BinaryFn.MUL, scores, scores, sees, shape, dense, perRow);
            be.unary(UnaryFn.LOG, sums, sums);
            be.axpby(sums, max, 1, 1);
            be.cast(lse, sums);
            products(qh, scores, false, vh, false, batch * heads, t, d, keys, 1);
            be.permute(out, qh, new int[] {batch, heads, t, d}, new int[] {0, 2, 1, 3});
        }
    }

    static void backward(
            Backend be,
            @Nullable Buffer dq,
            @Nullable Buffer dk,
            @Nullable Buffer dv,
            @Nullable Buffer dPrefixK,
            @Nullable Buffer dPrefixV,
            Buffer dOut,
            Buffer out,
            Buffer lse,
            Buffer q,
            Buffer k,
            Buffer v,
            @Nullable Buffer prefixK,
            @Nullable Buffer prefixV,
            @Nullable Buffer mask,
            int batch,
            int t,
            int s,
            int p,
            int heads,
            int kvHeads,
            int d,
            boolean causal,
            double scale) {
        int keys = p + s;
        int rows = batch * heads * t;
        int n = batch * heads;
        int[] shape = {rows, keys};
        int[] dense = {keys, 1};
        int[] perRow = {1, 0};
        try (Scratch scratch = new Scratch(be)) {
            Buffer qh = byHead(scratch, q, batch, t, heads, d);
            Buffer kh = keysByHead(scratch, k, prefixK, batch, s, p, heads, kvHeads, d);
            Buffer vh = keysByHead(scratch, v, prefixV, batch, s, p, heads, kvHeads, d);
            Buffer dOh = byHead(scratch, dOut, batch, t, heads, d);
            Buffer probs = scores(scratch, qh, kh, mask, batch, t, s, p, heads, d, causal, scale);
            Buffer sees = scratch.allocate(q.dtype(), rows);
            Buffer sums = scratch.like(sees);
            be.cast(sums, lse);
            visible(scratch, sees, sums, rows);
            be.binary(BinaryFn.SUB, probs, probs, sums, shape, dense, perRow);
            be.unary(UnaryFn.EXP, probs, probs);
            be.binary(BinaryFn.MUL, probs, probs, sees, shape, dense, perRow);
            Buffer dKeys = scratch.allocate(q.dtype(), (long) n * keys * d);
            if (dv != null || dPrefixV != null) {
                products(dKeys, probs, true, dOh, false, n, keys, d, t, 1);
                fromKeys(scratch, dv, dPrefixV, prefixV, dKeys, batch, s, p, heads, kvHeads, d);
            }
            // D per query, then dS over the memory of dP.
            Buffer oh = byHead(scratch, out, batch, t, heads, d);
            Buffer dRow = scratch.allocate(q.dtype(), rows);
            be.binary(BinaryFn.MUL, oh, oh, dOh, new int[] {rows, d}, new int[] {d, 1}, new int[] {d, 1});
            be.sum(dRow, oh, rows, d, 1, false);
            Buffer dS = scratch.allocate(q.dtype(), (long) rows * keys);
            products(dS, dOh, false, vh, true, n, t, keys, d, 1);
            be.binary(BinaryFn.SUB, dS, dS, dRow, shape, dense, perRow);
            be.binary(BinaryFn.MUL, dS, dS, probs, shape, dense, dense);
            if (dk != null || dPrefixK != null) {
                products(dKeys, dS, true, qh, false, n, keys, d, t, scale);
                fromKeys(scratch, dk, dPrefixK, prefixK, dKeys, batch, s, p, heads, kvHeads, d);
            }
            if (dq != null) {
                products(qh, dS, false, kh, false, n, t, d, keys, scale);
                be.permute(dq, qh, new int[] {batch, heads, t, d}, new int[] {0, 2, 1, 3});
            }
        }
    }

    /// (batch, t, heads, d) to (batch, heads, t, d).
    private static Buffer byHead(Scratch scratch, Buffer x, int batch, int t, int heads, int d) {
        Buffer y = scratch.like(x);
        x.backend().permute(y, x, new int[] {batch, t, heads, d}, new int[] {0, 2, 1, 3});
        return y;
    }

    /// [prefix; x] as (batch, heads, p + s, d), key heads repeated for the query heads that share them.
    private static Buffer keysByHead(
            Scratch scratch,
            Buffer x,
            @Nullable Buffer prefix,
            int batch,
            int s,
            int p,
            int heads,
            int kvHeads,
            int d) {
        int keys = p + s;
        int row = kvHeads * d;
        Backend be = x.backend();
        Buffer joined = scratch.allocate(x.dtype(), (long) batch * keys * row);
        for (int b = 0; b < batch; b++) {
            long at = (long) b * keys * row;
            if (prefix != null) {
                long from = prefix.size() == (long) p * row ? 0 : (long) b * p * row;
                be.copy(joined.slice(at, (long) p * row), row, prefix.slice(from, (long) p * row), row, p, row, false);
            }
            be.copy(
                    joined.slice(at + (long) p * row, (long) s * row),
                    row,
                    x.slice((long) b * s * row, (long) s * row),
                    row,
                    s,
                    row,
                    false);
        }
        Buffer perHead = byHead(scratch, joined, batch, keys, kvHeads, d);
        int group = heads / kvHeads;
        if (group == 1) {
            return perHead;
        }
        int one = keys * d;
        Buffer repeated = scratch.allocate(x.dtype(), (long) batch * heads * one);
        for (int g = 0; g < group; g++) {
            be.copy(
                    repeated.slice((long) g * one, repeated.size() - (long) g * one),
                    group * one,
                    perHead,
                    one,
                    batch * kvHeads,
                    one,
                    false);
        }
        return repeated;
    }

    /// The reverse of [#keysByHead]: sums over the query heads of a group, splits prefix and real keys.
    private static void fromKeys(
            Scratch scratch,
            @Nullable Buffer dx,
            @Nullable Buffer dPrefix,
            @Nullable Buffer prefix,
            Buffer dKeys,
            int batch,
            int s,
            int p,
            int heads,
            int kvHeads,
            int d) {
        int keys = p + s;
        int row = kvHeads * d;
        int group = heads / kvHeads;
        Backend be = dKeys.backend();
        Buffer summed = scratch.allocate(dKeys.dtype(), (long) batch * keys * row);
        be.sum(summed, dKeys, batch * kvHeads, group, keys * d, false);
        Buffer joined = scratch.allocate(dKeys.dtype(), (long) batch * keys * row);
        be.permute(joined, summed, new int[] {batch, kvHeads, keys, d}, new int[] {0, 2, 1, 3});
        for (int b = 0; b < batch; b++) {
            long at = (long) b * keys * row;
            if (dPrefix != null && prefix != null) {
                boolean shared = prefix.size() == (long) p * row;
                be.copy(
                        dPrefix.slice(shared ? 0 : (long) b * p * row, (long) p * row),
                        row,
                        joined.slice(at, (long) p * row),
                        row,
                        p,
                        row,
                        shared && b > 0);
            }
            if (dx != null) {
                be.copy(
                        dx.slice((long) b * s * row, (long) s * row),
                        row,
                        joined.slice(at + (long) p * row, (long) s * row),
                        row,
                        s,
                        row,
                        false);
            }
        }
    }

    /// scale · q · kᵀ of (batch, heads, t, S), HIDDEN where a key is not seen.
    private static Buffer scores(
            Scratch scratch,
            Buffer qh,
            Buffer kh,
            @Nullable Buffer mask,
            int batch,
            int t,
            int s,
            int p,
            int heads,
            int d,
            boolean causal,
            double scale) {
        int keys = p + s;
        Backend be = qh.backend();
        Buffer scores = scratch.allocate(qh.dtype(), (long) batch * heads * t * keys);
        products(scores, qh, false, kh, true, batch * heads, t, keys, d, scale);
        if (mask != null) {
            Buffer hide = scratch.allocate(qh.dtype(), (long) batch * keys);
            Buffer one = scratch.hold(be.of(qh.dtype(), 1));
            be.cast(hide, mask);
            be.binary(BinaryFn.SUB, hide, hide, one, new int[] {batch * keys}, new int[] {1}, new int[] {0});
            be.axpby(hide, hide, -HIDDEN, 0);
            addHidden(scores, hide, new int[] {batch, heads * t, keys}, new int[] {keys, 0, 1});
        }
        if (causal) {
            double[] hide = new double[t * keys];
            for (int i = 0; i < t; i++) {
                for (int j = p + i + s - t + 1; j < keys; j++) {
                    hide[i * keys + j] = HIDDEN;
                }
            }
            addHidden(scores, scratch.hold(be.of(qh.dtype(), hide)), new int[] {batch * heads, t, keys}, new int[] {
                0, keys, 1
            });
        }
        return scores;
    }

    private static void addHidden(Buffer scores, Buffer hide, int[] shape, int[] strides) {
        int[] dense = {shape[1] * shape[2], shape[2], 1};
        scores.backend().binary(BinaryFn.ADD, scores, scores, hide, shape, dense, strides);
    }

    /// y ← 1 where x (a row's maximum or lse) is that of a query that sees a key, 0 where every key is hidden: the
    /// logistic function of ±5000, which is exact in every dtype.
    private static void visible(Scratch scratch, Buffer y, Buffer x, int rows) {
        Backend be = x.backend();
        Buffer offset = scratch.hold(be.of(x.dtype(), -HIDDEN / 2));
        be.binary(BinaryFn.ADD, y, x, offset, new int[] {rows}, new int[] {1}, new int[] {0});
        be.axpby(y, y, -1e4 / HIDDEN, 0);
        be.unary(UnaryFn.SIGMOID, y, y);
    }

    /// `batch` times c (m, n) = alpha · op(a) · op(b), all dense.
    private static void products(
            Buffer c,
            Buffer a,
            boolean transA,
            Buffer b,
            boolean transB,
            int batch,
            int m,
            int n,
            int k,
            double alpha) {
        int lda = transA ? m : k;
        int ldb = transB ? k : n;
        c.backend()
                .gemm(
                        c,
                        n,
                        (long) m * n,
                        a,
                        lda,
                        (long) m * k,
                        transA,
                        b,
                        ldb,
                        (long) k * n,
                        transB,
                        batch,
                        m,
                        n,
                        k,
                        alpha,
                        0);
    }
}
