package dev.loran.engine.backend;

import java.util.List;
import org.jspecify.annotations.Nullable;

/// Optimizer steps, and the reductions over all gradients that they need. [#adamW] and [#sgd] must be implemented by
/// each backend; the other methods are composed of [Backend]'s primitives and serve as fallback, oracle and
/// documentation for a faster version.
///
/// gScale, a one-element buffer, is the factor applied to gradients; null means 1.
public interface OptimizerKernels {
    Backend backend();

    /// What one step of AdamW takes besides the tensors.
    ///
    /// @param lr one element
    /// @param t the step number, counted from 1: one element, I32
    record AdamWStep(
            Buffer lr, Buffer t, @Nullable Buffer gScale, double beta1, double beta2, double eps, double weightDecay) {}

    /// y (1) ← Σ x² over all elements of all `xs`, accumulated in at least F32.
    default void sumOfSquares(Buffer y, List<Buffer> xs) {
        Backend be = backend();
        be.fill(y, 0);
        for (Buffer x : xs) {
            try (Scratch scratch = new Scratch(be)) {
                Buffer squares = scratch.like(x);
                be.unary(UnaryFn.SQUARE, squares, x);
                be.sum(y, squares, 1, Math.toIntExact(x.size()), 1, true);
            }
        }
    }

    /// norm (1) ← √sumOfSquares and scale (1) ← min(1, maxNorm / (norm + 1e-6)): torch's `clip_grad_norm_`. norm may be
    /// sumOfSquares.
    default void clipScale(Buffer norm, Buffer scale, Buffer sumOfSquares, double maxNorm) {
        Backend be = backend();
        try (Scratch scratch = new Scratch(be)) {
            Buffer one = scratch.like(norm);
            be.fill(one, 1);
            be.unary(UnaryFn.SQRT, norm, sumOfSquares);
            be.fill(scale, 1e-6 / maxNorm);
            be.axpby(scale, norm, 1 / maxNorm, 1);
            be.binary(BinaryFn.MAX, scale, scale, one, new int[] {1}, new int[] {1}, new int[] {1});
            be.unary(UnaryFn.RECIPROCAL, scale, scale);
        }
    }

    /// One AdamW step over several tensors (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019,
    /// algorithm 2), in torch's form: with ĝ = gScale · g, m ← β₁m + (1 − β₁)ĝ, v ← β₂v + (1 − β₂)ĝ², p ← p − lr ·
    /// weightDecay · p − lr / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + eps). The lists p, m, v and g are in the same order;
    /// p, m and v are updated in place. If gScale is NaN, nothing is changed, so a step can be skipped without the host
    /// having to wait for the decision.
    void adamW(List<Buffer> p, List<Buffer> m, List<Buffer> v, List<Buffer> g, AdamWStep step);

    /// AdaLoRA's smoothed importance of every entry (Zhang et al., "AdaLoRA", 2023, equations 8 to 10): with I =
    /// |gScale · p · g|, smooth ← β₁ · smooth + (1 − β₁) · I and then spread ← β₂ · spread + (1 − β₂) · |I − smooth|;
    /// both are updated in place. On a backend that [Backend#captures], both are left unchanged if gScale is NaN.
    default void importance(
            Buffer smooth, Buffer spread, Buffer p, Buffer g, @Nullable Buffer gScale, double beta1, double beta2) {
        Backend be = backend();
        int n = Math.toIntExact(p.size());
        try (Scratch scratch = new Scratch(be)) {
            Buffer now = scratch.like(p);
            be.multiply(now, p, g);
            if (gScale != null) {
                be.scaleBy(now, gScale, n);
            }
            be.unary(UnaryFn.ABS, now, now);
            be.axpby(smooth, now, 1 - beta1, beta1);
            be.axpby(now, smooth, -1, 1);
            be.unary(UnaryFn.ABS, now, now);
            be.axpby(spread, now, 1 - beta2, beta2);
        }
    }

    /// One SGD step in torch's form: with ĝ = gScale · g + weightDecay · p, velocity ← momentum · velocity + ĝ (if
    /// velocity is absent, ĝ itself), p ← p − lr · velocity. If gScale is NaN, nothing is changed.
    void sgd(
            Buffer p,
            @Nullable Buffer velocity,
            Buffer g,
            Buffer lr,
            @Nullable Buffer gScale,
            double momentum,
            double weightDecay);
}
