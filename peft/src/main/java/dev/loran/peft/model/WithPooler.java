package dev.loran.peft.model;

import dev.loran.engine.Tensor;
import org.jspecify.annotations.Nullable;

/// An encoder whose family's own classification head computes a vector of the text before the classifier rather than
/// using a hidden state, like the output of BERT's pooler.
public interface WithPooler {
    /// Whether the layers that compute it are there: some folders lack them.
    boolean hasPooler();

    /// Whether a new classification head can be added: these layers are there, or a part of what is new.
    boolean takesHead();

    /// Whether a new head for classes of tokens can be added.
    boolean takesTokenHead();

    /// Whether transformers' class of a model with this head lacks the parameter `name`: a pooler below a head for
    /// tokens.
    boolean isUnused(String name);

    /// The classifier's input (B, C) from hidden states (B, P + T, C).
    ///
    /// @param attentionMask I32 (B, T), 0 for padding; null if nothing is padded
    /// @throws IllegalStateException if [#hasPooler] is false
    Tensor pooled(Tensor hidden, @Nullable Tensor attentionMask);
}
