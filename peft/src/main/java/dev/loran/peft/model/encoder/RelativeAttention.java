package dev.loran.peft.model.encoder;

import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.model.Block;
import dev.loran.peft.model.Block.Prefix;
import java.util.ArrayList;
import java.util.List;
import java.util.function.IntUnaryOperator;
import org.jspecify.annotations.Nullable;

/// Multi-head attention of encoders whose scores depend on the distance between query and key as well as on their
/// contents: softmax(scale · q·kᵀ + bias) · v, a sublayer of a [Block].
///
/// The scores exist as a whole, unlike those of [Functional#attention]. Heads come first in all shapes: queries, keys
/// and values are (H, B, T, D), scores (H, B, T, S).
///
/// @param in the projections to queries, keys and values
/// @param out the projection of the heads' outputs
/// @param headDim width of a head, D
/// @param scale factor of the products of queries and keys
record RelativeAttention(List<Linear> in, Linear out, int headDim, double scale, Bias bias) {
    /// Hides a key. Its exponential is zero in every type, and it is a number in F16.
    private static final double HIDDEN = -6e4;

    /// The part of the scores that depends on distances.
    interface Bias {
        /// (H, B, T, T) or (H, 1, T, T) from queries times the scale and keys, (H, B, T, D).
        Tensor of(Tensor queries, Tensor keys);
    }

    /// The sublayer's output (B, T, C) from x (B, T, C); see [Block#forward].
    Tensor forward(Block block, Tensor x, @Nullable Tensor mask, @Nullable Prefix prefix) {
        List<Tensor> qkv = Linear.forward(x, in);
        Tensor keys = Block.heads(qkv.get(1), headDim);
        Tensor values = Block.heads(qkv.get(2), headDim);
        block.observe(keys, values);
        Tensor q = headsFirst(Block.heads(qkv.get(0), headDim)).scale(scale);
        Tensor k = headsFirst(keys);
        Tensor attended = attend(q, k, headsFirst(values), bias.of(q, k), mask, prefix);
        return out.forward(
                attended.permute(1, 2, 0, 3).reshape(x.shape().dim(0), x.shape().dim(1), -1));
    }

    /// (H, B, T, D) from (B, T, H, D).
    static Tensor headsFirst(Tensor x) {
        return x.permute(2, 0, 1, 3);
    }

    /// Attention of q (H, B, T, D), already scaled, to k and v (H, B, S, D).
    ///
    /// @param bias added to the scores of k
    /// @param mask I32 (B, P + S), where 0 hides a key; or null
    /// @param prefix precedes k and v, without a bias; or null
    static Tensor attend(Tensor q, Tensor k, Tensor v, Tensor bias, @Nullable Tensor mask, @Nullable Prefix prefix) {
        Shape s = q.shape();
        Tensor scores = Functional.matmul(q, k, false, true).add(bias);
        Tensor values = v;
        if (prefix != null) {
            Tensor before = Functional.matmul(q, before(prefix.keys(), q), false, true);
            scores = Functional.concat(List.of(before, scores), 3);
            values = Functional.concat(List.of(before(prefix.values(), q), v), 2);
        }
        if (mask != null) {
            DType type = q.dtype();
            Tensor hidden = Tensor.empty(q.backend(), type, mask.shape().dims()).copyFrom(mask);
            Tensor one = Tensor.full(q.backend(), type, 1, 1);
            scores = scores.add(one.sub(hidden).scale(HIDDEN).reshape(1, s.dim(1), 1, -1));
        }
        return Functional.softmax(scores).matmul(values);
    }

    /// A prefix's keys or values, (P, H, D) or (B, P, H, D), as (H, B, P, D).
    private static Tensor before(Tensor given, Tensor q) {
        Shape g = given.shape();
        int batch = q.shape().dim(1);
        Tensor each = g.rank() == 4
                ? given
                : Tensor.zeros(q.backend(), q.dtype(), batch, g.dim(0), g.dim(1), g.dim(2))
                        .add(given);
        return headsFirst(each);
    }

