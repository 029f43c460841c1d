package dev.loran.peft.task;

import dev.loran.peft.data.Batch;

/// Counts what a model answers to rows, batch by batch: one is made for each evaluation ([Task#meter]).
public interface Meter {
    /// Takes in what it answered to a batch.
    ///
    /// @param answer the values of what [Task#asked] returned
    void add(Batch batch, double[] answer);

    /// What it comes to, after the last batch.
    Evaluation evaluation();
}
