package dev.loran.engine.backend;

import org.jspecify.annotations.Nullable;

/// Normalization over the columns of x (rows, cols), which is dense; weight and bias are (cols).
///
/// Each method is composed of [Backend]'s primitives and serves as fallback, oracle and documentation for a faster
/// version.
public interface NormKernels {
    Backend backend();

    /// What layer norm keeps per row for backward; outputs of forward, both (rows).
    ///
    /// @param rstd 1 / √(variance + eps)
    record Statistics(Buffer mean, Buffer rstd) {}

    /// y = (x − mean) · rstd · weight + bias. Ba et al., "Layer Normalization", 2016.
    default void layerNorm(Buffer y, Statistics kept, Matrix x, Buffer weight, Buffer bias, double eps) {
        Backend be = backend();
        int rows = x.rows();
        int cols = x.cols();
        int[] shape = {rows, cols};
        int[] dense = {cols, 1};
        int[] perRow = {1, 0};
        int[] perCol = {0, 1};
        be.sum(kept.mean, x.buffer(), rows, cols, 1, false);
        be.axpby(kept.mean, kept.mean, 1.0 / cols, 0);
        try (Scratch scratch = new Scratch(be)) {
            Buffer centred = scratch.like(x.buffer());
            be.binary(BinaryFn.SUB, centred, x.buffer(), kept.mean, shape, dense, perRow);
            be.unary(UnaryFn.SQUARE, y, centred);
            be.sum(kept.rstd, y, rows, cols, 1, false);
            inverseRoot(kept.rstd, 1.0 / cols, eps);
            be.binary(BinaryFn.MUL, y, centred, kept.rstd, shape, dense, perRow);
            be.binary(BinaryFn.MUL, y, y, weight, shape, dense, perCol);
            be.binary(BinaryFn.ADD, y, y, bias, shape, dense, perCol);
        }
    }

    /// sum = x + residual, and y = [#layerNorm] of sum.
    default void addLayerNorm(
            Buffer y, Buffer sum, Statistics kept, Matrix x, Buffer residual, Buffer weight, Buffer bias, double eps) {
        addResidual(sum, x, residual);
        layerNorm(y, kept, x.in(sum), weight, bias, eps);
    }

    private void addResidual(Buffer sum, Matrix x, Buffer residual) {
        int[] dense = {x.cols(), 1};
        backend().binary(BinaryFn.ADD, sum, x.buffer(), residual, new int[] {x.rows(), x.cols()}, dense, dense);
    }

    /// Gradients of [#layerNorm]: with x̂ = (x − mean) · rstd and g = dy · weight, dx = rstd · (g − mean(g) − x̂ ·
    /// mean(g · x̂)); dWeight = Σ rows dy · x̂; dBias = Σ rows dy. Each may be null.
    default void layerNormBackward(
            @Nullable Gradient dx,
            @Nullable Gradient dWeight,
            @Nullable Gradient dBias,
            Buffer dy,
            Matrix x,
            Statistics kept,
            Buffer weight) {
        Backend be = backend();
        int[] shape = {x.rows(), x.cols()};
        int[] dense = {x.cols(), 1};
        int[] perRow = {1, 0};
        if (dBias != null) {
            be.sum(dBias.buffer(), dy, 1, x.rows(), x.cols(), dBias.accumulate());
        }
        try (Scratch scratch = new Scratch(be)) {
            Buffer xHat = scratch.like(x.buffer());
            be.binary(BinaryFn.SUB, xHat, x.buffer(), kept.mean, shape, dense, perRow);
            be.binary(BinaryFn.MUL, xHat, xHat, kept.rstd, shape, dense, perRow);
            backward(dx, dWeight, dy, x.in(xHat), kept.rstd, weight, true);
        }
    }

