package dev.loran.engine.nn;

import dev.loran.engine.Tensor;
import dev.loran.engine.functional.Functional;

/// Root-mean-square normalization over the last dimension (C) with weight (C), which is cast to the input's dtype.
public final class RmsNorm extends AdaptedLayer<RmsNorm> {
    private final Tensor weight;
    private final double eps;

    /// Takes over `weight`.
    public RmsNorm(Tensor weight, double eps) {
        this.weight = parameter("weight", weight);
        this.eps = eps;
    }

    @Override
    public Tensor base(Tensor x) {
        return Functional.rmsNorm(x, Functional.cast(weight, x.dtype()), eps);
    }

    /// Returns x + residual, and the result of [#forward] for that sum; in a single pass if there is no adapter.
    public Functional.NormedSum forward(Tensor x, Tensor residual) {
        if (adapter() == null) {
            return Functional.addRmsNorm(x, residual, Functional.cast(weight, x.dtype()), eps);
        }
        Tensor sum = x.add(residual);
        return new Functional.NormedSum(sum, forward(sum));
    }

    @Override
    public RmsNorm self() {
        return this;
    }

    public Tensor weight() {
        return weight;
    }

    public double eps() {
        return eps;
    }
}
