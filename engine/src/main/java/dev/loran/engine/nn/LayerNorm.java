package dev.loran.engine.nn;

import dev.loran.engine.Tensor;
import dev.loran.engine.functional.Functional;

/// Layer normalization over the last dimension (C) with weight and bias (C), which are cast to the input's dtype.
public final class LayerNorm extends AdaptedLayer<LayerNorm> {
    private final Tensor weight;
    private final Tensor bias;
    private final double eps;

    /// Takes over `weight` and `bias`.
    public LayerNorm(Tensor weight, Tensor bias, double eps) {
        this.weight = parameter("weight", weight);
        this.bias = parameter("bias", bias);
        this.eps = eps;
    }

    @Override
    public Tensor base(Tensor x) {
        return Functional.layerNorm(x, as(weight, x), as(bias, x), eps);
    }

    /// Returns x + residual, and the result of [#forward] for that sum; in a single pass if there is no adapter.
    public Functional.NormedSum forward(Tensor x, Tensor residual) {
        if (adapter() == null) {
            return Functional.addLayerNorm(x, residual, as(weight, x), as(bias, x), eps);
        }
        Tensor sum = x.add(residual);
        return new Functional.NormedSum(sum, forward(sum));
    }

    private static Tensor as(Tensor parameter, Tensor x) {
        return Functional.cast(parameter, x.dtype());
    }

    @Override
    public LayerNorm self() {
        return this;
    }

    public Tensor weight() {
        return weight;
    }

    public Tensor bias() {
        return bias;
    }

    public double eps() {
        return eps;
    }
}
