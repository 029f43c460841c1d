package dev.loran.engine.backend;

import dev.loran.engine.backend.AttentionKernels.Problem;
import dev.loran.engine.backend.AttentionKernels.Sizes;
import dev.loran.engine.backend.AttentionKernels.Slopes;
import org.jspecify.annotations.Nullable;

/// Attention from primitives, with the scores of all queries and keys in memory: the oracle for every blockwise kernel,
/// and the fallback. Letters are as in [Problem]; S = p + s is the number of keys including the prefix, which comes
/// first. Everything between inputs and outputs is in the type that sums use.
final class ComposedAttention {
    /// Score of a hidden key: exp of this minus any real score is 0, and it is finite in every dtype.
    private static final double HIDDEN = -1e30;

    private final Backend be;
    private final Scratch scratch;
    private final Problem a;
    private final int batch;
    private final int t;
    private final int s;
    private final int p;
    private final int heads;
    private final int kvHeads;
    private final int d;
    private final int keys;
    private final DType dtype;

    /// Number of rows of the scores (batch · heads · t, S): one row per query.
    private final int rows;

    private final int[] shape;
    private final int[] dense;
    private final int[] perRow = {1, 0};

    /// The derivative of each score's soft cap; null if there is none.
    private @Nullable Buffer capSlopes;

    /// @param scratch holds the temporary memory
    ComposedAttention(Backend be, Scratch scratch, Problem a) {
        this.be = be;
        this.scratch = scratch;
        this.a = a;
        Sizes z = a.sizes();
        batch = z.batch();
        t = z.t();
        s = z.s();
        p = z.p();
        heads = z.heads();
        kvHeads = z.kvHeads();
        d = z.d();
        keys = p + s;
        dtype = a.q().dtype().accumulator();
        rows = batch * heads * t;
        shape = new int[] {rows, keys};
        dense = new int[] {keys, 1};
    }

    void forward(Buffer out, Buffer lse) {
        Buffer qh = byHead(a.q(), t, heads);
        Buffer kh = keysByHead(a.k(), a.prefixK());
        Buffer vh = keysByHead(a.v(), a.prefixV());
        Buffer scores = scores(qh, kh);
        // For a query that sees no key, the maximum is HIDDEN, and multiplying by `sees` sets its row of probabilities
        // to 0.
        Buffer max = scratch.allocate(dtype, rows);
        Buffer sees = scratch.allocate(dtype, rows);
        be.rowMax(max, scores, rows, keys);
        visible(sees, max);
        be.binary(BinaryFn.SUB, scores, scores, max, shape, dense, perRow);
        be.unary(UnaryFn.EXP, scores, scores);
        Buffer sums = scratch.like(max);
        be.sum(sums, scores, rows, keys, 1, false);
        be.binary(BinaryFn.DIV, scores, scores, sums, shape, dense, perRow);
        be.binary(BinaryFn.MUL, scores, scores, sees, shape, dense, perRow);
        be.unary(UnaryFn.LOG, sums, sums);
        be.axpby(sums, max, 1, 1);
        be.cast(lse, sums);
        products(queries(qh), weights(scores), keys(vh), 1);
        fromQueries(out, qh);
    }

    void backward(Slopes to, Buffer dOut, Buffer out, Buffer lse) {
        Buffer qh = byHead(a.q(), t, heads);
        Buffer kh = keysByHead(a.k(), a.prefixK());
        Buffer vh = keysByHead(a.v(), a.prefixV());
        Buffer dOh = byHead(dOut, t, heads);
        Buffer probs = probabilities(scores(qh, kh), lse);
        Buffer dKeys = scratch.allocate(dtype, (long) batch * heads * keys * d);
        if (to.dv() != null || to.dPrefixV() != null) {
            products(keys(dKeys), weights(probs).t(), queries(dOh), 1);
            fromKeys(to.dv(), to.dPrefixV(), a.prefixV(), dKeys);
        }
        Buffer dS = scoreSlopes(probs, dOh, byHead(out, t, heads), vh);
        if (to.dk() != null || to.dPrefixK() != null) {
            products(keys(dKeys), weights(dS).t(), queries(qh), a.scoring().scale());
            fromKeys(to.dk(), to.dPrefixK(), a.prefixK(), dKeys);
        }
        if (to.dq() != null) {
            products(queries(qh), weights(dS), keys(kh), a.scoring().scale());
            fromQueries(to.dq(), qh);
        }
    }

    /// P = exp(scores − lse), overwriting the scores.
    private Buffer probabilities(Buffer scores, Buffer lse) {
        Buffer sees = scratch.allocate(dtype, rows);
        Buffer sums = scratch.like(sees);
        be.cast(sums, lse);
        visible(sees, sums);
        be.binary(BinaryFn.SUB, scores, scores, sums, shape, dense, perRow);
        be.unary(UnaryFn.EXP, scores, scores);
        be.binary(BinaryFn.MUL, scores, scores, sees, shape, dense, perRow);
        return scores;
    }

