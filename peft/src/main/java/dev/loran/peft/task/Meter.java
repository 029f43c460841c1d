package dev.loran.peft.task;

import dev.loran.peft.data.Batch;

/// Accumulates what a model outputs for some rows, batch by batch; one is created for each evaluation ([Task#meter]).
public interface Meter {
    /// Adds the output for a batch.
    ///
    /// @param answer the values of what [Task#asked] returned
    void add(Batch batch, double[] answer);

    /// The result, after the last batch.
    Evaluation evaluation();
}
