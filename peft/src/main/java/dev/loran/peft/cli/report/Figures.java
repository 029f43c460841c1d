package dev.loran.peft.cli.report;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.cli.report.Plot.Line;
import dev.loran.peft.io.InputException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/// The figures of a report. Those whose numbers were not measured are left out.
final class Figures {
    private static final Pattern NUMBER = Pattern.compile("\\.(\\d+)\\.");

    private final ObjectNode results;
    private final List<JsonNode> methods;
    private final String headline;
    private final List<Figure> figures = new ArrayList<>();

    private Figures(ObjectNode results) {
        this.results = results;
        this.methods = Results.methods(results);
        this.headline = results.path("headline").asText("loss");
    }

    /// A figure of the page.
    ///
    /// @param id its name there, and that of its files
    /// @param caption how it was measured
    record Figure(String id, String title, String caption, Plot plot) {
        /// Writes it as SVG and PNG.
        void write(Path folder) {
            Path png = folder.resolve(id + ".png");
            try {
                Files.writeString(folder.resolve(id + ".svg"), plot.svg());
                plot.writePng(png);
            } catch (IOException e) {
                throw InputException.io(png, "cannot be written", e);
            }
        }

        /// As part of the page: with the page's colours, and with ids of its own.
        String inline() {
            return plot.inline(id, title);
        }
    }

    static List<Figure> of(ObjectNode results) {
        Figures all = new Figures(results);
        all.parameters();
        all.sizes("rank", "LoRA: parameters by rank");
        all.sizes("bottleneck", "Adapters: parameters by bottleneck");
        all.memory();
        all.tradeoff();
        all.speed();
        all.curves();
        all.evaluations();
        all.ranks();
        all.latency();
        return all.figures;
    }

    private void add(String id, String title, Plot plot, String caption) {
        figures.add(new Figure(id, title, caption, plot));
    }

    // ---- size, memory, quality, speed

    private void parameters() {
        Map<String, Double> counts = measured("trainable_parameters");
        if (counts.isEmpty()) {
            return;
        }
        Map<String, Double> shares = measured("trainable_percentage");
        add(
                "parameters",
                "Trainable parameters",
                Plot.bars(
                        "parameters, log scale",
                        Map.of("trainable", counts),
                        true,
                        (name, v) -> shares.containsKey(name) ? Findings.percent(value(shares, name)) : " "),
                "Counted in the model with the adapter attached, a new head included; the label is their percentage of"
                        + " all parameters, base and adapter.");
    }

    private void sizes(String size, String title) {
        JsonNode counted = results.path("parameters_by_" + size);
        if (counted.isEmpty()) {
            return;
        }
        Map<Double, Double> line = new LinkedHashMap<>();
        counted.forEach(c ->
                line.put(c.path(size).asDouble(), c.path("trainable_parameters").asDouble()));
        add(
                "parameters-by-" + size,
                title,
                Plot.lines(size, "trainable parameters", List.of(new Line("trainable", 0, line, true))),
                "Counted in the model itself, once for each " + size + ", a new head included; the other options are"
                        + " those of the comparison.");
    }

    private void memory() {
        Map<String, Double> measured = measured("peak_tensor_mib");
        if (measured.isEmpty()) {
            return;
        }
        Map<String, Map<String, Double>> series = new LinkedHashMap<>();
        series.put("planned", measured("planned_tensor_mib"));
        series.put("measured", measured);
        series.values().removeIf(Map::isEmpty);
        add(
                "memory",
                "Memory of tensors in training",
                Plot.bars("MiB", series, false, (name, v) -> String.format(Locale.ROOT, "%,.0f", v)),
                "Weights, activations, gradients and optimizer at their peak. Planned: before the run, on a backend"
                        + " that counts without allocating, for the largest batch. Measured: the backend's high-water"
                        + " mark over training and evaluation. The JVM itself is not in it; the table has the"
                        + " process.");
    }

    private void tradeoff() {
        Map<String, Double> shares = measured("trainable_percentage");
        Map<String, Double> values = measured(headline);
        shares.keySet().retainAll(values.keySet());
        shares.values().removeIf(share -> share <= 0);
        if (shares.isEmpty()) {
            return;
        }
        // Equal steps from 0 to 90, 99, 99.9 % of parameters saved.
        List<Line> points = new ArrayList<>();
        for (JsonNode run : methods) {
            String name = Results.name(run);
            if (shares.containsKey(name)) {
                double nines = -Math.log10(value(shares, name) / 100);
                points.add(new Line(name, index(run), Map.of(nines, value(values, name)), true));
            }
        }
        Double heldOut = Results.number(results, "held_out");
        add(
                "tradeoff",
                capital(words(headline)) + " against parameters saved",
                Plot.points("parameters saved", words(headline), points, Figures::saved),
                String.format(
                        Locale.ROOT,
                        "%s on %s, at the evaluation with the lowest held-out loss%s. Saved: the parameters that do not"
                                + " train; with each step of the axis, a tenth as many train.",
                        capital(words(headline)),
                        heldOut == null ? "held-out rows" : String.format(Locale.ROOT, "%,.0f held-out rows", heldOut),
                        results.path("higher_is_better").asBoolean() ? "" : " (lower is better)"));
    }

    private static String saved(double nines) {
        if (nines < -0.01 || Math.abs(nines - Math.rint(nines)) > 0.01) {
            return " ";
        }
        int n = (int) Math.rint(nines);
        return switch (n) {
            case 0 -> "0 %";
            case 1 -> "90 %";
            default -> String.format(Locale.ROOT, "%." + (n - 2) + "f %%", 100 - Math.pow(10, 2 - n));
        };
    }