    /// dS = P ∘ (dP − D) with D = Σ dOut · out; `oh` is overwritten.
    private Buffer scoreSlopes(Buffer probs, Buffer dOh, Buffer oh, Buffer vh) {
        Buffer dRow = scratch.allocate(dtype, rows);
        be.multiply(oh, oh, dOh);
        be.sum(dRow, oh, rows, d, 1, false);
        Buffer dS = scratch.allocate(dtype, (long) rows * keys);
        products(weights(dS), queries(dOh), keys(vh).t(), 1);
        be.binary(BinaryFn.SUB, dS, dS, dRow, shape, dense, perRow);
        be.multiply(dS, dS, probs);
        if (capSlopes != null) {
            be.multiply(dS, dS, capSlopes);
        }
        return dS;
    }

    // ---- matrices of one head of one batch row, and their products

    private Matrix queries(Buffer b) {
        return new Matrix(b, t, d);
    }

    private Matrix keys(Buffer b) {
        return new Matrix(b, keys, d);
    }

    private Matrix weights(Buffer b) {
        return new Matrix(b, t, keys);
    }

    /// c = alpha · x · y, for each head of each batch row.
    private void products(Matrix c, Matrix x, Matrix y, double alpha) {
        be.gemm(c, x, y, batch * heads, alpha, 0);
    }

    // ---- heads

    /// (batch, n, count, d) to (batch, count, n, d).
    private Buffer byHead(Buffer x, int n, int count) {
        Buffer wide = as(dtype, x);
        Buffer y = scratch.like(wide);
        be.permute(y, wide, new int[] {batch, n, count, d}, new int[] {0, 2, 1, 3});
        return y;
    }

    /// The reverse of [#byHead] for what belongs to queries.
    private void fromQueries(Buffer y, Buffer x) {
        be.permute(y, as(y.dtype(), x), new int[] {batch, heads, t, d}, new int[] {0, 2, 1, 3});
    }

    private Buffer as(DType type, Buffer x) {
        if (x.dtype() == type) {
            return x;
        }
        Buffer y = scratch.allocate(type, x.size());
        be.cast(y, x);
        return y;
    }

    /// [prefix; x] as (batch, heads, S, d), with key heads repeated for the query heads that share them.
    private Buffer keysByHead(Buffer x, @Nullable Buffer prefix) {
        int row = kvHeads * d;
        Buffer joined = scratch.allocate(x.dtype(), (long) batch * keys * row);
        for (int b = 0; b < batch; b++) {
            int at = b * keys;
            if (prefix != null) {
                copyRows(joined, at, prefix, a.sharesPrefix() ? 0 : b * p, p, false);
            }
            copyRows(joined, at + p, x, b * s, s, false);
        }
        Buffer perHead = byHead(joined, keys, kvHeads);
        int group = heads / kvHeads;
        if (group == 1) {
            return perHead;
        }
        int one = keys * d;
        Buffer repeated = scratch.allocate(dtype, (long) batch * heads * one);
        for (int g = 0; g < group; g++) {
            Buffer to = repeated.slice((long) g * one, repeated.size() - (long) g * one);
            be.copy(to, group * one, perHead, one, batch * kvHeads, one, false);
        }
        return repeated;
    }

    /// The reverse of [#keysByHead]: sums over the query heads of a group, and splits prefix and real keys.
    private void fromKeys(@Nullable Buffer dx, @Nullable Buffer dPrefix, @Nullable Buffer prefix, Buffer dKeys) {
        long size = (long) batch * keys * kvHeads * d;
        Buffer summed = scratch.allocate(dKeys.dtype(), size);
        be.sum(summed, dKeys, batch * kvHeads, heads / kvHeads, keys * d, false);
        Buffer joined = scratch.allocate(dKeys.dtype(), size);
        be.permute(joined, summed, new int[] {batch, kvHeads, keys, d}, new int[] {0, 2, 1, 3});
        joined = as(a.k().dtype(), joined);
        for (int b = 0; b < batch; b++) {
            int at = b * keys;
            if (dPrefix != null && prefix != null) {
                boolean shared = a.sharesPrefix();
                copyRows(dPrefix, shared ? 0 : b * p, joined, at, p, shared && b > 0);
            }
            if (dx != null) {
                copyRows(dx, b * s, joined, at + p, s, false);
            }
        }
    }

    /// Copies `count` rows of all key heads, from row `from` of x to row `to` of y.
    private void copyRows(Buffer y, int to, Buffer x, int from, int count, boolean accumulate) {
        int row = kvHeads * d;
        Buffer target = y.slice((long) to * row, (long) count * row);
        be.copy(target, row, x.slice((long) from * row, (long) count * row), row, count, row, accumulate);
    }

