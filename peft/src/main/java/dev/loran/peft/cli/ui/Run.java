package dev.loran.peft.cli.ui;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.cli.report.Palette;
import dev.loran.peft.cli.report.Results;
import dev.loran.peft.io.InputException;
import dev.loran.peft.io.JsonFile;
import dev.loran.peft.task.ChatTask;
import dev.loran.peft.train.MetricsReader;
import dev.loran.peft.train.RunFolder;
import dev.loran.peft.watch.Diagnosis;
import dev.loran.peft.watch.Diagnosis.UsualRates;
import dev.loran.peft.watch.Finding;
import java.io.BufferedReader;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.Path;
import java.nio.file.attribute.BasicFileAttributes;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Function;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;

/// A run, as its files show it. Reads only what was added since the last look.
///
/// Links in its folder are not followed: nothing outside is shown.
final class Run {
    private static final ObjectMapper JSON = new ObjectMapper();
    /// Without a list of locks, a run trains if its last line is no older than this, or than some of its steps.
    private static final double SILENT_SECONDS = 60;

    private static final int SILENT_STEPS = 5;
    /// From so many of the last rows of the course come the loss and the speed of now.
    private static final int RECENT = 20;

    private static final int MOST_ANSWERS = 50;
    private static final int LONGEST_LINE = 1 << 16;
    private static final String METRICS = "metrics.jsonl";
    private static final String METRIC = "eval_";
    private static final List<String> READ = List.of("run.json", "result.json", "facts.json", METRICS, "spikes");

    private final RunFolder files;
    /// The run over several tasks that this one is a part of.
    private final @Nullable Run outer;

    private final ObjectNode title;
    private final MetricsReader reader;

    private Course steps = Course.steps();
    private Course evaluations = Course.evaluations(List.of());
    private List<String> metrics = List.of();
    private final Map<String, Double> best = new LinkedHashMap<>();
    private boolean finite = true;
    /// Why it diverged; empty if it did not.
    private String diverged = "";

    /// How often the metrics were read from their first line.
    private int version;

    private String diagnosed = "";
    private ObjectNode diagnosis = JSON.createObjectNode();

    /// @param name below the folder that was named
    /// @param number of the run, in the order in which they are shown
    Run(String id, Path folder, String group, String name, int number, @Nullable Run outer) {
        this.files = new RunFolder(folder);
        this.outer = outer;
        this.reader = files.metricsReader();
        this.title = JSON.createObjectNode()
                .put("id", id)
                .put("group", group)
                .put("name", name)
                .put("folder", folder.toString())
                .put("color", Palette.series(number).variable())
                .put("dash", number / Palette.SERIES.size());
    }

    Path folder() {
        return files.path();
    }

    // ---- what the list of runs shows

    /// One object with the state of the run and its latest numbers. If its files are damaged, it says so as `problem`.
    synchronized ObjectNode summary() {
        ObjectNode run = title.deepCopy();
        try {
            requireOwn();
            ObjectNode options = options();
            ObjectNode outcome = Results.outcome(files, options, run);
            outcome.remove("name");
            run.setAll(outcome.retain(
                    "method",
                    "learning_rate",
                    "trainable_parameters",
                    "trainable_percentage",
                    "peak_tensor_mib",
                    "peak_memory_mib",
                    "stopped",
                    "average_accuracy",
                    "forgetting"));
            ObjectNode facts = files.facts();
            for (String key : List.of("trainable_parameters", "planned_tensor_mib", "device")) {
                if (facts.has(key) && !run.hasNonNull(key)) {
                    run.set(key, facts.get(key));
                }
            }
            if (files.hasMetrics()) {
                reader.next(this::again, this::line);
            }
            course(run, facts.path("steps").asInt(options.path("steps").asInt(0)));
            state(run);
        } catch (InputException e) {
            run.put("state", "unreadable").put("problem", e.getMessage());
        }
        return run.put("version", version).put("lines", reader.lines()).put("changed", changed(METRICS));
    }

    /// Its options; those of the whole for a part of a run over several tasks.
    private ObjectNode options() {
        ObjectNode own = JsonFile.read(files.optionsFile());
        return own.isEmpty() && outer != null ? outer.options() : own;
    }

    private void requireOwn() {
        for (String name : READ) {
            Path file = files.path().resolve(name);
            if (Files.isSymbolicLink(file)) {
                throw new InputException(file + ": is a link; links in a run's folder are not followed");
            }
        }
    }

