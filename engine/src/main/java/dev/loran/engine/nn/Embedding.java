package dev.loran.engine.nn;

import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.functional.Functional;

/// Rows of a table (V, C) by ids: (…) I32 to (…, C), in the type that the table has when it is given, also where it is
/// widened later, to train.
public final class Embedding extends AdaptedLayer<Embedding> {
    private final Tensor weight;
    private final DType dtype;

    /// Takes over `weight`.
    public Embedding(Tensor weight) {
        this(weight, weight.dtype());
    }

    /// Takes over `weight`, which may be wider than `dtype`, the type of the rows that it answers.
    public Embedding(Tensor weight, DType dtype) {
        this.weight = parameter("weight", weight);
        this.dtype = dtype;
    }

    @Override
    public Tensor base(Tensor ids) {
        return Functional.cast(Functional.embedding(weight, ids), dtype);
    }

    @Override
    public Embedding self() {
        return this;
    }

    /// The type of the rows that it answers.
    public DType dtype() {
        return dtype;
    }

    /// The table (V, C).
    public Tensor weight() {
        return weight;
    }
}
