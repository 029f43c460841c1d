package dev.loran.engine.backend;

import org.jspecify.annotations.Nullable;

/// Attention, and the softmax and rotary positions that go with it.
///
/// Each method is composed of [Backend]'s primitives and serves as fallback, oracle and documentation for a faster
/// version.
public interface AttentionKernels {
    Backend backend();

    /// The sizes of an attention problem.
    ///
    /// @param batch rows of the batch
    /// @param t queries per row of the batch
    /// @param s keys per row of the batch, not counting the prefix; at least t when causal
    /// @param p keys of the prefix, 0 for none
    /// @param heads number of query heads
    /// @param kvHeads number of key and value heads; query head h reads key head h / (heads / kvHeads)
    /// @param d columns of a head
    record Sizes(int batch, int t, int s, int p, int heads, int kvHeads, int d) {}

    /// How a query weighs keys: the softmax of the scores scale · q·k of those that it sees.
    ///
    /// @param causal whether query i, at position p + i + (s − t) of prefix and keys, sees no key at a later position
    /// @param window a query sees no key whose position differs from its own by `window` or more; 0 for no such limit.
    ///     Beltagy et al., "Longformer", 2020, section 3.1
    /// @param softCap a score x becomes softCap · tanh(x / softCap); 0 for no such limit. Gemma Team, "Gemma 2", 2024,
    ///     section 2
    /// @param packed whether a row of the batch holds several texts, each of which attends to itself only: the mask
    ///     then numbers the texts, and a query sees the prefix and those other keys that have its own number. Krell et
    ///     al., "Efficient Sequence Packing without Cross-contamination", 2021, section 3.2
    record Scoring(boolean causal, int window, double scale, double softCap, boolean packed) {
        /// For rows of one text each.
        public Scoring(boolean causal, int window, double scale, double softCap) {
            this(causal, window, scale, softCap, false);
        }

        /// Also without window and soft cap.
        public Scoring(boolean causal, double scale) {
            this(causal, 0, scale, 0);
        }

        public Scoring withWindow(int value) {
            return new Scoring(causal, value, scale, softCap, packed);
        }

        public Scoring withPacked(boolean value) {
            return new Scoring(causal, window, scale, softCap, value);
        }

        /// Whether a query sees all keys that the mask shows and that causality allows, with their scores unchanged.
        public boolean isPlain() {
            return window == 0 && softCap == 0 && !packed;
        }
    }

    /// The inputs of attention.
    ///
    /// | argument | shape |
    /// |---|---|
    /// | q | (batch, t, heads, d) |
    /// | k, v | (batch, s, kvHeads, d) |
    /// | prefixK, prefixV | (p, kvHeads, d) for all rows of the batch or (batch, p, kvHeads, d); null when p = 0 |
    /// | mask | I32 (batch, p + s), 0 hides a key; null shows all. If packed, with s = t, the number of a key's text |
    record Problem(
            Buffer q,
            Buffer k,
            Buffer v,
            @Nullable Buffer prefixK,
            @Nullable Buffer prefixV,
            @Nullable Buffer mask,
            Sizes sizes,
            Scoring scoring) {
        /// With plain scores.
        public Problem(
                Buffer q,
                Buffer k,
                Buffer v,
                @Nullable Buffer prefixK,
                @Nullable Buffer prefixV,
                @Nullable Buffer mask,
                Sizes sizes,
                boolean causal,
                double scale) {
            this(q, k, v, prefixK, prefixV, mask, sizes, new Scoring(causal, scale));
        }

        /// Whether all rows of the batch share one prefix.
        public boolean sharesPrefix() {
            return prefixK != null && prefixK.size() == (long) sizes.p * sizes.kvHeads * sizes.d;
        }
    }

    /// Where the gradients of attention go, each with the shape of the input it belongs to, and overwritten. Any may be
    /// null, except that dk and dv come as a pair, and so do dPrefixK and dPrefixV.
    record Slopes(
            @Nullable Buffer dq,
            @Nullable Buffer dk,
            @Nullable Buffer dv,
            @Nullable Buffer dPrefixK,
            @Nullable Buffer dPrefixV) {}

    /// The tables of rotary positions: cos and sin (t, d / 2).
    record RopeTables(Buffer cos, Buffer sin, int t, int d) {}

    /// y = softmax of each row of x. y may be x.
    default void softmax(Buffer y, Matrix x) {
        Backend be = backend();
        int[] shape = {x.rows(), x.cols()};
        int[] dense = {x.cols(), 1};
        int[] perRow = {1, 0};
        try (Scratch scratch = new Scratch(be)) {
            Buffer ofRow = scratch.allocate(y.dtype(), x.rows());
            be.rowMax(ofRow, x.buffer(), x.rows(), x.cols());
            be.binary(BinaryFn.SUB, y, x.buffer(), ofRow, shape, dense, perRow);
            be.unary(UnaryFn.EXP, y, y);
            be.sum(ofRow, y, x.rows(), x.cols(), 1, false);
            be.binary(BinaryFn.DIV, y, y, ofRow, shape, dense, perRow);
        }
    }