    private void speed() {
        Map<String, Double> speeds = measured("tokens_per_second");
        if (speeds.isEmpty()) {
            return;
        }
        JsonNode full = Results.full(results);
        Double base = full == null ? null : speeds.get(Results.name(full));
        Map<String, Double> shown = new LinkedHashMap<>();
        speeds.forEach((name, v) -> shown.put(name, base == null ? v : (Double) (v / base)));
        add(
                "speed",
                base == null ? "Training speed" : "Training speed relative to full fine-tuning",
                Plot.bars(
                        base == null ? "tokens/s" : "times the speed of full",
                        Map.of("speed", shown),
                        false,
                        (name, v) -> String.format(Locale.ROOT, base == null ? "%,.0f" : "%.2f×", v)),
                "Tokens per second over the later half of the steps, without padding and evaluations; the JVM compiles"
                        + " in the first half. Methods ran one after the other on the same machine.");
    }

    // ---- the course of training

    private void curves() {
        List<Line> lines = new ArrayList<>();
        for (JsonNode run : methods) {
            JsonNode curve = run.path("curve");
            Map<Double, Double> line = new LinkedHashMap<>();
            List<JsonNode> losses = curve.path("loss").valueStream().toList();
            int window = Math.max(1, losses.size() / 25);
            for (int i = 0; i < losses.size(); i++) {
                line.put(
                        curve.path("step").path(i).asDouble(),
                        losses.subList(Math.max(0, i + 1 - window), i + 1).stream()
                                .mapToDouble(JsonNode::asDouble)
                                .average()
                                .orElseThrow());
            }
            if (line.size() > 1) {
                lines.add(new Line(Results.name(run), index(run), line, false));
            }
        }
        if (!lines.isEmpty()) {
            add(
                    "learning",
                    "Learning curves: training loss",
                    Plot.lines("step", "training loss", lines),
                    "The loss on each step's rows, before its update, from metrics.jsonl; smoothed by a mean over the"
                            + " last twenty-fifth of the run.");
        }
    }

    private void evaluations() {
        List<Line> lines = new ArrayList<>();
        for (JsonNode run : methods) {
            Map<Double, Double> line = new LinkedHashMap<>();
            for (JsonNode e : run.path("evaluations")) {
                Double value = Results.number(e, headline);
                if (value != null) {
                    line.put(e.path("step").asDouble(), value);
                }
            }
            if (line.size() > 1) {
                lines.add(new Line(Results.name(run), index(run), line, true));
            }
        }
        if (!lines.isEmpty()) {
            add(
                    "held-out",
                    "Learning curves: held-out " + words(headline),
                    Plot.lines("step", words(headline), lines),
                    "All held-out rows, at each evaluation in training.");
        }
    }

    private void ranks() {
        int number = 0;
        for (JsonNode run : methods) {
            JsonNode ranks = run.path("ranks");
            if (ranks.isEmpty()) {
                continue;
            }
            Set<String> modules = new LinkedHashSet<>();
            ranks.forEach(r -> r.path("ranks").fieldNames().forEachRemaining(modules::add));
            List<String> rows = List.copyOf(modules);
            List<String> steps = new ArrayList<>();
            List<int[]> cells = new ArrayList<>();
            for (JsonNode r : ranks) {
                steps.add(r.path("step").asText());
                cells.add(rows.stream()
                        .mapToInt(m -> r.path("ranks").path(m).asInt())
                        .toArray());
            }
            add(
                    "ranks" + (number == 0 ? "" : "-" + number),
                    "Ranks over time: " + Results.name(run),
                    Plot.heat("step", steps, shortened(rows), cells),
                    "The live triplets of each adapted layer after each allocation, from metrics.jsonl; the budget"
                            + " shrinks between the first and the last one. Rows: block and projection.");
            number++;
        }
    }

    /// Block number and last part of modules' names, where these tell them apart.
    private static List<String> shortened(List<String> modules) {
        List<String> brief = modules.stream()
                .map(m -> {
                    Matcher number = NUMBER.matcher(m);
                    return (number.find() ? number.group(1) + " " : "") + m.substring(m.lastIndexOf('.') + 1);
                })
                .toList();
        return new LinkedHashSet<>(brief).size() == modules.size() ? brief : modules;
    }

    private void latency() {
        Map<String, Double> unmerged = measured("latency_ms");
        if (unmerged.isEmpty()) {
            return;
        }
        Map<String, Double> merged = measured("latency_merged_ms");
        Map<String, Map<String, Double>> series = new LinkedHashMap<>();
        series.put("unmerged", unmerged);
        series.put("merged", merged);
        series.values().removeIf(Map::isEmpty);
        add(
                "latency",
                "Time of one prediction",
                Plot.bars("milliseconds", series, false, (name, v) -> String.format(Locale.ROOT, "%.2f", v)),
                "From a text's token ids to its scores, one held-out text at a time: the lowest median of rounds of"
                        + " 100, repeated until steady. Unmerged: the adapter beside the weights. Merged: its update"
                        + " added to them, where the method allows that.");
    }

    // ---- parts

    /// The values of the runs that have one, by name.
    private Map<String, Double> measured(String key) {
        Map<String, Double> values = new LinkedHashMap<>();
        for (JsonNode run : methods) {
            Double value = Results.number(run, key);
            if (value != null) {
                values.put(Results.name(run), value);
            }
        }
        return values;
    }

    private static double value(Map<String, Double> values, String name) {
        return Objects.requireNonNull(values.get(name));
    }

    private int index(JsonNode run) {
        return methods.indexOf(run);
    }

    private static String words(String metric) {
        return metric.replace('_', ' ');
    }

    private static String capital(String words) {
        return words.isEmpty() ? words : words.substring(0, 1).toUpperCase(Locale.ROOT) + words.substring(1);
    }
}
