package dev.loran.peft.train;

import dev.loran.peft.task.Evaluation;
import org.jspecify.annotations.Nullable;

/// How a run went.
///
/// @param steps optimizer steps done
/// @param seconds the training loop, evaluations and saving apart
/// @param tokens trained on, padding apart
/// @param trainLoss mean loss of the steps of the last epoch
/// @param best the evaluation with the lowest loss, whose parameters are in `best/`; null without evaluation
/// @param bestStep the step after which it was made; 0 without evaluation
/// @param end why there were no more steps
public record TrainingReport(
        int steps,
        double seconds,
        long tokens,
        double trainLoss,
        @Nullable Evaluation best,
        int bestStep,
        End end) {
    /// Why a run has ended.
    public enum End {
        /// All its steps are done.
        FINISHED,
        /// The evaluation loss stopped falling ([TrainerConfig#patience]).
        PATIENCE,
        /// Somebody wished it: [Trainer#stop], an interrupt, or [TrainingListener#wantsStop]. It can go on later.
        STOPPED,
        /// By an exception, which [Trainer#train] throws.
        FAILED
    }

    /// Whether the evaluation loss stopped falling before the run was over.
    public boolean stoppedEarly() {
        return end == End.PATIENCE;
    }

    /// Whether the run was stopped from outside, and can go on.
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