    /// Adds the latest numbers.
    ///
    /// @param total how many steps it is to have; 0 if that is not known
    private void course(ObjectNode run, int total) {
        int last = steps.rows() - 1;
        if (total > 0) {
            run.put("total", total);
        }
        if (last < 0) {
            return;
        }
        int from = Math.max(0, last - RECENT);
        double seconds = steps.at(last, "seconds");
        double now = steps.at(last, "step");
        double taken = (seconds - steps.at(from, "seconds")) / (now - steps.at(from, "step"));
        run.put("step", (int) now).put("seconds", seconds).put("step_seconds", Double.isFinite(taken) ? taken : 0);
        double sum = 0;
        int count = 0;
        for (int row = from; row <= last; row++) {
            double loss = steps.at(row, "loss");
            sum += Double.isFinite(loss) ? loss : 0;
            count += Double.isFinite(loss) ? 1 : 0;
        }
        if (count > 0) {
            run.put("train_loss", sum / count);
        }
        best.forEach(run.putObject("metrics")::put);
        speed(run, last);
    }

    /// Adds the speed of the later half of the steps: in the first half, the JVM still compiles.
    private void speed(ObjectNode run, int last) {
        int half = last / 2;
        double tokens = 0;
        for (int row = half + 1; row <= last; row++) {
            double some = steps.at(row, "tokens");
            tokens += Double.isFinite(some) ? some : 0;
        }
        double perSecond = tokens / (steps.at(last, "seconds") - steps.at(half, "seconds"));
        if (tokens > 0 && Double.isFinite(perSecond)) {
            run.put("tokens_per_second", perSecond);
        }
    }

    private void state(ObjectNode run) {
        if (run.has("stopped")) {
            run.put("state", "ended early").put("note", run.at("/stopped/why").asText());
        } else if (!files.result().isEmpty()) {
            run.put("state", "finished");
        } else if (isTraining(run.path("step_seconds").asDouble())) {
            run.put("state", steps.rows() == 0 ? "starting" : "training");
        } else {
            run.put("state", finite && diverged.isEmpty() ? "stopped" : "diverged");
            if (!diverged.isEmpty()) {
                run.put("note", diverged);
            }
        }
        run.remove("stopped");
    }

    private boolean isTraining(double stepSeconds) {
        return files.isTraining().orElseGet(() -> {
            double silent = (System.currentTimeMillis() - changed(METRICS)) / 1e3;
            return silent < Math.max(SILENT_SECONDS, SILENT_STEPS * stepSeconds);
        });
    }

    /// When a file was last written, in milliseconds; 0 if there is none.
    private long changed(String name) {
        try {
            return Files.getLastModifiedTime(files.path().resolve(name)).toMillis();
        } catch (IOException e) {
            return 0;
        }
    }

    // ---- the course

    private void again() {
        version++;
        steps = Course.steps();
        evaluations = Course.evaluations(List.of());
        metrics = List.of();
        best.clear();
        finite = true;
        diverged = "";
    }

    private void line(JsonNode line) {
        diverged = line.path("diverged").asText();
        if (line.has("eval_loss")) {
            evaluated(line);
            return;
        }
        if (!diverged.isEmpty()) {
            return;
        }
        double loss = number(line, "loss");
        double norm = number(line, "grad_norm");
        finite = Double.isFinite(loss) && Double.isFinite(norm);
        steps.add(
                number(line, "step"),
                loss,
                loss,
                loss,
                number(line, "lr"),
                norm,
                norm,
                norm,
                number(line, "tokens"),
                number(line, "seconds"));
    }

    private void evaluated(JsonNode line) {
        if (metrics.isEmpty()) {
            metrics = line.propertyStream()
                    .filter(e -> e.getKey().startsWith(METRIC) && e.getValue().isNumber())
                    .map(e -> e.getKey().substring(METRIC.length()))
                    .toList();
            evaluations = Course.evaluations(metrics);
        }
        double[] row = new double[2 + metrics.size()];
        row[0] = number(line, "step");
        row[1] = steps.rows() == 0 ? 0 : steps.at(steps.rows() - 1, "seconds");
        for (int m = 0; m < metrics.size(); m++) {
            row[2 + m] = number(line, METRIC + metrics.get(m));
        }
        evaluations.add(row);
        if (line.path("best").asBoolean()) {
            metrics.forEach(name -> best.put(name, number(line, METRIC + name)));
        }
    }

    private static double number(JsonNode line, String key) {
        return line.path(key).isNumber() ? line.get(key).doubleValue() : Double.NaN;
    }

    /// The curves, or only what is new in them to a page that has these rows of them. A page replaces its last row,
    /// which may have stood for fewer steps.
    ///
    /// @param known the version that the page has, how many steps a row stands for there, and its rows of steps and of
    ///     evaluations
    synchronized ObjectNode course(int... known) {
        ObjectNode course = JSON.createObjectNode().put("version", version);
        boolean isKnown = known.length == 5 && known[0] == version;
        int from = isKnown && known[1] == steps.perRow() ? Math.max(0, known[2] - 1) : 0;
        steps.toJson(course.putObject("steps"), Math.min(from, steps.rows()));
        from = isKnown && known[3] == evaluations.perRow() ? Math.max(0, known[4] - 1) : 0;
        evaluations.toJson(course.putObject("evaluations"), Math.min(from, evaluations.rows()));
        return course;
    }

