package dev.loran.peft.model;

import dev.loran.engine.Tensor;

/// An encoder whose family's own classification head uses the output of a pooler rather than a hidden state, like
/// BERT's.
public interface WithPooler {
    /// Whether there is a pooler: some folders lack it.
    boolean hasPooler();

    /// The head's input (B, C) from hidden states (B, P + T, C).
    ///
    /// @throws IllegalStateException if there is no pooler
    Tensor pooled(Tensor hidden);
}
