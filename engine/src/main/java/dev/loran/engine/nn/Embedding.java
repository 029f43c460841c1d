package dev.loran.engine.nn;

import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.functional.Functional;

/// Looks up rows of a table (V, C) by ids: (…) I32 to (…, C). The result has the dtype that the table had at
/// construction, even if the table is later widened for training.
public final class Embedding extends AdaptedLayer<Embedding> {
    private final Tensor weight;
    private final DType dtype;

    /// Takes over `weight`.
    public Embedding(Tensor weight) {
        this(weight, weight.dtype());
    }

    /// Takes over `weight`, which may be wider than `dtype`, the dtype of the rows that are returned.
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

    /// The dtype of the rows that are returned.
    public DType dtype() {
        return dtype;
    }

    /// The table (V, C).
    public Tensor weight() {
        return weight;
    }
}
