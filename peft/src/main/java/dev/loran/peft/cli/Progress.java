package dev.loran.peft.cli;

import dev.loran.peft.task.Evaluation;
import dev.loran.peft.train.StepResult;
import dev.loran.peft.train.TrainingListener;
import java.util.List;
import java.util.Locale;
import java.util.function.Supplier;
import me.tongfei.progressbar.ConsoleProgressBarConsumer;
import me.tongfei.progressbar.ProgressBar;
import me.tongfei.progressbar.ProgressBarBuilder;
import org.jspecify.annotations.Nullable;

/// Shows the progress of training: loss, learning rate, speed, time left and memory, on a terminal with a bar;
/// otherwise in about twenty lines per run.
class Progress implements TrainingListener, AutoCloseable {
    private static final int LINES = 20;

    private final Output output;
    private final List<String> opening;
    private final Detail detail;
    private @Nullable ProgressBar bar;
    /// Negative before the first step of this process.
    private double lastSeconds = -1;
    private long tokens;
    private double tokensPerSecond;

    /// What a command shows in addition.
    ///
    /// @param every steps between lines where there is no bar; 0 for a twentieth of the run
    /// @param memory what tensors take; empty to not show it
    record Detail(int every, Supplier<String> memory) {}

    /// @param opening lines to print once all checks have passed
    Progress(Output output, List<String> opening) {
        this(output, opening, new Detail(0, () -> ""));
    }

    Progress(Output output, List<String> opening, Detail detail) {
        this.output = output;
        this.opening = opening;
        this.detail = detail;
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
        if (result.spike() != null) {
            output.say("step %d: %s".formatted(result.step(), result.spike()));
        }
        int every = detail.every > 0 ? detail.every : Math.max(1, totalSteps / LINES);
        boolean due = result.step() % every == 0 || result.step() == totalSteps;
        measure(result, seconds, due);
        if (output.terminal()) {
            ProgressBar b = bar(totalSteps);
            b.setExtraMessage(String.format(
                    Locale.ROOT,
                    "loss %.4f  lr %.2e  %,.0f tokens/s  %s",
                    result.loss(),
                    result.learningRate(),
                    tokensPerSecond,
                    detail.memory.get()));
            b.stepTo(result.step());
        } else if (due) {
            double left = seconds / result.step() * (totalSteps - result.step());
            output.say(String.format(
                            Locale.ROOT,
                            "step %d/%d  loss %.4f  lr %.2e  %.2f steps/s  %,.0f tokens/s  %.0f s left  %s",
                            result.step(),
                            totalSteps,
                            result.loss(),
                            result.learningRate(),
                            result.step() / seconds,
                            tokensPerSecond,
                            left,
                            detail.memory.get())
                    .stripTrailing());
        }
    }

    /// The speed since the last line, or on a terminal since at least a second ago.
    private void measure(StepResult result, double seconds, boolean due) {
        if (lastSeconds < 0) {
            lastSeconds = result.step() == 1 ? 0 : seconds;
        }
        tokens += seconds > lastSeconds ? result.tokens() : 0;
        if (seconds > lastSeconds && (tokensPerSecond == 0 || due || seconds > lastSeconds + 1)) {
            tokensPerSecond = tokens / (seconds - lastSeconds);
            lastSeconds = seconds;
            tokens = 0;
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
