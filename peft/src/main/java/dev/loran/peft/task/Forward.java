package dev.loran.peft.task;

import dev.loran.engine.Tensor;
import dev.loran.peft.data.Batch;

/// A model with the head of its task, as far as an evaluation asks it.
public interface Forward {
    Task task();

    /// The mean over the batch's `lossTerms`, a scalar; recorded.
    Tensor loss(Batch batch);

    /// What the head answers: scores of classes (B, labels), of the next token (B, T, V), or what else the task has.
    Tensor logits(Batch batch);

    /// Switches dropout on or off.
    default void train(boolean mode) {}
}
