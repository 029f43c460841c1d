package dev.loran.engine.nn;

import dev.loran.engine.Functional;
import dev.loran.engine.Tensor;

/// Root-mean-square normalisation over the last dimension (C) with weight (C).
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
        return Functional.rmsNorm(x, weight, eps);
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
