package dev.loran.peft.cli.console;

import dev.loran.peft.task.Evaluation;
import dev.loran.peft.train.StepResult;
import dev.loran.peft.train.TrainingListener;
import java.io.IOException;
import java.io.PrintStream;
import java.util.List;
import java.util.Locale;
import java.util.function.Supplier;
import me.tongfei.progressbar.ProgressBar;
import me.tongfei.progressbar.ProgressBarBuilder;
import me.tongfei.progressbar.ProgressBarConsumer;
import org.jline.terminal.Terminal;
import org.jline.terminal.TerminalBuilder;
import org.jspecify.annotations.Nullable;

/// Shows the progress of training: loss, learning rate, speed, time left and memory, on a terminal with a bar;
/// otherwise in about twenty lines per run.
public class Progress implements TrainingListener, AutoCloseable {
    private static final int LINES = 20;
    /// The last two steps are read at once, so that almost no time is between them.
    private static final double SHORTEST = 0.2;

    private static final int WIDE_TERMINAL = 60;
    private static final int WIDEST_BAR = 24;
    private static final int NARROWEST_BAR = 5;

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
    public record Detail(int every, Supplier<String> memory) {}

    /// @param opening lines to print once all checks have passed
    public Progress(Output output, List<String> opening) {
        this(output, opening, new Detail(0, () -> ""));
    }

    public Progress(Output output, List<String> opening, Detail detail) {
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
    public void reference(int done, int rows) {
        if (done == 0) {
            output.say("computing the log-probabilities of %,d rows without the training, once".formatted(rows));
        } else if (done < rows) {
            output.detail("%,d of %,d rows".formatted(done, rows));
        }
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
        double left = seconds / result.step() * (totalSteps - result.step());
        if (output.level() == Output.Level.QUIET) {
            return;
        }
        if (output.terminal()) {
            ProgressBar b = bar(totalSteps);
            b.setExtraMessage(String.join("\n", parts(result, result.step() / seconds, left)));
            b.stepTo(result.step());
        } else if (due) {
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

    /// What stands behind the bar, the most important first: as much of it as there is room for.
    private List<String> parts(StepResult result, double stepsPerSecond, double left) {
        long seconds = Math.round(left);
        return List.of(
                String.format(Locale.ROOT, "loss %.4f", result.loss()),
                (seconds < 3600 ? "" : seconds / 3600 + ":")
                        + String.format(
                                Locale.ROOT,
                                seconds < 3600 ? "%d:%02d left" : "%02d:%02d left",
                                seconds / 60 % 60,
                                seconds % 60),
                String.format(Locale.ROOT, "%.2f steps/s", stepsPerSecond),
                String.format(Locale.ROOT, "lr %.1e", result.learningRate()),
                String.format(Locale.ROOT, "%,.0f tokens/s", tokensPerSecond),
                detail.memory.get());
    }

    /// The speed since the last line, or on a terminal since at least a second ago.
    private void measure(StepResult result, double seconds, boolean due) {
        if (lastSeconds < 0) {
            lastSeconds = result.step() == 1 ? 0 : seconds;
        }
        tokens += seconds > lastSeconds ? result.tokens() : 0;
        if (seconds > lastSeconds && (tokensPerSecond == 0 || seconds > lastSeconds + (due ? SHORTEST : 1))) {
            tokensPerSecond = tokens / (seconds - lastSeconds);
            lastSeconds = seconds;
            tokens = 0;
        }
    }

    private ProgressBar bar(int totalSteps) {
        if (bar == null) {
            output.bar(true);
            bar = new ProgressBarBuilder()
                    .setInitialMax(totalSteps)
                    .setUpdateIntervalMillis(200)
                    .setRenderer((state, width) -> line(
                            state.getCurrent(),
                            state.getMax(),
                            List.of(String.valueOf(state.getExtraMessage()).split("\n")),
                            width))
                    .setConsumer(new LastLine(output.err()))
                    .build();
        }
        return bar;
    }

    /// The terminal's last line, which is written again and again. The library's own would take Ctrl-C from [Stop]: it
    /// opens the terminal with handlers of signals.
    private static final class LastLine implements ProgressBarConsumer {
        private static final int USUAL_WIDTH = 80;

        private final PrintStream out;
        private final @Nullable Terminal terminal;

        LastLine(PrintStream out) {
            this.out = out;
            this.terminal = open();
        }

        private static @Nullable Terminal open() {
            try {
                return TerminalBuilder.builder().nativeSignals(false).dumb(true).build();
            } catch (IOException e) {
                return null;
            }
        }

        /// The terminal may be resized at any time. Its last column stays free: there some would begin a new line.
        @Override
        public int getMaxRenderedLength() {
            int width = terminal == null ? 0 : terminal.getWidth();
            return (width > 0 ? width : USUAL_WIDTH) - 1;
        }

        @Override
        public void accept(String line) {
            out.print('\r' + line);
            out.flush();
        }

        @Override
        public void clear() {
            accept(" ".repeat(getMaxRenderedLength()) + '\r');
        }

        @Override
        public void close() {
            out.println();
            try {
                if (terminal != null) {
                    terminal.close();
                }
            } catch (IOException e) {
                // The run is over, and the terminal was only asked for its width.
            }
        }
    }

    /// A line of exactly `width` columns: the steps, as many of `parts` as there is room for, and a bar in the rest.
    static String line(long step, long steps, List<String> parts, int width) {
        String count =
                " ".repeat(String.valueOf(steps).length() - String.valueOf(step).length()) + step + "/" + steps;
        StringBuilder line = new StringBuilder(String.format(Locale.ROOT, "%s %3d %%", count, 100 * step / steps));
        int forParts = width < WIDE_TERMINAL ? width : width - 1 - WIDEST_BAR / 2;
        for (String part : parts) {
            if (part.isEmpty() || line.length() + 2 + part.length() > forParts) {
                break;
            }
            line.append("  ").append(part);
        }
        int room = Math.min(WIDEST_BAR, width - line.length() - 1);
        if (room >= NARROWEST_BAR) {
            int full = (int) (room * step / steps);
            line.insert(0, "█".repeat(full) + "░".repeat(room - full) + " ");
        }
        return (line + " ".repeat(Math.max(0, width - line.length()))).substring(0, Math.max(0, width));
    }

    @Override
    public void evaluated(int step, Evaluation e, boolean best) {
        // Four decimals for values of at most 1, such as shares; two for others.
        double value = e.headlineValue();
        output.say(String.format(
                Locale.ROOT,
                "after step %d: loss %.4f, %s %." + (Math.abs(value) <= 1 ? 4 : 2) + "f%s",
                step,
                e.loss(),
                e.headline().name().replace('_', ' '),
                value,
                best ? " (best so far)" : ""));
    }

    @Override
    public void close() {
        output.stop().listen(false);
        if (bar != null) {
            bar.close();
            output.bar(false);
        }
    }
}
