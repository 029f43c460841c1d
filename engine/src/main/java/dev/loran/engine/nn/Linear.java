package dev.loran.engine.nn;

import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ShapeException;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.functional.Functional.Projection;
import java.util.ArrayList;
import java.util.List;
import java.util.random.RandomGenerator;
import org.jspecify.annotations.Nullable;

/// y = x · weightᵀ + bias; weight (out, in), bias (out) or none.
///
/// A weight that files hold transposed, as GPT-2's `Conv1D` does, is kept as (out, in) all the same; `fanInFanOut` says
/// that
/// files hold (in, out).
///
/// Parameters may be wider than what comes in, as those that train are: they are cast to its type where they are used.
public final class Linear extends AdaptedLayer<Linear> {
    private Tensor weight;
    private final @Nullable Tensor bias;
    private final boolean fanInFanOut;

    /// Takes over `weight` and `bias`.
    public Linear(Tensor weight, @Nullable Tensor bias, boolean fanInFanOut) {
        this.weight = parameter("weight", weight);
        this.bias = bias == null ? null : parameter("bias", bias);
        this.fanInFanOut = fanInFanOut;
    }

    /// Weights drawn from N(0, std²), bias zero.
    public static Linear random(
            Backend backend, DType dtype, RandomGenerator random, double std, int in, int out, boolean bias) {
        return new Linear(
                Tensor.randn(backend, dtype, random, std, out, in),
                bias ? Tensor.zeros(backend, dtype, out) : null,
                false);
    }

    @Override
    public Tensor base(Tensor x) {
        return Functional.linear(x, Functional.cast(weight, x.dtype()), bias(x.dtype()));
    }

    /// The layer's own function of an x of type `type`.
    public Projection projection(DType type) {
        return new Projection(Functional.cast(weight, type), bias(type), null);
    }

    /// The answers of several layers to one x: in one pass over it if each is plain or its adapter is a
    /// [Adapter#projection], else one after the other.
    public static List<Tensor> forward(Tensor x, List<Linear> layers) {
        List<Projection> all = new ArrayList<>(layers.size());
        for (Linear layer : layers) {
            Adapter<? super Linear> adapter = layer.adapter();
            Projection p = adapter == null ? layer.projection(x.dtype()) : adapter.projection(layer, x.dtype());
            if (p == null) {
                return layers.stream().map(l -> l.forward(x)).toList();
            }
            all.add(p);
        }
        return Functional.projections(x, all);
    }

    @Override
    public Linear self() {
        return this;
    }

    public Tensor weight() {
        return weight;
    }

    /// Takes `next` for its weight, of the same shape: how a tied layer gets a weight of its own, and is tied again.
    /// The one before is not closed.
    public void weight(Tensor next) {
        if (!next.shape().equals(weight.shape())) {
            throw new ShapeException("weight: it is " + next.shape() + " but the layer's is " + weight.shape());
        }
        weight = replaceParameter("weight", next);
    }

    public @Nullable Tensor bias() {
        return bias;
    }

    /// The bias as [Functional#cast] gives it; null if there is none.
    public @Nullable Tensor bias(DType dtype) {
        return bias == null ? null : Functional.cast(bias, dtype);
    }

    public int inFeatures() {
        return weight.shape().dim(1);
    }

    public int outFeatures() {
        return weight.shape().dim(0);
    }

    /// Whether files hold the weight as (in, out).
    public boolean fanInFanOut() {
        return fanInFanOut;
    }
}
