package dev.loran.peft.train;

import dev.loran.peft.task.Evaluation;
import java.nio.file.Path;

/// Observes a [Trainer], which calls it on the training thread.
public interface TrainingListener {
    /// Called after each step, one step late, so that reading its values does not wait.
    ///
    /// @param seconds time spent in the training loop so far, without evaluations
    default void step(StepResult result, int totalSteps, double seconds) {}

    /// Called while the outputs of the model before its training are computed, for a task that compares with them:
    /// before each batch, and after the last, for the rows to train on and then for those to evaluate on.
    ///
    /// @param done of `rows` rows
    default void reference(int done, int rows) {}

    /// Called once, after all checks and before the first step.
    ///
    /// @param step steps already done: not 0 if the run resumes from a checkpoint
    default void begun(int step, int totalSteps) {}

    /// Called after each evaluation.
    ///
    /// @param best whether its loss is the lowest so far
    default void evaluated(int step, Evaluation evaluation, boolean best) {}

    /// Called after `best/`, `last/` or a checkpoint was written completely.
    ///
    /// @param step optimizer steps done
    default void saved(int step, Path folder) {}

    /// Called if a loss or the gradients are no longer finite, which ends the run.
    ///
    /// @param step the last step that was tried, numbered from 1
    default void diverged(int step, String why) {}

    /// Called once, after everything else, even if the run ends with an exception.
    default void ended(TrainingReport report) {}

    /// Whether the run should stop, as by [Trainer#stop]. Called often.
    default boolean wantsStop() {
        return false;
    }

    /// This listener and `other`, which is called after it.
    default TrainingListener and(TrainingListener other) {
        TrainingListener first = this;
        return new TrainingListener() {
            @Override
            public void step(StepResult result, int totalSteps, double seconds) {
                first.step(result, totalSteps, seconds);
                other.step(result, totalSteps, seconds);
            }

            @Override
            public void reference(int done, int rows) {
                first.reference(done, rows);
                other.reference(done, rows);
            }

            @Override
            public void begun(int step, int totalSteps) {
                first.begun(step, totalSteps);
                other.begun(step, totalSteps);
            }

            @Override
            public void evaluated(int step, Evaluation evaluation, boolean best) {
                first.evaluated(step, evaluation, best);
                other.evaluated(step, evaluation, best);
            }

            @Override
            public void saved(int step, Path folder) {
                first.saved(step, folder);
                other.saved(step, folder);
            }

            @Override
            public void diverged(int step, String why) {
                first.diverged(step, why);
                other.diverged(step, why);
            }

            @Override
            public void ended(TrainingReport report) {
                first.ended(report);
                other.ended(report);
            }

            @Override
            public boolean wantsStop() {
                return first.wantsStop() || other.wantsStop();
            }
        };
    }
}
