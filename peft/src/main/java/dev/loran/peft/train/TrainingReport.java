package dev.loran.peft.train;

import dev.loran.peft.task.Evaluation;
import org.jspecify.annotations.Nullable;

/// The outcome of a run.
///
/// @param steps optimizer steps done
/// @param seconds time spent in the training loop, without evaluations and saving
/// @param tokens tokens trained on, without padding
/// @param trainLoss mean loss over the steps of the last epoch
/// @param best the evaluation with the lowest loss, whose parameters are in `best/`; null without evaluation
/// @param bestStep the step after which that evaluation was made; 0 without evaluation
/// @param end why the run ended
public record TrainingReport(
        int steps,
        double seconds,
        long tokens,
        double trainLoss,
        @Nullable Evaluation best,
        int bestStep,
        End end) {
    /// Why a run ended.
    public enum End {
        /// All its steps are done.
        FINISHED,
        /// The evaluation loss stopped falling ([TrainerConfig#patience]).
        PATIENCE,
        /// Stopped on request: [Trainer#stop], an interrupt, or [TrainingListener#wantsStop]. The run can be resumed.
        STOPPED,
        /// Ended by an exception, which [Trainer#train] throws.
        FAILED
    }

    /// Whether the run ended early because the evaluation loss stopped falling.
    public boolean stoppedEarly() {
        return end == End.PATIENCE;
    }

    /// Whether the run was stopped from outside and can be resumed.
    public boolean stopped() {
        return end == End.STOPPED;
    }

    public double stepsPerSecond() {
        return steps / seconds;
    }

    public double tokensPerSecond() {
        return tokens / seconds;
    }
}