    // ---- what the page shows of one run

    /// Its options, facts and results, answers that were saved in its folder, and the steps that jumped.
    synchronized ObjectNode details() {
        ObjectNode details = JSON.createObjectNode();
        try {
            requireOwn();
            details.set("options", options());
            details.set("facts", files.facts());
            details.set("result", files.result());
            answers(details.putArray("answers"));
            spikes(details.putArray("spikes"));
        } catch (InputException e) {
            details.put("problem", e.getMessage());
        }
        return details;
    }

    /// The first lines of what `loran predict` and `loran eval --answers` wrote into the folder.
    private void answers(ArrayNode all) {
        for (Path file : names(files.path(), "[^.].*\\.jsonl")) {
            if (String.valueOf(file.getFileName()).equals(METRICS)) {
                continue;
            }
            ArrayNode rows = JSON.createArrayNode();
            try (BufferedReader lines = Files.newBufferedReader(file, StandardCharsets.UTF_8)) {
                String line = lines.readLine();
                while (line != null && line.length() < LONGEST_LINE && rows.size() < MOST_ANSWERS) {
                    if (JSON.readTree(line) instanceof ObjectNode row && (row.has("answer") || row.has("label"))) {
                        row.put("text", asked(row));
                        rows.add(row.retain("text", "text_pair", "answer", "ended", "label", "probability"));
                    }
                    line = lines.readLine();
                }
            } catch (JsonProcessingException e) {
                // Not a file of answers, or one that is being written: what was read so far is shown.
            } catch (IOException e) {
                throw InputException.io(file, "cannot be read", e);
            }
            if (!rows.isEmpty()) {
                all.addObject()
                        .put("file", String.valueOf(file.getFileName()))
                        .put("changed", changed(String.valueOf(file.getFileName())))
                        .set("rows", rows);
            }
        }
    }

    /// The text that a row asks about: of a chat, what was said last before the answer.
    private static String asked(ObjectNode row) {
        for (String field : List.of("text", "source", "prompt", "instruction")) {
            if (row.path(field).isTextual()) {
                String input = field.equals("instruction") ? row.path("input").asText("") : "";
                return row.path(field).asText() + (input.isBlank() ? "" : "\n" + input);
            }
        }
        String said = "";
        for (String field : List.of("prompt", "messages", "conversations")) {
            for (JsonNode message : row.path(field)) {
                boolean answers = ChatTask.role(message).equals("assistant");
                said = answers
                        ? said
                        : message.path("content").asText(message.path("value").asText());
            }
        }
        return said;
    }

    private void spikes(ArrayNode all) {
        for (Path file : names(files.spikes(), "step-\\d{1,9}\\.json")) {
            ObjectNode spike = JsonFile.read(file);
            spike.path("rows").forEach(row -> ((ObjectNode) row).retain("row", "texts"));
            all.add(spike);
        }
    }

    /// The plain files in `folder` whose names are like this, in the order of their names.
    private static List<Path> names(Path folder, String pattern) {
        if (!Files.isDirectory(folder, LinkOption.NOFOLLOW_LINKS)) {
            return List.of();
        }
        try (Stream<Path> all = Files.list(folder)) {
            return all.filter(f -> String.valueOf(f.getFileName()).matches(pattern)
                            && Files.isRegularFile(f, LinkOption.NOFOLLOW_LINKS))
                    .sorted()
                    .toList();
        } catch (IOException e) {
            throw InputException.io(folder, "cannot be read", e);
        }
    }

    /// What `loran doctor` finds in it.
    ///
    /// @param usual the learning rates that are usual for a method
    synchronized ObjectNode diagnosis(Function<String, UsualRates> usual) {
        String now = String.join(" ", READ.stream().map(this::stamp).toList());
        if (now.equals(diagnosed)) {
            return diagnosis;
        }
        ObjectNode json = JSON.createObjectNode();
        try {
            requireOwn();
            String method = JsonFile.read(files.optionsFile()).path("method").asText("");
            if (outer != null || Files.isDirectory(files.task(1))) {
                json.putArray("findings");
                json.putArray("not_checked").add("runs over several tasks");
            } else {
                Diagnosis found = Diagnosis.of(files, usual.apply(method));
                json.putArray("findings")
                        .addAll(found.findings().stream().map(Finding::toJson).toList());
                json.set("not_checked", JSON.valueToTree(found.notChecked()));
            }
        } catch (InputException e) {
            json.put("problem", e.getMessage());
        }
        diagnosed = now;
        diagnosis = json;
        return json;
    }

    private String stamp(String name) {
        try {
            BasicFileAttributes file = Files.readAttributes(
                    files.path().resolve(name), BasicFileAttributes.class, LinkOption.NOFOLLOW_LINKS);
            return file.lastModifiedTime() + "/" + file.size();
        } catch (IOException e) {
            return "-";
        }
    }
}
