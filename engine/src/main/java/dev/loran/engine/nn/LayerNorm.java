package dev.loran.engine.nn;

import dev.loran.engine.Tensor;
import dev.loran.engine.functional.Functional;
import org.jspecify.annotations.Nullable;

/// Layer normalization over the last dimension (C) with weight and bias (C), if any, which are cast to the input's
/// dtype.
public final class LayerNorm extends AdaptedLayer<LayerNorm> {
    private final Tensor weight;
    private final @Nullable Tensor bias;
    /// The bias, or zeros.
    private final Tensor added;

    private final double eps;

    /// Takes over `weight` and `bias`; null for no bias.
    public LayerNorm(Tensor weight, @Nullable Tensor bias, double eps) {
        this.weight = parameter("weight", weight);
        this.bias = bias == null ? null : parameter("bias", bias);
        this.added = bias != null
                ? bias
                : Tensor.zeros(weight.backend(), weight.dtype(), weight.shape().dim(0))
                        .detachFromScope();
        this.eps = eps;
    }

    @Override
    public Tensor base(Tensor x) {
        return Functional.layerNorm(x, as(weight, x), as(added, x), eps);
    }

    /// Returns x + residual, and the result of [#forward] for that sum; in a single pass if there is no adapter.
    public Functional.NormedSum forward(Tensor x, Tensor residual) {
        if (adapter() == null) {
            return Functional.addLayerNorm(x, residual, as(weight, x), as(added, x), eps);
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

    /// Null if there is none.
    public @Nullable Tensor bias() {
        return bias;
    }

    /// The bias, or zeros that are not a parameter.
    public Tensor added() {
        return added;
    }

    @Override
    public void close() {
        super.close();
        if (bias == null) {
            added.close();
        }
    }

    public double eps() {
        return eps;
    }
}