    // ---- scores

    /// scale · q · kᵀ of (batch, heads, t, S), HIDDEN where a key is not seen.
    private Buffer scores(Buffer qh, Buffer kh) {
        Buffer scores = scratch.allocate(dtype, (long) rows * keys);
        products(weights(scores), queries(qh), keys(kh).t(), a.scoring().scale());
        if (a.scoring().softCap() != 0) {
            cap(scores, a.scoring().softCap());
        }
        Buffer mask = a.mask();
        if (mask != null) {
            Buffer hide = scratch.allocate(dtype, (long) batch * keys);
            Buffer one = scratch.hold(be.of(dtype, 1));
            be.cast(hide, mask);
            be.binary(BinaryFn.SUB, hide, one, hide, new int[] {batch * keys}, new int[] {0}, new int[] {1});
            be.unary(UnaryFn.RELU, hide, hide);
            be.axpby(hide, hide, HIDDEN, 0);
            addHidden(scores, hide, new int[] {batch, heads * t, keys}, new int[] {keys, 0, 1});
            if (a.scoring().packed()) {
                hideOtherTexts(scores, mask);
            }
        }
        if (a.scoring().causal() || a.scoring().window() > 0) {
            Buffer all = scratch.hold(be.of(dtype, hiddenByPosition()));
            addHidden(scores, all, new int[] {batch * heads, t, keys}, new int[] {0, keys, 1});
        }
        return scores;
    }

    /// Hides the keys of texts other than the query's own, except those of the prefix. For whole numbers, the square of
    /// the difference is 0 or at least 1.
    private void hideOtherTexts(Buffer scores, Buffer mask) {
        Buffer text = scratch.allocate(dtype, (long) batch * keys);
        Buffer apart = scratch.allocate(dtype, (long) batch * t * keys);
        be.cast(text, mask);
        Buffer own = text.slice(keys - t, text.size() - (keys - t));
        be.binary(BinaryFn.SUB, apart, own, text, new int[] {batch, t, keys}, new int[] {keys, 1, 0}, new int[] {
            keys, 0, 1
        });
        be.unary(UnaryFn.SQUARE, apart, apart);
        be.axpby(apart, apart, HIDDEN, 0);
        if (p > 0) {
            Buffer shown = scratch.allocate(dtype, (long) batch * t * p);
            be.fill(shown, 0);
            be.copy(apart, keys, shown, p, batch * t, p, false);
        }
        int[] by = {batch, heads, t, keys};
        int[] all = {heads * t * keys, t * keys, keys, 1};
        be.binary(BinaryFn.ADD, scores, scores, apart, by, all, new int[] {t * keys, 0, keys, 1});
    }

    /// What a query does not see because of its position: (t, S).
    private double[] hiddenByPosition() {
        double[] hide = new double[t * keys];
        int window = a.scoring().window() == 0 ? Integer.MAX_VALUE : a.scoring().window();
        for (int i = 0; i < t; i++) {
            int at = p + i + s - t;
            for (int j = 0; j < keys; j++) {
                if (j > at && a.scoring().causal() || Math.abs(j - at) >= window) {
                    hide[i * keys + j] = HIDDEN;
                }
            }
        }
        return hide;
    }

    /// x ← cap · tanh(x / cap); keeps its derivative, 1 − tanh².
    private void cap(Buffer scores, double cap) {
        Buffer one = scratch.hold(be.of(dtype, 1));
        Buffer slopes = scratch.like(scores);
        be.axpby(scores, scores, 1 / cap, 0);
        be.unary(UnaryFn.TANH, scores, scores);
        be.unary(UnaryFn.SQUARE, slopes, scores);
        be.binary(BinaryFn.SUB, slopes, one, slopes, shape, new int[] {0, 0}, dense);
        be.axpby(scores, scores, cap, 0);
        capSlopes = slopes;
    }

    private void addHidden(Buffer scores, Buffer hide, int[] by, int[] strides) {
        be.binary(BinaryFn.ADD, scores, scores, hide, by, new int[] {by[1] * by[2], by[2], 1}, strides);
    }

    /// y ← 1 where x (a row's maximum or lse) belongs to a query that sees a key, 0 where every key is hidden. This is
    /// the logistic function of about ±5000, which is exactly 1 or 0 in every dtype.
    private void visible(Buffer y, Buffer x) {
        Buffer offset = scratch.hold(be.of(dtype, -HIDDEN / 2));
        be.binary(BinaryFn.ADD, y, x, offset, new int[] {rows}, new int[] {1}, new int[] {0});
        be.axpby(y, y, -1e4 / HIDDEN, 0);
        be.unary(UnaryFn.SIGMOID, y, y);
    }
}
