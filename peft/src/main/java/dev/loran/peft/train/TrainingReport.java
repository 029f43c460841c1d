package dev.loran.peft.train;

import org.jspecify.annotations.Nullable;

/// How a run went.
///
/// @param steps optimizer steps done
/// @param seconds the training loop, evaluations and saving apart
/// @param tokens trained on, padding apart
/// @param trainLoss mean loss of the steps of the last epoch
/// @param best the evaluation with the lowest loss, whose parameters are in `best/`; null without evaluation
/// @param bestStep the step after which it was made; 0 without evaluation
/// @param stoppedEarly whether the loss stopped falling before the run was over
public record TrainingReport(
        int steps,
        double seconds,
        long tokens,
        double trainLoss,
        @Nullable Evaluation best,
        int bestStep,
        boolean stoppedEarly) {
    public double stepsPerSecond() {
        return steps / seconds;
    }

    public double tokensPerSecond() {
        return tokens / seconds;
    }
}
