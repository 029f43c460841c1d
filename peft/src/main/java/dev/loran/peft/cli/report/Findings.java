package dev.loran.peft.cli.report;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Locale;
import java.util.Objects;
import java.util.function.DoublePredicate;
import org.jspecify.annotations.Nullable;

/// What the results show of each method: its strengths and weaknesses beside the others, each with the numbers that it
/// follows from. Differences within the uncertainty of a measurement are not called differences.
final class Findings {
    /// Times of the same work differ by less than this from run to run.
    private static final double NOISE = 1.1;

    /// @param strength or a weakness
    record Finding(boolean strength, String text) {}

    private final List<JsonNode> all;
    private final @Nullable JsonNode full;
    private final String headline;
    private final boolean higher;
    private final @Nullable Double heldOut;

    Findings(ObjectNode results) {
        this.all = Results.methods(results);
        this.full = Results.full(results);
        this.headline = results.path("headline").asText("loss");
        this.higher = results.path("higher_is_better").asBoolean(false);
        this.heldOut = Results.number(results, "held_out");
    }

    /// The findings about one method, strengths first; empty if nothing was measured, or there is nothing to compare
    /// it with.
    List<Finding> about(JsonNode run) {
        List<Finding> found = new ArrayList<>();
        if (all.size() > 1) {
            quality(run, found);
            size(run, found);
            memory(run, found);
            speed(run, found);
            latency(run, found);
        }
        course(run, found);
        found.sort(Comparator.comparing(f -> !f.strength));
        return found;
    }

    // ---- what it gains

    private void quality(JsonNode run, List<Finding> found) {
        JsonNode best = best();
        Double value = Results.number(run, headline);
        if (best == null || value == null) {
            return;
        }
        double top = Objects.requireNonNull(Results.number(best, headline));
        String name = headline.replace('_', ' ');
        if (Results.name(best).equals(Results.name(run))) {
            found.add(new Finding(true, "the best " + name + ": " + shown(value)));
            return;
        }
        double gap = Math.abs(top - value);
        double rows = heldOut == null ? 0 : heldOut;
        double error = error(top, value, rows);
        String numbers = String.format(Locale.ROOT, "%s, %s has %s", shown(value), Results.name(best), shown(top));
        if (gap <= error) {
            found.add(new Finding(
                    true,
                    String.format(
                            Locale.ROOT,
                            "%s not measurably worse than the best: %s; with %,.0f held-out rows, a gap of up to %.3f"
                                    + " may be chance",
                            name,
                            numbers,
                            rows,
                            error)));
        } else if (gap > 0) {
            found.add(new Finding(false, String.format(Locale.ROOT, "%s behind the best: %s", name, numbers)));
        }
    }

    /// Twice the standard error of a difference of two shares of the held-out rows; 0 for other metrics.
    private double error(double a, double b, double rows) {
        boolean share = headline.equals("accuracy") && rows > 0;
        return share ? 2 * Math.sqrt((a * (1 - a) + b * (1 - b)) / rows) : 0;
    }

    private @Nullable JsonNode best() {
        Comparator<JsonNode> byValue = Comparator.comparingDouble(
                r -> (higher ? -1 : 1) * Objects.requireNonNull(Results.number(r, headline)));
        return all.stream()
                .filter(r -> Results.number(r, headline) != null)
                .min(byValue)
                .orElse(null);
    }

    /// Whether the end of training came too early, or the rows were learned by heart.
    private void course(JsonNode run, List<Finding> found) {
        JsonNode evaluations = run.path("evaluations");
        if (evaluations.size() < 2) {
            return;
        }
        double last = evaluations.get(evaluations.size() - 1).path("loss").asDouble();
        double before = evaluations.get(evaluations.size() - 2).path("loss").asDouble();
        double lowest = Double.POSITIVE_INFINITY;
        int at = 0;
        for (JsonNode e : evaluations) {
            if (e.path("loss").asDouble() < lowest) {
                lowest = e.path("loss").asDouble();
                at = e.path("step").asInt();
            }
        }
        if (before > 1.02 * last) {
            found.add(new Finding(
                    false,
                    String.format(
                            Locale.ROOT,
                            "not done learning: the held-out loss still fell from %s to %s before the last evaluation;"
                                    + " more steps may help",
                            shown(before),
                            shown(last))));
        } else if (last > 1.02 * lowest) {
            found.add(new Finding(
                    false,
                    String.format(
                            Locale.ROOT,
                            "overfits: the held-out loss was lowest (%s) after step %,d and rose to %s",
                            shown(lowest),
                            at,
                            shown(last))));
        }
    }

