package dev.loran.engine.backend;

import org.jspecify.annotations.Nullable;

/// Losses with integer labels. The first two methods must be implemented by each backend; the others are composed of
/// them and of [Backend]'s primitives and serve as fallback, oracle and documentation for a faster version.
public interface LossKernels {
    Backend backend();

    /// Labels, I32, one per row; those equal to `ignore` are left out.
    record Labels(Buffer ids, int ignore) {
        public int size() {
            return Math.toIntExact(ids.size());
        }

        /// Labels `from` to `from + count`.
        public Labels rows(int from, int count) {
            return new Labels(ids.slice(from, count), ignore);
        }
    }

    /// losses (n) ← lse minus the logit of the label, or 0 if the label is ignored; lse (n) = log Σ exp of each row of
    /// logits (n, v), kept for backward. Labels must lie in [0, v).
    void crossEntropy(Buffer losses, Buffer lse, Matrix logits, Labels labels);

    /// dLogits ← g · (exp(logits − lse) − onehot(label)), with zero rows where the label is ignored; g has one element.
    /// dLogits may be logits when not accumulating.
    void crossEntropyBackward(Gradient dLogits, Buffer g, Matrix logits, Buffer lse, Labels labels);

    /// loss (1) = mean cross-entropy of x · wᵀ over the valid rows, computed in chunks of rows so that logits for all n
    /// rows are never held at once; 0 if no row is valid. The gradients dx (n, c) and dw (v, c) are computed along the
    /// way, each if it is not null, and overwritten. x is (n, c); w is (v, c), row-major or prepared (in which case dw
    /// must be null).
    ///
    /// @param softCap a logit y becomes softCap · tanh(y / softCap); 0 for no such limit
    default void linearCrossEntropy(
            Buffer loss, @Nullable Buffer dx, @Nullable Buffer dw, Matrix x, Matrix w, Labels labels, double softCap) {
        Backend be = backend();
        int n = x.rows();
        int v = w.rows();
        // If w needs a gradient, a chunk holds as many logits as dw has elements, so that reading w and adding to dw,
        // once per chunk, stays a small part of the cost.
        long most = Math.max(1 << 20, dw == null ? 0 : dw.size());
        int chunk = Math.clamp(most / v, Math.min(n, 32), n);
        try (Scratch scratch = new Scratch(be)) {
            Buffer inverseCount = scratch.like(loss);
            Buffer logits = scratch.allocate(x.buffer().dtype(), (long) chunk * v);
            Buffer slopes = softCap == 0 ? null : scratch.like(logits);
            Buffer losses = scratch.allocate(loss.dtype(), chunk);
            Buffer lse = scratch.like(losses);
            inverseOfValid(inverseCount, labels);
            be.fill(loss, 0);
            if (dw != null && n == 0) {
                be.fill(dw, 0);
            }
            for (int from = 0; from < n; from += chunk) {
                int rows = Math.min(chunk, n - from);
                Matrix xs = x.rows(from, rows);
                Labels ls = labels.rows(from, rows);
                Matrix logit = new Matrix(logits.slice(0, (long) rows * v), rows, v);
                be.linear().linear(logit, xs, w, null);
                if (slopes != null) {
                    softCap(logit.buffer(), slopes.slice(0, (long) rows * v), softCap);
                }
                crossEntropy(losses, lse, logit, ls);
                be.sum(loss, losses, 1, rows, 1, true);
                if (dx != null || dw != null) {
                    crossEntropyBackward(new Gradient(logit.buffer(), false), inverseCount, logit, lse, ls);
                    if (slopes != null) {
                        be.multiply(logit.buffer(), logit.buffer(), slopes.slice(0, (long) rows * v));
                    }
                }
                if (dx != null) {
                    Buffer to = x.in(dx).rows(from, rows).buffer();
                    be.linear().linearBackwardInput(new Gradient(to, false), logit, w);
                }
                if (dw != null) {
                    be.linear().linearBackwardWeight(new Gradient(dw, from > 0), logit, xs);
                }
            }
            be.scaleBy(loss, inverseCount, 1);
        }
    }

    /// y ← cap · tanh(y / cap), and `slopes` ← its derivative, 1 − tanh².
    default void softCap(Buffer y, Buffer slopes, double cap) {
        Backend be = backend();
        int n = Math.toIntExact(y.size());
        try (Scratch scratch = new Scratch(be)) {
            Buffer one = scratch.hold(be.of(y.dtype(), 1));
            be.axpby(y, y, 1 / cap, 0);
            be.unary(UnaryFn.TANH, y, y);
            be.unary(UnaryFn.SQUARE, slopes, y);
            be.binary(BinaryFn.SUB, slopes, one, slopes, new int[] {n}, new int[] {0}, new int[] {1});
            be.axpby(y, y, cap, 0);
        }
    }

    /// y (1) ← 1 / max(1, number of labels that are not ignored).
    default void inverseOfValid(Buffer y, Labels labels) {
        Backend be = backend();
        try (Scratch scratch = new Scratch(be)) {
            Buffer one = scratch.like(y);
            be.fill(one, 1);
            be.countValid(y, labels.ids, labels.size(), labels.ignore);
            be.binary(BinaryFn.MAX, y, y, one, new int[] {1}, new int[] {1}, new int[] {1});
            be.unary(UnaryFn.RECIPROCAL, y, y);
        }
    }
}
