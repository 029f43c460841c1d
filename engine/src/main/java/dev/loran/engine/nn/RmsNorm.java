package dev.loran.engine.nn;

import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.functional.Functional;

/// Root-mean-square normalization over the last dimension (C) with weight (C), which is cast to the input's dtype.
public final class RmsNorm extends AdaptedLayer<RmsNorm> {
    private final Tensor weight;
    private final double eps;
    private final boolean addsOne;

    /// Takes over `weight`.
    public RmsNorm(Tensor weight, double eps) {
        this(weight, eps, false);
    }

    /// Takes over `weight`.
    ///
    /// @param addsOne whether normalized values are multiplied by 1 + weight rather than by the weight, so that a
    ///     weight of zeros is the identity
    public RmsNorm(Tensor weight, double eps, boolean addsOne) {
        this.weight = parameter("weight", weight);
        this.eps = eps;
        this.addsOne = addsOne;
    }

    @Override
    public Tensor base(Tensor x) {
        return base(x, weight);
    }

    /// What this layer would compute if its weight were `other`.
    public Tensor base(Tensor x, Tensor other) {
        return Functional.rmsNorm(x, factor(other, x.dtype()), eps);
    }

    private Tensor factor(Tensor w, DType type) {
        Tensor same = Functional.cast(w, type);
        return addsOne ? same.add(Tensor.full(w.backend(), type, 1, 1)) : same;
    }

    /// Returns x + residual, and the result of [#forward] for that sum; in a single pass if there is no adapter.
    public Functional.NormedSum forward(Tensor x, Tensor residual) {
        if (adapter() == null) {
            return Functional.addRmsNorm(x, residual, factor(weight, x.dtype()), eps);
        }
        Tensor sum = x.add(residual);
        return new Functional.NormedSum(sum, forward(sum));
    }

    /// A layer of this kind that takes over `other` as its weight.
    public RmsNorm with(Tensor other) {
        return new RmsNorm(other, eps, addsOne);
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
