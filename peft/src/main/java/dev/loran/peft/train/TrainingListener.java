package dev.loran.peft.train;

/// Watches a [Trainer].
public interface TrainingListener {
    /// After each step, one step late, so that reading its numbers waits for nothing.
    ///
    /// @param seconds time of the training loop so far, evaluations apart
    default void step(StepResult result, int totalSteps, double seconds) {}

    /// Before the first step of a run that goes on from a checkpoint after `step` steps.
    default void resumed(int step, int totalSteps) {}

    /// After each evaluation.
    ///
    /// @param best whether its loss is the lowest so far
    default void evaluated(int step, Evaluation evaluation, boolean best) {}
}
