package dev.loran.engine.backend;

import java.util.List;
import org.jspecify.annotations.Nullable;

/// Products with the weight of a linear layer, with or without LoRA's low-rank update. All matrices are dense; x is (n,
/// in), y is (n, out), and a weight w is (out, in), row-major or prepared ([Backend#prepare]).
///
/// Each method is composed of [Backend]'s primitives and serves as fallback, oracle and documentation for a faster
/// version.
public interface LinearKernels {
    Backend backend();

    /// What LoRA adds to a linear layer: scaling · t · bᵀ with t = dropout(x) · aᵀ.
    ///
    /// @param t (n, r), an output of forward, kept for backward
    /// @param a (r, in)
    /// @param b (out, r)
    /// @param mask dropout over the rows and columns of x; null for none
    record LowRankUpdate(
            Matrix t,
            Matrix a,
            Matrix b,
            double scaling,
            @Nullable DropoutMask mask) {
        public int rank() {
            return a.rows();
        }
    }

    /// One of several linear layers applied to the same x: its output y, its weight, its bias and its low-rank update.
    record Projected(
            Matrix y,
            Matrix w,
            @Nullable Buffer bias,
            @Nullable LowRankUpdate update) {}

    /// y = x · wᵀ + bias.
    default void linear(Matrix y, Matrix x, Matrix w, @Nullable Buffer bias) {
        backend().gemm(y, x, w.t(), 1, 0);
        if (bias != null) {
            int[] shape = {y.rows(), y.cols()};
            backend().binary(BinaryFn.ADD, y.buffer(), y.buffer(), bias, shape, new int[] {y.cols(), 1}, new int[] {0, 1
            });
        }
    }

    /// dx (n, in) ← dy · w.
    default void linearBackwardInput(Gradient dx, Matrix dy, Matrix w) {
        backend().gemm(new Matrix(dx.buffer(), dy.rows(), w.cols()), dy, w, 1, dx.beta());
    }

    /// dw (out, in) ← dyᵀ · x. Never called for a frozen weight.
    default void linearBackwardWeight(Gradient dw, Matrix dy, Matrix x) {
        backend().gemm(new Matrix(dw.buffer(), dy.cols(), x.cols()), dy.t(), x, 1, dw.beta());
    }

    /// y = x · wᵀ + bias + scaling · t · bᵀ with t = dropout(x) · aᵀ. The low-rank factors are applied one after the
    /// other, so nothing of size out × in is formed. Hu et al., "LoRA", 2021, equation 3.
    default void loraLinear(Matrix y, Matrix x, Matrix w, @Nullable Buffer bias, LowRankUpdate update) {
        try (Scratch scratch = new Scratch(backend())) {
            DropoutMask mask = update.mask;
            Matrix dropped = mask == null ? x : x.in(scratch.like(x.buffer()));
            if (mask != null) {
                backend().dropout(dropped.buffer(), x.buffer(), x.rows(), x.cols(), mask, false);
            }
            backend().gemm(update.t, dropped, update.a.t(), 1, 0);
        }
        linear(y, x, w, bias);
        backend().gemm(y, update.t, update.b.t(), update.scaling, 1);
    }

    /// Gradients of [#loraLinear], except those of w and bias: dt = scaling · dy · b; db (out, r) ← scaling · dyᵀ · t;
    /// da (r, in) ← dtᵀ · dropout(x); dx (n, in) ← dy · w + dropout′(dt · a). Each may be absent (null).
    default void loraLinearBackward(
            @Nullable Gradient dx,
            @Nullable Gradient da,
            @Nullable Gradient db,
            Matrix dy,
            Matrix x,
            Matrix w,
            LowRankUpdate update) {
        Backend be = backend();
        if (db != null) {
            be.gemm(update.b.in(db.buffer()), dy.t(), update.t, update.scaling, db.beta());
        }
        if (dx == null && da == null) {
            return;
        }
        try (Scratch scratch = new Scratch(be)) {
            Matrix dt = update.t.in(scratch.allocate(dy.buffer().dtype(), update.t.size()));
            DropoutMask mask = update.mask;
            // Holds dropout(x) first, then its gradient.
            Matrix dropped = mask == null ? x : x.in(scratch.like(x.buffer()));
            be.gemm(dt, dy, update.b, update.scaling, 0);
            if (da != null) {
                if (mask != null) {
                    be.dropout(dropped.buffer(), x.buffer(), x.rows(), x.cols(), mask, false);
                }
                be.gemm(update.a.in(da.buffer()), dt.t(), dropped, 1, da.beta());
            }
            if (dx != null) {
                linearBackwardInput(dx, dy, w);
                if (mask == null) {
                    be.gemm(x.in(dx.buffer()), dt, update.a, 1, 1);
                } else {
                    be.gemm(dropped, dt, update.a, 1, 0);
                    be.dropout(dx.buffer(), dropped.buffer(), x.rows(), x.cols(), mask, true);
                }
            }
        }
    }

    /// Rows that have a low-rank update of their own.
    ///
    /// @param rows how many rows of x and y
    /// @param update null for none
    record Segment(int rows, @Nullable LowRankUpdate update) {}

    /// As [#loraLinear], for consecutive segments of the rows of x and y. Each segment's result is the same as if it
    /// were alone.
    default void loraLinear(Matrix y, Matrix x, Matrix w, @Nullable Buffer bias, List<Segment> segments) {
        int at = 0;
        for (Segment s : segments) {
            Matrix rows = x.rows(at, s.rows);
            if (s.update == null) {
                linear(y.rows(at, s.rows), rows, w, bias);
            } else {
                loraLinear(y.rows(at, s.rows), rows, w, bias, s.update);
            }
            at += s.rows;
        }
    }

    /// Gradients of the segmented [#loraLinear], as those of [#loraLinearBackward].
    ///
    /// @param da of each segment; null where absent
    /// @param db of each segment; null where absent
    default void loraLinearBackward(
            @Nullable Gradient dx,
            List<@Nullable Gradient> da,
            List<@Nullable Gradient> db,
            Matrix dy,
            Matrix x,
            Matrix w,
            List<Segment> segments) {
        int at = 0;
        for (int i = 0; i < segments.size(); i++) {
            Segment s = segments.get(i);
            Matrix rows = dy.rows(at, s.rows);
            Gradient own = Gradient.rows(dx, x, at, s.rows);
            if (s.update != null) {
                loraLinearBackward(own, da.get(i), db.get(i), rows, x.rows(at, s.rows), w, s.update);
            } else if (own != null) {
                linearBackwardInput(own, rows, w);
            }
            at += s.rows;
        }
    }

    /// Applies several linear layers, such as the query, key and value projections of attention, to one x; each y is
    /// the same as that of [#linear] or [#loraLinear].
    default void projections(List<Projected> layers, Matrix x) {
        for (Projected p : layers) {
            if (p.update == null) {
                linear(p.y, x, p.w, p.bias);
            } else {
                loraLinear(p.y, x, p.w, p.bias, p.update);
            }
        }
    }
}
