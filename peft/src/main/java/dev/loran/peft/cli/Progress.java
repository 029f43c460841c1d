package dev.loran.peft.cli;

import dev.loran.peft.task.Evaluation;
import dev.loran.peft.train.StepResult;
import dev.loran.peft.train.TrainingListener;
import java.util.List;
import java.util.Locale;
import me.tongfei.progressbar.ConsoleProgressBarConsumer;
import me.tongfei.progressbar.ProgressBar;
import me.tongfei.progressbar.ProgressBarBuilder;
import org.jspecify.annotations.Nullable;

/// Shows the progress of training: on a terminal, a bar with speed, loss and time left; otherwise, about twenty lines
/// per run.
class Progress implements TrainingListener, AutoCloseable {
    private static final int LINES = 20;

    private final Output output;
    private final List<String> opening;
    private @Nullable ProgressBar bar;

    /// @param opening lines to print once all checks have passed
    Progress(Output output, List<String> opening) {
        this.output = output;
        this.opening = opening;
        output.stop().listen(true);
    }

    @Override
    public boolean wantsStop() {
        return output.stop().isAsked();
    }

    @Override
    public void begun(int step, int totalSteps) {
        opening.forEach(output::say);
        if (step > 0) {
            output.say("going on after step %d of %d".formatted(step, totalSteps));
        }
    }

    @Override
    public void step(StepResult result, int totalSteps, double seconds) {
        if (result.problem() != null) {
            output.say("left out: " + result.problem());
        }
        if (output.terminal()) {
            ProgressBar b = bar(totalSteps);
            b.setExtraMessage(String.format(Locale.ROOT, "loss %.4f", result.loss()));
            b.stepTo(result.step());
            return;
        }
        if (result.step() % Math.max(1, totalSteps / LINES) == 0 || result.step() == totalSteps) {
            double left = seconds / result.step() * (totalSteps - result.step());
            output.say(String.format(
                    Locale.ROOT,
                    "step %d/%d  loss %.4f  lr %.2e  %.2f steps/s  %.0f s left",
                    result.step(),
                    totalSteps,
                    result.loss(),
                    result.learningRate(),
                    result.step() / seconds,
                    left));
        }
    }

    private ProgressBar bar(int totalSteps) {
        if (bar == null) {
            bar = new ProgressBarBuilder()
                    .setTaskName("training")
                    .setInitialMax(totalSteps)
                    .setUnit(" steps", 1)
                    .showSpeed()
                    .setConsumer(new ConsoleProgressBarConsumer(output.err()))
                    .build();
        }
        return bar;
    }

    @Override
    public void evaluated(int step, Evaluation e, boolean best) {
        // Four decimals for values of at most 1, such as shares; two for others.
        double value = e.headlineValue();
        output.say(String.format(
                        Locale.ROOT,
                        "%nafter step %d: loss %.4f, %s %." + (Math.abs(value) <= 1 ? 4 : 2) + "f%s",
                        step,
                        e.loss(),
                        e.headline().name().replace('_', ' '),
                        value,
                        best ? " (best so far)" : "")
                .substring(output.terminal() ? 0 : System.lineSeparator().length()));
    }

    @Override
    public void close() {
        output.stop().listen(false);
        if (bar != null) {
            bar.close();
        }
    }
}
