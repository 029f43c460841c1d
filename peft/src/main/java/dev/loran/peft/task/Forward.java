package dev.loran.peft.task;

import dev.loran.engine.Tensor;
import dev.loran.peft.data.Batch;

/// A model with the head of its task, as far as an evaluation needs it.
public interface Forward {
    Task task();

    /// The mean over the batch's `lossTerms`, a scalar; recorded.
    Tensor loss(Batch batch);

    /// The head's output: scores of classes (B, labels), of the next token (B, T, V), or whatever else the task has.
    Tensor logits(Batch batch);

    /// Switches dropout on or off.
    default void train(boolean mode) {}
}
