package dev.loran.peft.train;

import java.util.Arrays;
import org.jspecify.annotations.Nullable;

/// Finds steps whose loss or gradient norm is far above that of the last 100 steps: a sign of a rate that is too high,
/// or of rows that do not belong to the data.
///
/// A value is a spike if it exceeds `median + 10 · 1.4826 · MAD`, where MAD is the median distance from the median, so
/// that the product estimates a standard deviation which the spikes themselves do not raise (Iglewicz and Hoaglin, "How
/// to Detect and Handle Outliers", 1993, who call 3.5 deviations an outlier; batches differ more than repeated
/// measurements do). The loss must also be over one and a half times its median, and over half of the median of the
/// run's first 20 steps: a single hard row among rows that are learned is no spike. The norm must be over three times
/// its median. The first 20 steps are not judged.
public final class SpikeWatch {
    private static final int FIRST = 20;
    private static final double DEVIATIONS = 10 * 1.4826;

    private final Window losses = new Window(1.5);
    private final Window norms = new Window(3);
    private double floor = Double.NaN;

    /// The last values of one series.
    private static final class Window {
        private final double[] last = new double[100];
        private final double factor;
        private int seen;

        Window(double factor) {
            this.factor = factor;
        }

        int size() {
            return Math.min(seen, last.length);
        }

        void add(double value) {
            last[seen++ % last.length] = value;
        }

        double median() {
            return median(Arrays.copyOf(last, size()));
        }

        double limit(double median) {
            double deviation = median(Arrays.stream(last, 0, size())
                    .map(v -> Math.abs(v - median))
                    .toArray());
            return Math.max(factor * median, median + DEVIATIONS * deviation);
        }

        private static double median(double[] values) {
            Arrays.sort(values);
            int half = values.length / 2;
            return values.length % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
        }
    }

    /// Judges the next step.
    ///
    /// @return what jumped, the loss if both did; null for nothing, or if a value is not finite
    public @Nullable Spike next(double loss, double gradNorm) {
        if (!Double.isFinite(loss) || !Double.isFinite(gradNorm)) {
            return null;
        }
        Spike spike = null;
        if (losses.size() >= FIRST) {
            if (Double.isNaN(floor)) {
                floor = losses.median() / 2;
            }
            Spike ofLoss = spike(Spike.Of.LOSS, loss, losses, floor);
            spike = ofLoss != null ? ofLoss : spike(Spike.Of.GRAD_NORM, gradNorm, norms, 0);
        }
        losses.add(loss);
        norms.add(gradNorm);
        return spike;
    }

    private static @Nullable Spike spike(Spike.Of of, double value, Window window, double floor) {
        double median = window.median();
        double limit = Math.max(floor, window.limit(median));
        return value > limit ? new Spike(of, value, median, limit) : null;
    }
}
