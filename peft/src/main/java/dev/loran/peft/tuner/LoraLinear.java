package dev.loran.peft.tuner;

import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.DropoutMask;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.functional.Functional.Projection;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.io.InputException;
import java.util.List;
import java.util.function.BiConsumer;
import java.util.random.RandomGenerator;
import org.jspecify.annotations.Nullable;

/// LoRA on a linear layer: A (r, in) and B (out, r), with `lora_bias` also a bias (out) of B.
/// **Paper**: Hu et al., 2021, equation 3.
class LoraLinear implements AroundLayer<Linear>, Mergeable<Linear>, LowRank.Source {
    final String name;
    final Tensor loraA;
    final Tensor loraB;
    final double scaling;
    final @Nullable DropoutMask dropout;
    private final @Nullable Tensor loraBias;
    private final @Nullable Residual residual;

    /// @param module the layer's name, which determines rank and scaling
    /// @param site of the dropout mask
    LoraLinear(Linear base, LoraConfig config, String module, Attachment to, int site) {
        Backend be = to.backend();
        DType type = base.weight().dtype().accumulator();
        RandomGenerator random = to.random();
        LoraInit init = config.initLoraWeights();
        int r = config.rank(module);
        int in = base.inFeatures();
        int out = base.outFeatures();
        boolean anywhere = init.equals(LoraInit.FALSE);
        double bound = 1 / Math.sqrt(r);
        name = to.name();
        scaling = config.scaling(module);
        dropout = to.dropout(config.loraDropout(), site);
        residual = init.cutsBase() ? residual(base, config, module, to) : null;
        loraA = init.equals(LoraInit.GAUSSIAN)
                ? Tensor.randn(be, type, random, 1.0 / r, r, in).detachFromScope()
                : Tensor.uniform(be, type, random, 1 / Math.sqrt(in), r, in).detachFromScope();
        loraB = anywhere
                ? Tensor.uniform(be, type, random, bound, out, r).detachFromScope()
                : Tensor.zeros(be, type, out, r).detachFromScope();
        if (residual != null) {
            loraA.copyFrom(residual.cutA());
            loraB.copyFrom(residual.cutB());
        }
        if (config.loraBias()) {
            loraBias = anywhere
                    ? Tensor.uniform(be, type, random, bound, out).detachFromScope()
                    : Tensor.zeros(be, type, out).detachFromScope();
        } else {
            loraBias = null;
        }
    }

    private static Residual residual(Linear base, LoraConfig config, String module, Attachment to) {
        LoraInit init = config.initLoraWeights();
        // A random cut cannot be reproduced: the loaded file must supply it.
        return to.partialTargets() && init.iterations() > 0
                ? new Residual(base.weight(), module, config.rank(module), config.scaling(module))
                : new Residual(base.weight(), module, init, config.rank(module), config.scaling(module), to.random());
    }

    final @Nullable Residual residual() {
        return residual;
    }

    /// The frozen weight, or its remainder after the cut: (out, in), row-major or prepared.
    final Tensor weight(Linear base) {
        return residual == null ? base.weight() : residual.weight(base.weight());
    }

    /// y = x·Wᵀ + b + s · (dropout(x)·Aᵀ·Bᵀ + bias of B); dropout applies while the layer is in training mode.
    @Override
    public Tensor forward(Linear base, Tensor x) {
        Tensor y = Functional.projections(x, List.of(lowRank(base, x.dtype()))).getFirst();
        return loraBias == null ? y : y.add(Functional.cast(loraBias.scale(scaling), x.dtype()));
    }

    @Override
    public @Nullable Projection projection(Linear base, DType type) {
        return isTerm() && loraBias == null ? lowRank(base, type) : null;
    }

    private Projection lowRank(Linear base, DType type) {
        DropoutMask mask = base.isTraining() ? dropout : null;
        Tensor a = Functional.cast(loraA, type);
        Tensor b = Functional.cast(loraB, type);
        return new Projection(weight(base), base.bias(type), new Functional.Lora(a, b, scaling, mask));
    }

    @Override
    public Tensor after(Linear base, Tensor x, Tensor y) {
        return withoutCut(x, y).add(update(dropout != null && base.isTraining() ? Functional.dropout(x, dropout) : x));
    }

    /// s · (x·Aᵀ·Bᵀ + bias of B).
    final Tensor update(Tensor x) {
        DType type = x.dtype();
        Tensor bias = loraBias == null ? null : Functional.cast(loraBias, type);
        return Functional.linear(
                        Functional.linear(x, Functional.cast(loraA, type), null), Functional.cast(loraB, type), bias)
                .scale(scaling);
    }

    /// The layer's own output y for x without the part that was cut from its weight.
    final Tensor withoutCut(Tensor x, Tensor y) {
        return residual == null ? y : y.sub(residual.cut(x));
    }

    @Override
    public boolean isTerm() {
        return true;
    }

    /// W + s · B·A (minus what was cut from W), and b + s · bias of B.
    ///
    /// @throws InputException if B has a bias and the layer has none
    @Override
    public void merge(Linear base, Merge merge) {
        Tensor w = merge.value(base.weight());
        Tensor left = residual == null ? w : residual.cutFrom(w);
        Tensor b = Merge.wide(loraB).scale(scaling);
        merge.put(base.weight(), left.add(b.matmul(Merge.wide(loraA))));
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

    /// Includes the subtraction of what was cut from the weight, which doubles the rank.
    @Override
    public LowRank factors() {
        LowRank own = LowRank.of(loraB, loraA);
        return residual == null ? own : LowRank.sum(List.of(own, residual.cut().times(-1)));
    }

    @Override
    public double scaling() {
        return scaling;
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
        if (residual != null) {
            residual.close();
        }
    }
}
