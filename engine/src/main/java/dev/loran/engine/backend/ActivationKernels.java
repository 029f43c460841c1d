package dev.loran.engine.backend;

import org.jspecify.annotations.Nullable;

/// Element-wise work that follows a matrix product: activations with bias and residual, gates, and factors. Matrices
/// are dense.
///
/// Each method is composed of [Backend]'s primitives and serves as fallback, oracle and documentation for a faster
/// version.
public interface ActivationKernels {
    Backend backend();

    /// y = fn(gate) · up. Shazeer, "GLU Variants Improve Transformer", 2020, equation 6.
    default void gated(UnaryFn fn, Buffer y, Buffer gate, Buffer up) {
        backend().unary(fn, y, gate);
        backend().multiply(y, y, up);
    }

    /// Gradients of [#gated]: dGate ← dy · up · fn′(gate), dUp ← dy · fn(gate); either may be null.
    default void gatedBackward(
            UnaryFn fn, @Nullable Gradient dGate, @Nullable Gradient dUp, Buffer dy, Buffer gate, Buffer up) {
        Backend be = backend();
        try (Scratch scratch = new Scratch(be)) {
            Buffer work = scratch.like(dy);
            if (dUp != null) {
                be.unary(fn, work, gate);
                be.multiply(work, work, dy);
                be.axpby(dUp.buffer(), work, 1, dUp.beta());
            }
            if (dGate != null) {
                be.multiply(work, dy, up);
                be.unaryBackward(fn, dGate.buffer(), work, gate, dGate.accumulate());
            }
        }
    }

    /// y (outer, inner) ← Σ over n of a · b, both (outer, n, inner), accumulated in at least F32: the gradient of a
    /// factor that was broadcast over n.
    default void sumOfProducts(Gradient y, Buffer a, Buffer b, int outer, int n, int inner) {
        int most = 1 << 16;
        long each = Math.max(1, (long) n * inner);
        int group = Math.clamp(most / each, 1, Math.max(1, outer));
        int part = each <= most ? n : Math.max(1, most / inner);
        Backend be = backend();
        try (Scratch scratch = new Scratch(be)) {
            Buffer work = scratch.allocate(a.dtype(), Math.multiplyExact((long) group * part, inner));
            for (int o = 0; o < outer; o += group) {
                int outers = Math.min(group, outer - o);
                Buffer to = y.buffer().slice((long) o * inner, (long) outers * inner);
                int from = 0;
                do {
                    int rows = Math.min(part, n - from);
                    long at = ((long) o * n + from) * inner;
                    Buffer product = work.slice(0, (long) outers * rows * inner);
                    be.multiply(product, a.slice(at, product.size()), b.slice(at, product.size()));
                    be.sum(to, product, outers, rows, inner, y.accumulate() || from > 0);
                    from += part;
                } while (from < n);
            }
        }
    }

    /// z ← z + bias in place, and h (of z's shape) = scaling · dropout(fn(z)); bias and mask may be null.
    default void biasActivation(
            UnaryFn fn, Buffer h, Matrix z, @Nullable Buffer bias, @Nullable DropoutMask mask, double scaling) {
        if (bias != null) {
            addToRows(z, bias);
        }
        backend().unary(fn, h, z.buffer());
        dropAndScale(z.in(h), mask, scaling);
    }

    /// Gradients of [#biasActivation]: `dz` holds the gradient of h on entry and that of z on return, dz ← scaling ·
    /// dropout′(dz) · fn′(z); dBias ← Σ rows dz, or null if not wanted.
    default void biasActivationBackward(
            UnaryFn fn, Matrix dz, @Nullable Gradient dBias, Buffer z, @Nullable DropoutMask mask, double scaling) {
        dropAndScale(dz, mask, scaling);
        backend().unaryBackward(fn, dz.buffer(), dz.buffer(), z, false);
        if (dBias != null) {
            backend().sum(dBias.buffer(), dz.buffer(), 1, dz.rows(), dz.cols(), dBias.accumulate());
        }
    }

    private void dropAndScale(Matrix y, @Nullable DropoutMask mask, double scaling) {
        if (mask != null) {
            backend().dropout(y.buffer(), y.buffer(), y.rows(), y.cols(), mask, false);
        }
        if (scaling != 1) {
            backend().axpby(y.buffer(), y.buffer(), scaling, 0);
        }
    }

    private void addToRows(Matrix y, Buffer bias) {
        int[] shape = {y.rows(), y.cols()};
        int[] perCol = {0, 1};
        backend().binary(BinaryFn.ADD, y.buffer(), y.buffer(), bias, shape, new int[] {y.cols(), 1}, perCol);
    }

    /// y ← y + scaling · bias + residual; bias (cols) and residual (of y's shape) may be null.
    default void biasResidual(Matrix y, @Nullable Buffer bias, @Nullable Buffer residual, double scaling) {
        if (bias != null) {
            try (Scratch scratch = new Scratch(backend())) {
                Buffer scaled = scaling == 1 ? bias : scratch.like(bias);
                if (scaling != 1) {
                    backend().axpby(scaled, bias, scaling, 0);
                }
                addToRows(y, scaled);
            }
        }
        if (residual != null) {
            backend().axpby(y.buffer(), residual, 1, 1);
        }
    }
}