    /// dx ← y · (dy − Σ cols dy · y).
    default void softmaxBackward(Gradient dx, Buffer dy, Matrix y) {
        Backend be = backend();
        int[] shape = {y.rows(), y.cols()};
        int[] dense = {y.cols(), 1};
        try (Scratch scratch = new Scratch(be)) {
            Buffer work = scratch.like(y.buffer());
            Buffer ofRow = scratch.allocate(y.buffer().dtype(), y.rows());
            be.multiply(work, dy, y.buffer());
            be.sum(ofRow, work, y.rows(), y.cols(), 1, false);
            be.binary(BinaryFn.SUB, work, dy, ofRow, shape, dense, new int[] {1, 0});
            be.multiply(work, work, y.buffer());
            be.axpby(dx.buffer(), work, 1, dx.beta());
        }
    }

    /// Rotary position embedding of x (batch, t, heads, d) in Llama's rotate-half layout: y = x · cos + rotate(x) · sin
    /// with rotate(x) = (−x₂, x₁), x₁ and x₂ being the two halves; sign −1 rotates backward, which gives the gradient.
    /// Su et al., "RoFormer", 2021, equation 34. y may be x.
    default void rope(Buffer y, Buffer x, RopeTables tables, int batch, int heads, int sign) {
        int t = tables.t;
        int d = tables.d;
        int half = d / 2;
        int rows = batch * t * heads;
        int[] shape = {batch, t, heads, half};
        int[] dense = {t * heads * half, heads * half, half, 1};
        int[] table = {0, half, 0, 1};
        BinaryFn minus = sign > 0 ? BinaryFn.SUB : BinaryFn.ADD;
        BinaryFn plus = sign > 0 ? BinaryFn.ADD : BinaryFn.SUB;
        Backend be = backend();
        try (Scratch scratch = new Scratch(be)) {
            Buffer x1 = scratch.allocate(x.dtype(), (long) rows * half);
            Buffer x2 = scratch.like(x1);
            Buffer work = scratch.like(x1);
            Buffer rotated = scratch.like(x1);
            be.copy(x1, half, x, d, rows, half, false);
            be.copy(x2, half, x.slice(half, x.size() - half), d, rows, half, false);
            be.binary(BinaryFn.MUL, rotated, x1, tables.cos, shape, dense, table);
            be.binary(BinaryFn.MUL, work, x2, tables.sin, shape, dense, table);
            be.binary(minus, rotated, rotated, work, shape, dense, dense);
            be.copy(y, d, rotated, half, rows, half, false);
            be.binary(BinaryFn.MUL, rotated, x2, tables.cos, shape, dense, table);
            be.binary(BinaryFn.MUL, work, x1, tables.sin, shape, dense, table);
            be.binary(plus, rotated, rotated, work, shape, dense, dense);
            be.copy(y.slice(half, y.size() - half), d, rotated, half, rows, half, false);
        }
    }

    /// Scaled dot-product attention, out = softmax(scale · q · [prefixK; k]ᵀ + visibility) · [prefixV; v] (Vaswani et
    /// al., 2017, equation 1), with grouped-query heads and a prefix segment of keys and values (Li and Liang,
    /// "Prefix-Tuning", 2021) that precedes the real keys and is seen by every query. A query that sees no key yields
    /// zeros.
    ///
    /// @param out (batch, t, heads, d)
    /// @param lse (batch, heads, t): log Σ exp of the scores, an output kept for backward
    default void attention(Buffer out, Buffer lse, Problem problem) {
        try (Scratch scratch = new Scratch(backend())) {
            new ComposedAttention(backend(), scratch, problem).forward(out, lse);
        }
    }

    /// Gradients of [#attention] with P = exp(scores − lse) recomputed and D = Σ dOut · out: dV = Pᵀ·dOut, dS = P ∘
    /// (dOut·Vᵀ − D), dQ = scale · dS·K, dK = scale · dSᵀ·Q (Dao et al., "FlashAttention", 2022, appendix B.2). The
    /// gradients of the prefix have the prefix's shape; they are summed over the batch if the prefix is shared.
    default void attentionBackward(Slopes to, Buffer dOut, Buffer out, Buffer lse, Problem problem) {
        try (Scratch scratch = new Scratch(backend())) {
            new ComposedAttention(backend(), scratch, problem).backward(to, dOut, out, lse);
        }
    }
}
