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
/// A weight that files store transposed, as GPT-2's `Conv1D` does, is still kept as (out, in); `fanInFanOut` says that
/// files hold (in, out).
///
/// Parameters may be wider than the input, as trainable ones are; they are cast to the input's dtype where they are
/// used.
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

    /// A layer with weights drawn from N(0, std²) and a zero bias.
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

    /// Describes what the layer itself computes for an x of dtype `type`.
    public Projection projection(DType type) {
        return new Projection(Functional.cast(weight, type), bias(type), null);
    }

    /// Applies several layers to one x: in a single pass over it if every layer is plain or has an adapter with a
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

    /// Replaces the weight by `next`, which has the same shape; used to untie a tied layer and to tie it again. The
    /// previous weight is not closed.
    public void weight(Tensor next) {
        if (!next.shape().equals(weight.shape())) {
            throw new ShapeException("weight: it is " + next.shape() + " but the layer's is " + weight.shape());
        }
        weight = replaceParameter("weight", next);
    }

    public @Nullable Tensor bias() {
        return bias;
    }

    /// The bias cast by [Functional#cast]; null if there is none.
    public @Nullable Tensor bias(DType dtype) {
        return bias == null ? null : Functional.cast(bias, dtype);
    }

    public int inFeatures() {
        return weight.shape().dim(1);
    }

    public int outFeatures() {
        return weight.shape().dim(0);
    }

    /// Whether files store the weight as (in, out).
    public boolean fanInFanOut() {
        return fanInFanOut;
    }
}
