package dev.loran.peft.cli.report;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.io.InputException;
import dev.loran.peft.io.JsonFile;
import dev.loran.peft.task.Metric;
import dev.loran.peft.task.Task;
import dev.loran.peft.train.RunFolder;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;

/// `results.json`: all the numbers of a report. A value that was not measured is absent or null.
///
/// | key | content |
/// |---|---|
/// | `model`, `task`, `rows`, `held_out` | what was trained on what, where it is the same for all |
/// | `headline`, `higher_is_better` | the task's main metric, and its direction |
/// | `measured` | the machine: `backend`, `java`, `cores`, `load` |
/// | `parameters_by_rank`, `parameters_by_bottleneck` | sizes: `[{"rank": 4, "trainable_parameters": …}, …]` |
/// | `methods` | one object for each method, or run, with its `name` |
///
/// The object of a method holds its run's `result.json`, without the prefix `eval_` of keys, and what the run's metrics
/// say: `curve` (`step`, `loss`), `evaluations`, `ranks`; for a run of a sweep, also `options`, those that vary.
public final class Results {
    public static final String FILE = "results.json";
    public static final String METHODS = "methods";
    /// The options of a run that vary in its sweep.
    public static final String OPTIONS = "options";

    private static final ObjectMapper JSON = new ObjectMapper();
    private static final String SWEEP = "sweep.json";
    /// What is the same for runs whose numbers can be compared.
    private static final List<String> COMPARABLE = List.of("model", "task", "rows", "held_out");
    /// The most points of a training curve.
    private static final int POINTS = 150;

    private Results() {}

    /// Whether `folder` holds a comparison, or another report.
    public static boolean isIn(Path folder) {
        return Files.isRegularFile(folder.resolve(FILE));
    }

    /// The results of comparisons, sweeps and runs, in this order. Those of a single comparison are returned as they
    /// are.
    ///
    /// @throws InputException if a folder is none of these, or is damaged
    public static ObjectNode of(List<Path> folders) {
        if (folders.size() == 1 && isIn(folders.getFirst())) {
            return read(folders.getFirst());
        }
        List<ObjectNode> methods = new ArrayList<>();
        List<ObjectNode> sources = new ArrayList<>();
        for (Path folder : folders) {
            if (isIn(folder)) {
                ObjectNode comparison = read(folder);
                comparison.get(METHODS).forEach(m -> {
                    methods.add((ObjectNode) m);
                    sources.add(comparison);
                });
                continue;
            }
            for (Path run : runs(folder)) {
                ObjectNode source = JSON.createObjectNode();
                methods.add(run(run, source));
                sources.add(source);
            }
        }
        ObjectNode results = JSON.createObjectNode();
        for (String key : List.of("model", "task", "rows", "held_out", "headline", "higher_is_better", "measured")) {
            JsonNode value = sources.getFirst().path(key);
            boolean same = sources.stream().allMatch(s -> s.path(key).equals(value));
            if (same && !value.isMissingNode()) {
                results.set(key, value);
            } else if (!same && COMPARABLE.contains(key)) {
                results.withArray("notices").add("the runs differ in " + key + ": not all of their numbers compare");
            }
        }
        nameEach(methods);
        results.putArray(METHODS).addAll(methods);
        return results;
    }

    /// @throws InputException if it is not what [#FILE] should hold
    private static ObjectNode read(Path folder) {
        Path file = folder.resolve(FILE);
        ObjectNode results = JsonFile.read(file);
        JsonNode methods = results.path(METHODS);
        if (!methods.isArray() || methods.isEmpty()) {
            throw new InputException(file + ": holds no results: a list \"" + METHODS + "\" is missing or empty");
        }
        for (JsonNode m : methods) {
            if (!(m instanceof ObjectNode) || !m.path("method").isTextual()) {
                throw new InputException(file + ": an entry of \"" + METHODS + "\" names no method");
            }
        }
        nameEach(methods.valueStream().map(ObjectNode.class::cast).toList());
        return results;
    }

    /// Makes the names differ: entries without one are named after their method; repeated names get a number.
    private static void nameEach(List<ObjectNode> methods) {
        Map<String, Integer> seen = new LinkedHashMap<>();
        for (ObjectNode m : methods) {
            String name = m.path("name").asText(m.path("method").asText());
            int count = seen.merge(name, 1, Integer::sum);
            m.put("name", count == 1 ? name : name + " (" + count + ")");
        }
    }

    /// The run in `folder`, or those of the sweep there.
    private static List<Path> runs(Path folder) {
        if (RunFolder.isRun(folder)) {
            return List.of(folder);
        }
        if (!Files.isDirectory(folder)) {
            throw new InputException(folder + ": no such folder");
        }
        if (Files.isRegularFile(folder.resolve(SWEEP))) {
            try (Stream<Path> all = Files.list(folder)) {
                List<Path> runs = all.filter(RunFolder::isRun).sorted().toList();
                if (!runs.isEmpty()) {
                    return runs;
                }
            } catch (IOException e) {
                throw InputException.io(folder, "cannot be read", e);
            }
        }
        throw new InputException(folder + ": holds neither a run (run.json), nor a sweep with runs (" + SWEEP
                + "), nor a comparison (" + FILE + "); name one of these");
    }

    /// The results of the run in `folder`; only its course so far if it is not finished.
    ///
    /// @throws InputException if it is not a run's folder, or is damaged
    public static ObjectNode ofRun(Path folder) {
        return run(folder, JSON.createObjectNode());
    }

