package dev.loran.peft.model;

import dev.loran.engine.Tensor;

/// An encoder whose family's own classification head reads not a hidden state but what a pooler makes of it, as BERT's
/// does.
public interface WithPooler {
    /// Whether there is a pooler: a folder may come without one.
    boolean hasPooler();

    /// What a head sees of hidden states (B, P + T, C): (B, C).
    ///
    /// @throws IllegalStateException if there is no pooler
    Tensor pooled(Tensor hidden);
}
