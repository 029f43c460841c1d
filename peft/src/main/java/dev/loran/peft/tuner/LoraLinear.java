package dev.loran.peft.tuner;

import dev.loran.engine.Backend;
import dev.loran.engine.DType;
import dev.loran.engine.DropoutMask;
import dev.loran.engine.Functional;
import dev.loran.engine.Tensor;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.data.InputException;
import java.util.function.BiConsumer;
import java.util.random.RandomGenerator;
import org.jspecify.annotations.Nullable;

/// LoRA on a linear layer: A (r, in) and B (out, r), with `lora_bias` also a bias (out) of B.
/// **Paper**: Hu et al., 2021, equation 3.
class LoraLinear implements AroundLayer<Linear>, Mergeable<Linear> {
    final String name;
    final Tensor loraA;
    final Tensor loraB;
    final double scaling;
    final @Nullable DropoutMask dropout;
    private final @Nullable Tensor loraBias;

    /// @param module the layer's name, which decides rank and scaling
    /// @param site of the dropout mask
    LoraLinear(Linear base, LoraConfig config, String module, Attachment to, int site) {
        Backend be = to.backend();
        DType type = base.weight().dtype();
        RandomGenerator random = to.random();
        LoraConfig.Init init = config.initLoraWeights();
        int r = config.rank(module);
        int in = base.inFeatures();
        int out = base.outFeatures();
        boolean anywhere = init.equals(LoraConfig.Init.FALSE);
        double bound = 1 / Math.sqrt(r);
        name = to.name();
        scaling = config.scaling(module);
        dropout = to.dropout(config.loraDropout(), site);
        loraA = init.equals(LoraConfig.Init.GAUSSIAN)
                ? Tensor.randn(be, type, random, 1.0 / r, r, in).detachFromScope()
                : Tensor.uniform(be, type, random, 1 / Math.sqrt(in), r, in).detachFromScope();
        loraB = anywhere
                ? Tensor.uniform(be, type, random, bound, out, r).detachFromScope()
                : Tensor.zeros(be, type, out, r).detachFromScope();
        if (config.loraBias()) {
            loraBias = anywhere
                    ? Tensor.uniform(be, type, random, bound, out).detachFromScope()
                    : Tensor.zeros(be, type, out).detachFromScope();
        } else {
            loraBias = null;
        }
    }

    /// y = x·Wᵀ + b + s · (dropout(x)·Aᵀ·Bᵀ + bias of B); dropout acts while the layer is in training mode.
    @Override
    public Tensor forward(Linear base, Tensor x) {
        DropoutMask mask = base.isTraining() ? dropout : null;
        return Functional.loraLinear(x, base.weight(), bias(base), loraA, loraB, scaling, mask);
    }

    @Override
    public Tensor after(Linear base, Tensor x, Tensor y) {
        return y.add(update(dropout != null && base.isTraining() ? Functional.dropout(x, dropout) : x));
    }

    /// s · (x·Aᵀ·Bᵀ + bias of B).
    final Tensor update(Tensor x) {
        return Functional.linear(Functional.linear(x, loraA, null), loraB, loraBias)
                .scale(scaling);
    }

    @Override
    public boolean isTerm() {
        return true;
    }

    /// W + s · B·A, and b + s · bias of B.
    ///
    /// @throws InputException if B has a bias and the layer has none
    @Override
    public void merge(Linear base, Merge merge) {
        Tensor b = Merge.wide(loraB).scale(scaling);
        merge.put(base.weight(), merge.value(base.weight()).add(b.matmul(Merge.wide(loraA))));
        if (loraBias != null) {
            if (base.bias() == null) {
                throw new InputException("merge: adapter " + name + " has a bias on B (lora_bias), but a layer that it"
                        + " adapts has no bias to take it; save the adapter beside the model");
            }
            merge.put(
                    base.bias(),
                    merge.value(base.bias()).add(Merge.wide(loraBias).scale(scaling)));
        }
    }

    private @Nullable Tensor bias(Linear base) {
        if (loraBias == null) {
            return base.bias();
        }
        Tensor scaled = loraBias.scale(scaling);
        return base.bias() == null ? scaled : base.bias().add(scaled);
    }

    @Override
    public void collect(BiConsumer<String, Tensor> visitor) {
        visitor.accept("lora_A." + name + ".weight", loraA);
        visitor.accept("lora_B." + name + ".weight", loraB);
        if (loraBias != null) {
            visitor.accept("lora_B." + name + ".bias", loraBias);
        }
    }

    @Override
    public void close() {
        loraA.close();
        loraB.close();
        if (loraBias != null) {
            loraBias.close();
        }
    }
}
