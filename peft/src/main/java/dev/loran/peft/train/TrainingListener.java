package dev.loran.peft.train;

/// Watches a [Trainer].
public interface TrainingListener {
    /// After each step, one step late, so that reading its numbers waits for nothing.
    ///
    /// @param seconds time of the training loop so far, evaluations apart
    default void step(StepResult result, int totalSteps, double seconds) {}

    /// Once, as soon as nothing speaks against the run.
    ///
    /// @param step those done already: not 0 where the run goes on from a checkpoint
    default void begun(int step, int totalSteps) {}

    /// After each evaluation.
    ///
    /// @param best whether its loss is the lowest so far
    default void evaluated(int step, Evaluation evaluation, boolean best) {}
}