    /// @param shared is given what may be the same for all runs
    private static ObjectNode run(Path folder, ObjectNode shared) {
        ObjectNode run = outcome(new RunFolder(folder), JsonFile.read(new RunFolder(folder).optionsFile()), shared);
        addMetrics(run, folder);
        return run;
    }

    /// What a run with these options has reached, without its course: as in the table above.
    ///
    /// @param shared is given what may be the same for all runs: the first keys of the table above
    /// @throws InputException if its `result.json` is damaged
    public static ObjectNode outcome(RunFolder folder, ObjectNode options, ObjectNode shared) {
        ObjectNode result = folder.result();
        Path path = folder.path().toAbsolutePath().normalize();
        ObjectNode run = JSON.createObjectNode()
                .put("name", String.valueOf(path.getFileName()))
                .put("method", options.path("method").asText("?"));
        for (Map.Entry<String, JsonNode> e : result.properties()) {
            String key = e.getKey();
            run.set(key.startsWith("eval_") ? key.substring("eval_".length()) : key, e.getValue());
        }
        run.set("learning_rate", options.path("lr").isNumber() ? options.get("lr") : null);
        run.put("finished", !result.isEmpty());
        for (String key : List.of("model", "task")) {
            if (options.path(key).isTextual()) {
                shared.set(key, options.get(key));
            }
        }
        for (String key : List.of("rows", "held_out")) {
            if (result.path(key).isNumber()) {
                shared.set(key, result.get(key));
            }
        }
        Metric headline = headline(options.path("task").asText(""), result);
        shared.put("headline", headline.name()).put("higher_is_better", headline.higherIsBetter());
        return run;
    }

    private static Metric headline(String task, ObjectNode result) {
        try {
            return Task.named(task).headline(name -> result.has("eval_" + name));
        } catch (InputException e) {
            // A task of the user's own that is not on the class path now.
            return new Metric("loss", false);
        }
    }

    /// Adds what `metrics.jsonl` of the run in `folder` says of its course to `run`: `curve`, `evaluations`, `ranks`,
    /// and the speed of the later half of the steps, `tokens_per_second`: in the first half, the JVM still compiles.
    ///
    /// @throws InputException if the file is missing or damaged; a partial last line, which a killed run leaves, is
    ///     left out
    private static void addMetrics(ObjectNode run, Path folder) {
        List<JsonNode> steps = new ArrayList<>();
        ArrayNode evaluations = JSON.createArrayNode();
        ArrayNode ranks = JSON.createArrayNode();
        for (JsonNode line : new RunFolder(folder).metrics()) {
            if (line.has("eval_loss")) {
                ObjectNode evaluation =
                        evaluations.addObject().put("step", line.get("step").asInt());
                line.properties().stream()
                        .filter(e -> e.getKey().startsWith("eval_"))
                        .forEach(e -> evaluation.set(e.getKey().substring("eval_".length()), e.getValue()));
                continue;
            }
            steps.add(line);
            if (line.path("ranks").isObject()) {
                ranks.addObject().put("step", line.get("step").asInt()).set("ranks", line.get("ranks"));
            }
        }
        run.set("curve", curve(steps));
        run.set("evaluations", evaluations);
        run.set("ranks", ranks);
        Double speed = speedOfLaterHalf(steps);
        if (speed != null) {
            run.put("tokens_per_second", speed);
        }
    }

    /// The loss of training: the means over as many groups of consecutive steps as a curve may have points.
    private static ObjectNode curve(List<JsonNode> steps) {
        ObjectNode curve = JSON.createObjectNode();
        int size = Math.max(1, Math.ceilDiv(steps.size(), POINTS));
        curve.put("steps_per_point", size);
        ArrayNode at = curve.putArray("step");
        ArrayNode losses = curve.putArray("loss");
        for (int from = 0; from < steps.size(); from += size) {
            List<JsonNode> group = steps.subList(from, Math.min(steps.size(), from + size));
            // The loss of a step that was left out may be NaN, which is a text in JSON.
            group.stream()
                    .filter(s -> s.get("loss").isNumber())
                    .mapToDouble(s -> s.get("loss").asDouble())
                    .average()
                    .ifPresent(mean -> {
                        at.add(group.getLast().get("step").asInt());
                        losses.add(mean);
                    });
        }
        return curve;
    }

    private static @Nullable Double speedOfLaterHalf(List<JsonNode> steps) {
        if (steps.size() < 2) {
            return null;
        }
        int half = steps.size() / 2;
        double seconds = steps.getLast().path("seconds").asDouble()
                - steps.get(half - 1).path("seconds").asDouble();
        double tokens = steps.subList(half, steps.size()).stream()
                .mapToDouble(s -> s.path("tokens").asDouble())
                .sum();
        return seconds > 0 ? tokens / seconds : null;
    }

    /// A number of `run`; null if it was not measured.
    static @Nullable Double number(JsonNode run, String key) {
        return run.path(key).isNumber() ? (Double) run.get(key).asDouble() : null;
    }

    /// The methods, or runs.
    static List<JsonNode> methods(ObjectNode results) {
        return results.path(METHODS).valueStream().toList();
    }

    static String name(JsonNode run) {
        return run.path("name").asText();
    }

    /// The run in which all parameters trained, with which the others are compared; null if there is none.
    static @Nullable JsonNode full(ObjectNode results) {
        return methods(results).stream()
                .filter(m -> m.path("method").asText().equals("full"))
                .findFirst()
                .orElse(null);
    }
}
