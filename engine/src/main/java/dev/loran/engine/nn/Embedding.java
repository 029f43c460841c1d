package dev.loran.engine.nn;

import dev.loran.engine.Functional;
import dev.loran.engine.Tensor;

/// Rows of a table (V, C) by ids: (…) I32 to (…, C).
public final class Embedding extends AdaptedLayer<Embedding> {
    private final Tensor weight;

    /// Takes over `weight`.
    public Embedding(Tensor weight) {
        this.weight = parameter("weight", weight);
    }

    @Override
    public Tensor base(Tensor ids) {
        return Functional.embedding(weight, ids);
    }

    @Override
    public Embedding self() {
        return this;
    }

    /// The table (V, C).
    public Tensor weight() {
        return weight;
    }
}
