package dev.loran.peft.train;

import dev.loran.peft.task.Evaluation;
import java.nio.file.Path;

/// Watches a [Trainer], which calls it on the training thread.
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

    /// After something was written whole: `best/`, `last/`, or a checkpoint.
    ///
    /// @param step optimizer steps done
    default void saved(int step, Path folder) {}

    /// Once, after everything else, also where the run ends by an exception.
    default void ended(TrainingReport report) {}

    /// Whether the run should stop as by [Trainer#stop]. Asked often.
    default boolean wantsStop() {
        return false;
    }
}
