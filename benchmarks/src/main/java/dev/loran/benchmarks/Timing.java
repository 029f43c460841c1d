package dev.loran.benchmarks;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/// Wall-clock times of repeated calls in one process, after a warm-up that lasts until they no longer get faster. Meant
/// for quick looks and for whole steps; kernels are measured with JMH.
///
/// @param medianMs the median time, in milliseconds
/// @param bestMs the shortest time, in milliseconds
record Timing(double medianMs, double bestMs) {
    /// The warm-up ends after this many rounds without a shorter time; C2 compiles a kernel within a few seconds of
    /// calls.
    private static final int STEADY = 10;

    private static final long WARM_UP_LIMIT = 20_000_000_000L;

    /// Times `repeats` calls of each task, alternating between tasks so that all of them run under the same conditions.
    static List<Timing> of(int repeats, List<Runnable> tasks) {
        tasks.forEach(Timing::warmUp);
        List<List<Double>> times = new ArrayList<>();
        tasks.forEach(t -> times.add(new ArrayList<>()));
        for (int i = 0; i < repeats; i++) {
            for (int t = 0; t < tasks.size(); t++) {
                times.get(t).add(milliseconds(tasks.get(t)));
            }
        }
        return times.stream().map(Timing::summary).toList();
    }

    private static Timing summary(List<Double> times) {
        Collections.sort(times);
        return new Timing(times.get(times.size() / 2), times.getFirst());
    }

    private static void warmUp(Runnable task) {
        long start = System.nanoTime();
        double best = Double.POSITIVE_INFINITY;
        for (int steady = 0; steady < STEADY && System.nanoTime() - start < WARM_UP_LIMIT; ) {
            double ms = milliseconds(task);
            boolean early = System.nanoTime() - start < 2_000_000_000L;
            steady = ms < 0.98 * best || early ? 0 : steady + 1;
            best = Math.min(best, ms);
        }
    }

    private static double milliseconds(Runnable task) {
        long start = System.nanoTime();
        task.run();
        return (System.nanoTime() - start) / 1e6;
    }

    /// Returns the peak resident memory of the process in MiB (VmHWM on Linux); NaN if the system does not report it.
    static double peakMemoryMib() {
        try {
            for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
                if (line.startsWith("VmHWM:")) {
                    return Long.parseLong(line.replaceAll("\\D", "")) / 1024.0;
                }
            }
        } catch (IOException e) {
            return Double.NaN;
        }
        return Double.NaN;
    }
}
