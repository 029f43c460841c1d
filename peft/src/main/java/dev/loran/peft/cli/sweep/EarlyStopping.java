package dev.loran.peft.cli.sweep;

import com.fasterxml.jackson.databind.JsonNode;
import dev.loran.peft.io.InputException;
import dev.loran.peft.task.Evaluation;
import dev.loran.peft.task.Metric;
import dev.loran.peft.task.Task;
import dev.loran.peft.train.StepResult;
import dev.loran.peft.train.TrainingListener;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Objects;
import java.util.TreeMap;
import org.jspecify.annotations.Nullable;

/// Ends runs of a sweep that do worse than others, by what they reach on held-out rows.
///
/// **Successive halving** (Jamieson and Talwalkar, 2016): n runs train for a share of their steps, the best n / η of
/// them for η times as many, and so on, until the last train to the end. There are ⌊log_η n⌋ such cuts, each at the
/// first evaluation after its share.
///
/// **Median stopping** (Golovin et al., "Google Vizier", 2017, section 3.2.2): a run ends if the best that it has
/// reached is worse than the median, over the others that have come as far, of the mean of what they reached up to
/// there. It takes at least two others.
///
/// Evaluations are read from the runs' metrics, so decisions are the same after a sweep was killed.
public final class EarlyStopping {
    private static final int FEWEST_OTHERS = 2;

    private final @Nullable Integer eta;
    private final boolean median;
    private final Task task;
    private Metric headline;
    private final int cuts;
    /// Of each run: its values by step, negative if higher ones are better.
    private final Map<String, TreeMap<Integer, Double>> values = new HashMap<>();

    private final Map<String, String> stopped = new HashMap<>();
    private int cut;

    /// @param eta η of successive halving; null for none
    /// @param median whether runs are stopped by the median
    /// @param task whose main metric decides
    /// @param runs their number at the start
    public EarlyStopping(@Nullable Integer eta, boolean median, Task task, int runs) {
        if (eta != null && eta < 2) {
            throw new InputException("--halving " + eta + " must be at least 2: the best 1/" + eta + " would go on");
        }
        this.eta = eta;
        this.median = median;
        this.task = task;
        this.headline = task.headline();
        int number = 0;
        if (eta != null) {
            for (int left = runs / eta; left >= 1; left /= eta) {
                number++;
            }
        }
        this.cuts = number;
    }

    /// The number of cuts of successive halving.
    public int cuts() {
        return cuts;
    }

    /// From now on, runs pause at cut `number`, from 0; at the last number, [#cuts], they train to the end.
    public void begin(int number) {
        cut = number;
    }

    /// Takes the evaluations of a run that has begun.
    ///
    /// @param metrics the lines of its `metrics.jsonl`
    public void read(String run, List<JsonNode> metrics) {
        for (JsonNode line : metrics) {
            Metric metric = task.headline(name -> line.has("eval_" + name));
            JsonNode value = line.path("eval_" + metric.name());
            if (line.path("step").isInt() && value.isNumber()) {
                add(run, line.get("step").asInt(), metric, value.asDouble());
            }
        }
    }

    private void add(String run, int step, Metric metric, double value) {
        headline = metric;
        values.computeIfAbsent(run, r -> new TreeMap<>()).put(step, headline.higherIsBetter() ? -value : value);
    }

    /// The listener that observes a run and pauses or stops it.
    public TrainingListener of(String run) {
        return new TrainingListener() {
            private int total;
            private int step;
            private int judged;

            @Override
            public void begun(int done, int totalSteps) {
                total = totalSteps;
                step = done;
            }

            @Override
            public void step(StepResult result, int totalSteps, double seconds) {
                step = result.step();
            }

            @Override
            public void evaluated(int at, Evaluation e, boolean best) {
                add(run, at, e.headline(), e.headlineValue());
            }

            @Override
            public boolean wantsStop() {
                Integer last = last(run);
                if (last == null || total == 0) {
                    return false;
                }
                // The runs of a shared pass evaluate before any of them takes its next step.
                if (median && step > last && judged < last) {
                    judged = last;
                    judge(run, last);
                }
                return stopped.containsKey(run) || cut < cuts && last >= stepOf(cut, total) && last < total;
            }
        };
    }

    private @Nullable Integer last(String run) {
        TreeMap<Integer, Double> own = values.get(run);
        return own == null || own.isEmpty() ? null : own.lastKey();
    }

    /// The step of a cut: the η-th part of that of the next one.
    private int stepOf(int number, int total) {
        return (int) Math.ceil(total / Math.pow(Objects.requireNonNull(eta), cuts - number));
    }

    private void judge(String run, int step) {
        List<Double> means = new ArrayList<>();
        values.forEach((other, all) -> {
            if (!other.equals(run) && all.lastKey() >= step && all.firstKey() <= step) {
                means.add(all.headMap(step, true).values().stream()
                        .mapToDouble(v -> v)
                        .average()
                        .orElseThrow());
            }
        });
        if (means.size() < FEWEST_OTHERS) {
            return;
        }
        double middle = median(means);
        double own = best(run);
        if (own > middle) {
            stopped.put(
                    run,
                    String.format(
                            Locale.ROOT,
                            "its best %s by step %d, %.4f, is worse than the median of %d others, %.4f",
                            headline.name().replace('_', ' '),
                            step,
                            Math.abs(own),
                            means.size(),
                            Math.abs(middle)));
        }
    }

    private double best(String run) {
        TreeMap<Integer, Double> own = values.get(run);
        return own == null
                ? Double.POSITIVE_INFINITY
                : own.values().stream().min(Double::compare).orElseThrow();
    }

    static double median(List<Double> numbers) {
        List<Double> sorted = numbers.stream().sorted().toList();
        int half = sorted.size() / 2;
        return sorted.size() % 2 == 1 ? sorted.get(half) : (sorted.get(half - 1) + sorted.get(half)) / 2;
    }

    /// Why the median stopped a run; null if it did not.
    public @Nullable String stopped(String run) {
        return stopped.get(run);
    }

    /// Those of `runs` that do not go on after the present cut, with the reason.
    ///
    /// @param left how many of all runs were left before it
    public Map<String, String> cut(List<String> runs, int left) {
        int keep = Math.max(1, left / Objects.requireNonNull(eta));
        List<String> ranked =
                runs.stream().sorted(Comparator.comparingDouble(this::best)).toList();
        Map<String, String> out = new HashMap<>();
        for (int place = keep; place < ranked.size(); place++) {
            out.put(
                    ranked.get(place),
                    "number %d of %d at cut %d of the halving; the best %d went on"
                            .formatted(place + 1, ranked.size(), cut + 1, keep));
        }
        return out;
    }
}