    /// Moves values by distance to their places: out[…, i, j] = x[…, i, j − i + T − 1], (…, T, T) from (…, T, 2T − 1).
    static Tensor byPlace(Tensor x) {
        Shape s = x.shape();
        int t = s.dim(-2);
        int rows = Math.toIntExact(s.size() / ((long) t * (2 * t - 1)));
        Tensor flat = x.reshape(rows * t, 2 * t - 1);
        Tensor padded = Functional.concat(List.of(flat, Tensor.zeros(x.backend(), x.dtype(), rows * t, 1)), 1);
        int[] dims = s.dims();
        dims[dims.length - 1] = t;
        return padded.reshape(rows, 2 * t * t)
                .slice(1, t - 1, t - 1 + t * (2 * t - 1))
                .reshape(rows * t, 2 * t - 1)
                .slice(1, 0, t)
                .reshape(dims);
    }

    /// The rows of a table by distance: for all distances j − i of two positions below `max`, made when first used.
    static final class Buckets implements AutoCloseable {
        private final int max;
        private final IntUnaryOperator bucket;
        private @Nullable Tensor all;

        /// @param bucket the row for a distance
        Buckets(int max, IntUnaryOperator bucket) {
            this.max = max;
            this.bucket = bucket;
        }

        /// The rows for the distances −(t − 1), …, t − 1: I32 (2t − 1).
        Tensor of(Backend backend, int t) {
            return all(backend).slice(0, max - t, max + t - 1);
        }

        private synchronized Tensor all(Backend backend) {
            if (all == null) {
                int[] rows = new int[2 * max - 1];
                for (int i = 0; i < rows.length; i++) {
                    rows[i] = bucket.applyAsInt(i - max + 1);
                }
                all = Tensor.ofInts(backend, rows, rows.length).detachFromScope();
            }
            return all;
        }

        @Override
        public void close() {
            if (all != null) {
                all.close();
            }
        }
    }

    /// Hides keys that are farther than `reach` from a query in either direction.
    static final class Window implements AutoCloseable {
        private final int reach;
        private @Nullable Tensor all;

        Window(int reach) {
            this.reach = reach;
        }

        /// Attention as in [#attend], with prefix visible to all, in spans of queries that see few keys: memory grows
        /// with the text's length, not with its square.
        Tensor attend(Tensor q, Tensor k, Tensor v, @Nullable Tensor mask, @Nullable Prefix prefix) {
            int t = q.shape().dim(2);
            int span = Math.max(1, 2 * reach);
            List<Tensor> spans = new ArrayList<>();
            for (int from = 0; from < t; from += span) {
                int to = Math.min(t, from + span);
                int first = Math.max(0, from - reach);
                int end = Math.min(t, to + reach);
                Tensor bias = bias(q).slice(0, from - first, to - first).slice(1, 0, end - first);
                spans.add(RelativeAttention.attend(
                        q.slice(2, from, to),
                        k.slice(2, first, end),
                        v.slice(2, first, end),
                        bias.reshape(1, 1, to - from, end - first),
                        mask == null ? null : columns(mask, first, end, t),
                        prefix));
            }
            return spans.size() == 1 ? spans.getFirst() : Functional.concat(spans, 2);
        }

        /// Whether nothing is hidden in a text of t positions.
        boolean seesAll(int t) {
            return t <= reach + 1;
        }

        /// The mask's columns for the prefix and for keys `first` to `end` of t.
        private static Tensor columns(Tensor mask, int first, int end, int t) {
            int prefix = mask.shape().dim(1) - t;
            Tensor keys = mask.slice(1, prefix + first, prefix + end);
            return prefix == 0 ? keys : Functional.concat(List.of(mask.slice(1, 0, prefix), keys), 1);
        }

        private synchronized Tensor bias(Tensor like) {
            if (all == null) {
                int n = 4 * Math.max(1, reach);
                double[] values = new double[n * n];
                for (int i = 0; i < values.length; i++) {
                    values[i] = Math.abs(i / n - i % n) <= reach ? 0 : HIDDEN;
                }
                all = Tensor.of(like.backend(), like.dtype(), values, n, n).detachFromScope();
            }
            return all;
        }

        @Override
        public void close() {
            if (all != null) {
                all.close();
            }
        }
    }
}