    /// y = x · rstd · weight with rstd (rows) = 1 / √(mean(x²) + eps), kept for backward. Zhang and Sennrich, "Root
    /// Mean Square Layer Normalization", 2019, equation 4.
    default void rmsNorm(Buffer y, Buffer rstd, Matrix x, Buffer weight, double eps) {
        Backend be = backend();
        int[] shape = {x.rows(), x.cols()};
        int[] dense = {x.cols(), 1};
        be.unary(UnaryFn.SQUARE, y, x.buffer());
        be.sum(rstd, y, x.rows(), x.cols(), 1, false);
        inverseRoot(rstd, 1.0 / x.cols(), eps);
        be.binary(BinaryFn.MUL, y, x.buffer(), rstd, shape, dense, new int[] {1, 0});
        be.binary(BinaryFn.MUL, y, y, weight, shape, dense, new int[] {0, 1});
    }

    /// sum = x + residual, and y = [#rmsNorm] of sum.
    default void addRmsNorm(Buffer y, Buffer sum, Buffer rstd, Matrix x, Buffer residual, Buffer weight, double eps) {
        addResidual(sum, x, residual);
        rmsNorm(y, rstd, x.in(sum), weight, eps);
    }

    /// Gradients of [#rmsNorm]: with x̂ = x · rstd and g = dy · weight, dx = rstd · (g − x̂ · mean(g · x̂)); dWeight =
    /// Σ rows dy · x̂.
    default void rmsNormBackward(
            @Nullable Gradient dx, @Nullable Gradient dWeight, Buffer dy, Matrix x, Buffer rstd, Buffer weight) {
        Backend be = backend();
        try (Scratch scratch = new Scratch(be)) {
            Buffer xHat = scratch.like(x.buffer());
            int[] shape = {x.rows(), x.cols()};
            be.binary(BinaryFn.MUL, xHat, x.buffer(), rstd, shape, new int[] {x.cols(), 1}, new int[] {1, 0});
            backward(dx, dWeight, dy, x.in(xHat), rstd, weight, false);
        }
    }

    private void inverseRoot(Buffer sumOfSquares, double factor, double eps) {
        Backend be = backend();
        try (Scratch scratch = new Scratch(be)) {
            Buffer e = scratch.like(sumOfSquares);
            be.fill(e, eps);
            be.axpby(sumOfSquares, e, 1, factor);
            be.unary(UnaryFn.RSQRT, sumOfSquares, sumOfSquares);
        }
    }

    private void backward(
            @Nullable Gradient dx,
            @Nullable Gradient dWeight,
            Buffer dy,
            Matrix xHat,
            Buffer rstd,
            Buffer weight,
            boolean centred) {
        Backend be = backend();
        int rows = xHat.rows();
        int cols = xHat.cols();
        int[] shape = {rows, cols};
        int[] dense = {cols, 1};
        int[] perRow = {1, 0};
        try (Scratch scratch = new Scratch(be)) {
            Buffer g = scratch.like(dy);
            if (dWeight != null) {
                be.multiply(g, dy, xHat.buffer());
                be.sum(dWeight.buffer(), g, 1, rows, cols, dWeight.accumulate());
            }
            if (dx != null) {
                Buffer work = scratch.like(dy);
                Buffer rowMean = scratch.allocate(dy.dtype(), rows);
                be.binary(BinaryFn.MUL, g, dy, weight, shape, dense, new int[] {0, 1});
                be.multiply(work, g, xHat.buffer());
                be.sum(rowMean, work, rows, cols, 1, false);
                be.axpby(rowMean, rowMean, 1.0 / cols, 0);
                be.binary(BinaryFn.MUL, work, xHat.buffer(), rowMean, shape, dense, perRow);
                if (centred) {
                    be.sum(rowMean, g, rows, cols, 1, false);
                    be.axpby(rowMean, rowMean, 1.0 / cols, 0);
                    be.binary(BinaryFn.SUB, g, g, rowMean, shape, dense, perRow);
                }
                be.axpby(g, work, -1, 1);
                be.binary(BinaryFn.MUL, g, g, rstd, shape, dense, perRow);
                be.axpby(dx.buffer(), g, 1, dx.beta());
            }
        }
    }
}
