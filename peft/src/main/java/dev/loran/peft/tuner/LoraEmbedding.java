package dev.loran.peft.tuner;

import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.nn.Embedding;
import java.util.function.BiConsumer;
import java.util.random.RandomGenerator;

/// LoRA on a table W (V, C): adds s · B · a to row v, where a is column v of A (r, V) and B is (C, r).
///
/// Only the requested rows are computed, and dropout is not applied. A starts at zero and B from N(0, 1), whatever
/// `init_lora_weights` says, except for `false`: both from N(0, 1). **Paper**: Hu et al., 2021; this form is that of
/// the authors' own library.
final class LoraEmbedding implements AroundLayer<Embedding>, Mergeable<Embedding>, LowRank.Source {
    private final String name;
    final Tensor loraA;
    final Tensor loraB;
    private final double scaling;

    /// @param module the table's name, which determines rank and scaling
    LoraEmbedding(Embedding base, LoraConfig config, String module, Attachment to) {
        Backend be = to.backend();
        DType type = base.weight().dtype().accumulator();
        RandomGenerator random = to.random();
        int r = config.rank(module);
        int rows = base.weight().shape().dim(0);
        int cols = base.weight().shape().dim(1);
        name = to.name();
        scaling = config.scaling(module);
        loraA = config.initLoraWeights().equals(LoraInit.FALSE)
                ? Tensor.randn(be, type, random, 1, r, rows).detachFromScope()
                : Tensor.zeros(be, type, r, rows).detachFromScope();
        loraB = Tensor.randn(be, type, random, 1, cols, r).detachFromScope();
    }

    @Override
    public Tensor forward(Embedding base, Tensor ids) {
        return after(base, ids, base.base(ids));
    }

    @Override
    public Tensor after(Embedding base, Tensor ids, Tensor y) {
        Tensor t = Functional.embedding(loraA.transpose(0, 1), ids);
        return y.add(Functional.cast(Functional.linear(t, loraB, null).scale(scaling), y.dtype()));
    }

    @Override
    public boolean isTerm() {
        return true;
    }

    /// W + s · (B · A)ᵀ.
    @Override
    public void merge(Embedding base, Merge merge) {
        Tensor update = Functional.matmul(Merge.wide(loraA), Merge.wide(loraB), true, true);
        merge.put(base.weight(), merge.value(base.weight()).add(update.scale(scaling)));
    }

    /// The factors of the transposed update, (C, V).
    @Override
    public LowRank factors() {
        return LowRank.of(loraB, loraA);
    }

    @Override
    public double scaling() {
        return scaling;
    }

    @Override
    public void collect(BiConsumer<String, Tensor> visitor) {
        visitor.accept("lora_embedding_A." + name, loraA);
        visitor.accept("lora_embedding_B." + name, loraB);
    }

    @Override
    public void close() {
        loraA.close();
        loraB.close();
    }
}