    // ---- what it costs

    private void size(JsonNode run, List<Finding> found) {
        Double own = Results.number(run, "trainable_parameters");
        Double percent = Results.number(run, "trainable_percentage");
        if (own == null || percent == null) {
            return;
        }
        if (percent < 100) {
            found.add(new Finding(
                    true,
                    String.format(
                            Locale.ROOT, "trains %s of the parameters (%,.0f)%s", percent(percent), own, file(run))));
        } else {
            found.add(
                    new Finding(false, String.format(Locale.ROOT, "trains every parameter (%,.0f)%s", own, file(run))));
        }
    }

    private static String file(JsonNode run) {
        Double bytes = Results.number(run, "adapter_bytes");
        return bytes == null ? "" : ", and saves " + bytes(bytes);
    }

    private void memory(JsonNode run, List<Finding> found) {
        against(
                run,
                found,
                "peak_tensor_mib",
                ratio -> ratio < 1,
                "needs %s the tensor memory of full fine-tuning (%.0f against %.0f MiB)");
    }

    private void speed(JsonNode run, List<Finding> found) {
        against(
                run,
                found,
                "tokens_per_second",
                ratio -> ratio > 1,
                "trains at %s the speed of full fine-tuning (%,.0f against %,.0f tokens/s)");
    }

    private void against(JsonNode run, List<Finding> found, String key, DoublePredicate better, String text) {
        Double own = Results.number(run, key);
        Double others = full == null ? null : Results.number(full, key);
        if (own == null || others == null || full == run || others == 0) {
            return;
        }
        double ratio = own / others;
        if (ratio > NOISE || ratio < 1 / NOISE) {
            String shown = ratio < 1
                    ? String.format(Locale.ROOT, "%.0f %% of", 100 * ratio)
                    : String.format(Locale.ROOT, "%.1f times", ratio);
            found.add(new Finding(better.test(ratio), String.format(Locale.ROOT, text, shown, own, others)));
        }
    }

    private void latency(JsonNode run, List<Finding> found) {
        Double own = Results.number(run, "latency_ms");
        Double base = full == null ? null : Results.number(full, "latency_ms");
        if (own == null || base == null || full == run) {
            return;
        }
        Double merged = Results.number(run, "latency_merged_ms");
        if (merged != null && merged < NOISE * base) {
            found.add(new Finding(
                    true,
                    String.format(
                            Locale.ROOT,
                            "merged into the weights, it adds no time to a prediction: %.2f ms, a model without adapter"
                                    + " takes %.2f (unmerged: %.2f)",
                            merged,
                            base,
                            own)));
        } else if (own > NOISE * base) {
            found.add(new Finding(
                    false,
                    String.format(
                            Locale.ROOT,
                            "a prediction takes %.2f ms, %.2f times the %.2f ms of a model without adapter%s",
                            own,
                            own / base,
                            base,
                            merged == null ? "; it was not merged" : "")));
        }
    }

    // ---- numbers for reading

    static String shown(double v) {
        return String.format(Locale.ROOT, Math.abs(v) < 10 ? "%.3f" : "%,.1f", v);
    }

    /// A percentage with two significant digits.
    static String percent(double v) {
        if (v == 0 || v >= 10) {
            return String.format(Locale.ROOT, "%.0f %%", v);
        }
        int digits = Math.max(1, 1 - (int) Math.floor(Math.log10(v)));
        return String.format(Locale.ROOT, "%." + digits + "f %%", v);
    }

    static String bytes(double bytes) {
        return bytes < 1e6
                ? String.format(Locale.ROOT, "%,.0f kB", bytes / 1e3)
                : String.format(Locale.ROOT, "%,.1f MB", bytes / 1e6);
    }
}
