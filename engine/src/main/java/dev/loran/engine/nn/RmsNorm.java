package dev.loran.engine.nn;

import dev.loran.engine.Tensor;
import dev.loran.engine.functional.Functional;

/// Root-mean-square normalisation over the last dimension (C) with weight (C), cast to what comes in.
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

    /// x + residual, and what [#forward] makes of it; in one pass where no adapter takes part.
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
