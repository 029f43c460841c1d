package dev.loran.peft.task;

import dev.loran.engine.Tensor;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.Examples;
import java.util.function.BooleanSupplier;
import java.util.function.IntConsumer;
import org.jspecify.annotations.Nullable;

/// A model with the head of its task, as far as an evaluation needs it.
public interface Forward {
    Task task();

    /// The mean over the batch's `lossTerms`, a scalar; recorded.
    Tensor loss(Batch batch);

    /// The head's output: scores of classes (B, labels), of the next token (B, T, V), or whatever else the task has.
    Tensor logits(Batch batch);

    /// The rows with what this task compares with ([Task#referenceNumbers]): the outputs of the model before its
    /// training, in evaluation mode, in which this leaves the model. Rows that have it already, and those of other
    /// tasks, are returned as they are.
    ///
    /// @param progress receives the number of rows done before each batch, and all rows at the end
    /// @return null once `stop`, which is called before each batch, returns true
    /// @throws dev.loran.peft.io.InputException if the model before its training no longer exists
    default @Nullable Examples withReference(Examples rows, int batchSize, BooleanSupplier stop, IntConsumer progress) {
        return rows;
    }

    /// Switches dropout on or off.
    default void train(boolean mode) {}
}
