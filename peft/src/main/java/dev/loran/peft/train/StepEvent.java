package dev.loran.peft.train;

import jdk.jfr.Category;
import jdk.jfr.DataAmount;
import jdk.jfr.Description;
import jdk.jfr.Event;
import jdk.jfr.Label;
import jdk.jfr.Name;
import jdk.jfr.StackTrace;
import jdk.jfr.Timespan;

/// A training step in a recording of Java Flight Recorder (`-XX:StartFlightRecording`). Its duration is that of the
/// step on the host, which on a GPU ends before the device is done.
@Name("dev.loran.Step")
@Label("Training Step")
@Category("Loran")
@Description("An optimizer step: forward and backward over its rows, and the update")
@StackTrace(false)
final class StepEvent extends Event {
    @Label("Step")
    int step;

    @Label("Loss")
    double loss;

    @Label("Gradient Norm")
    double gradNorm;

    @Label("Learning Rate")
    double learningRate;

    @Label("Tokens")
    int tokens;

    @Label("Reading")
    @Description("The time to read and pad the rows, before the step")
    @Timespan(Timespan.NANOSECONDS)
    long reading;

    @Label("Peak of Tensors")
    @DataAmount
    long peakBytes;

    /// Writes the event, if a recording wants it.
    void commit(StepResult result, long peak) {
        if (shouldCommit()) {
            step = result.step();
            loss = result.loss();
            gradNorm = result.gradNorm();
            learningRate = result.learningRate();
            tokens = result.tokens();
            reading = (long) (1e9 * result.dataSeconds());
            peakBytes = peak;
            commit();
        }
    }
}
