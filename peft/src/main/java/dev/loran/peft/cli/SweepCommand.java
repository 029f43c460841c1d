package dev.loran.peft.cli;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.cli.console.Output;
import dev.loran.peft.cli.options.CommonOptions;
import dev.loran.peft.cli.report.Report;
import dev.loran.peft.cli.report.Results;
import dev.loran.peft.cli.sweep.EarlyStopping;
import dev.loran.peft.cli.sweep.SweepSpace;
import dev.loran.peft.io.InputException;
import dev.loran.peft.io.JsonFile;
import dev.loran.peft.task.Metric;
import dev.loran.peft.task.Task;
import dev.loran.peft.train.DivergedException;
import dev.loran.peft.train.RunFolder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.Callable;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Option;
import picocli.CommandLine.Unmatched;

/// `loran sweep`: runs of `loran train`, one for each combination of option values. The training itself is in `train`.
@Command(
        name = "sweep",
        description = {
            "Trains once for each combination of values, and sorts the runs by what they reach on held-out "
                    + "rows: accuracy to classify, else loss.",
            "Each run is in a folder of its own below --out. All other options are those of loran train, and "
                    + "go to every run; --eval or --split is needed. A sweep that was killed goes on by the same "
                    + "command: finished runs are kept, a half-done one goes on from its checkpoint.",
            "With --halving or --median-stopping, runs end early that do worse than others; their results say "
                    + "after which step, and why."
        },
        sortOptions = false,
        footer = {
            "",
            "Example: loran sweep --model minilm --task classify --train pages.jsonl --eval held-out.jsonl \\",
            "           --grid lr=1e-4,3e-4,1e-3 --grid rank=4,8 --grid method=lora,dora --out sweep",
            "Drawn:   … --grid lr=1e-5..1e-2 --grid rank=4,8,16 --random 10 --seed 1"
        })
final class SweepCommand implements Callable<Integer> {
    private static final ObjectMapper JSON = new ObjectMapper();
    /// The file with the options that all runs share.
    private static final String SHARED = "sweep.json";

    private static final List<String> NOT_VARIED = List.of(
            "out",
            "overwrite",
            "train",
            "eval",
            "split",
            "format",
            "columns",
            "task",
            "resume",
            "config",
            "json",
            "set",
            "help");

    private final Output output;

    @Option(
            names = "--grid",
            paramLabel = "NAME=V,…",
            description =
                    "an option of loran train (or set.FIELD) and its values, or lowest..highest to draw from; may be "
                            + "repeated")
    private List<String> grid = List.of();

    @Option(
            names = "--space",
            paramLabel = "FILE",
            description = "the same as JSON or YAML: options' names with lists of values, or \"lowest..highest\"")
    private @Nullable Path space;

    @Option(
            names = "--random",
            paramLabel = "N",
            description = "draw so many combinations, by --seed, instead of trying all")
    private @Nullable Integer random;

    @Option(
            names = "--one-pass",
            paramLabel = "N",
            description = "train up to N runs at once in one pass over one model in memory, where they differ only in "
                    + "the method (lora, dora, adalora, adapter, ia3), its sizes and its optimizer; each gets the same "
                    + "results as alone")
    private int onePass = 1;

    @Option(
            names = "--halving",
            paramLabel = "ETA",
            description = "successive halving: train all for a part of their steps, the best 1/ETA for ETA times as "
                    + "many, and so on")
    private @Nullable Integer halving;

    @Option(
            names = "--median-stopping",
            description = "stop a run whose best evaluation is worse than the median of the others so far")
    private boolean medianStopping;

    @Option(names = "--out", paramLabel = "DIR", description = "where the runs' folders go (${DEFAULT-VALUE})")
    private Path out = Path.of("loran-sweep");

    @Option(
            names = {"-h", "--help"},
            usageHelp = true,
            description = "show this help")
    boolean help;

    @Option(names = "--json", description = "print the result as one JSON object on the last line")
    private boolean json;

    @Unmatched
    private List<String> shared = new ArrayList<>();

    private final Map<Run, String> errors = new HashMap<>();
    /// What runs that are not finished have reached.
    private final Map<Run, ObjectNode> paused = new HashMap<>();

    SweepCommand(Output output) {
        this.output = output;
    }

    /// A run: its folder, and the command line that starts it.
    private record Run(Map<String, String> values, Path folder, List<String> arguments) {
        String name() {
            return String.valueOf(folder.getFileName());
        }

        boolean isDone() {
            return Files.isRegularFile(folder.resolve(RunFolder.RESULT));
        }
    }

    @Override
    public Integer call() {
        Map<String, SweepSpace.Values> varied = varied();
        if (shared.stream().anyMatch(a -> a.startsWith("--resume"))) {
            throw new InputException("--resume is for one run; a sweep goes on by the same command: leave it out");
        }
        if (shared.contains("--overwrite")) {
            throw new InputException(
                    "--overwrite is for one run; a sweep replaces nothing: choose another folder (--out)");
        }
        // Errors that affect all runs are reported before anything starts.
        CommandLine train = train();
        parse(train, shared);
        Map<String, Object> options = CommonOptions.resolved(train.getCommandSpec());
        if (!options.containsKey("eval") && !options.containsKey("split")) {
            throw new InputException(
                    "--eval or --split is missing: runs are compared by what they reach on held-out rows");
        }
        long seed = train.getCommandSpec().findOption("--seed").getValue();
        List<Run> runs = new ArrayList<>();
        for (Map<String, String> values :
                random == null ? SweepSpace.all(varied) : SweepSpace.drawn(varied, random, seed)) {
            Run run = run(values);
            parse(train(), run.arguments);
            runs.add(run);
        }
        if (onePass < 1) {
            throw new InputException("--one-pass " + onePass + " must be at least 1");
        }
        Task task = Task.named(String.valueOf(options.get("task")));
        EarlyStopping stopping = new EarlyStopping(halving, medianStopping, task, runs.size());
        options.keySet().removeAll(varied.keySet());
        if (halving != null) {
            options.put("halving", halving);
        }
        if (medianStopping) {
            options.put("median-stopping", true);
        }
        CommonOptions.requireSame(out.resolve(SHARED), "sweep", false, options);
        for (Run run : runs) {
            RunFolder folder = new RunFolder(run.folder);
            if (folder.hasMetrics()) {
                stopping.read(run.name(), folder.metrics());
            }
        }
        runs.stream()
                .filter(Run::isDone)
                .forEach(run -> output.say(
                        "run %d of %d: %s, done already".formatted(runs.indexOf(run) + 1, runs.size(), run.name())));
        if (!train(runs, stopping)) {
            output.say("the sweep stopped; it goes on by the same command");
            return Main.STOPPED;
        }
        return report(runs, task);
    }

    /// The options to vary and their values, first from `--space`, then from each `--grid`.
    private Map<String, SweepSpace.Values> varied() {
        Map<String, SweepSpace.Values> varied = new LinkedHashMap<>(space == null ? Map.of() : SweepSpace.read(space));
        for (String line : grid) {
            String[] parts = line.split("=", 2);
            if (parts.length < 2) {
                throw new InputException("--grid " + line + ": needs a name and values, as lr=1e-4,3e-4");
            }
            varied.put(
                    parts[0].strip(),
                    SweepSpace.Values.of(parts[0], List.of(parts[1].strip().split("\\s*,\\s*", -1))));
        }
        if (varied.isEmpty()) {
            throw new InputException(
                    "nothing varies; say which options do, as --grid lr=1e-4,3e-4 or in a --space file");
        }
        List<String> known = train().getCommandSpec().options().stream()
                .map(CommonOptions::name)
                .filter(name -> !NOT_VARIED.contains(name))
                .toList();
        Set<String> options = new TreeSet<>(varied.keySet());
        // Fields of the method's configuration are checked with the rest of a run's command line.
        options.removeIf(name -> name.startsWith("set."));
        CommonOptions.requireKnown("", options, known, "options that a sweep can vary");
        return varied;
    }

    private CommandLine train() {
        CommandLine train = new CommandLine(new TrainCommand(output.withoutResults()));
        train.getCommandSpec().name("loran train");
        return train.setOverwrittenOptionsAllowed(true);
    }

    private static void parse(CommandLine train, List<String> arguments) {
        train.parseArgs(Main.readConfig(train, arguments).toArray(String[]::new));
        train.<TrainCommand>getCommand().requireSettings();
    }

    private Run run(Map<String, String> values) {
        List<String> arguments = new ArrayList<>(shared);
        values.forEach((name, value) -> arguments.add("--" + name.replaceFirst("^set\\.", "set=") + "=" + value));
        Path folder = out.resolve(SweepSpace.name(values));
        arguments.add("--out=" + folder);
        return new Run(values, folder, arguments);
    }

    // ---- running

    /// Trains all runs until each is finished, has failed, or is stopped for those that do better.
    ///
    /// @return whether that is so; false if the sweep was asked to stop
    private boolean train(List<Run> runs, EarlyStopping stopping) {
        List<Run> left = runs;
        int keep = runs.size();
        for (int cut = 0; cut <= stopping.cuts(); cut++) {
            stopping.begin(cut);
            List<List<Run>> passes = passes(left.stream().filter(this::isOpen).toList());
            for (List<Run> pass : passes) {
                train(pass, stopping, runs);
                if (output.stop().isAsked()) {
                    return false;
                }
            }
            left = left.stream().filter(run -> !errors.containsKey(run)).toList();
            if (cut < stopping.cuts()) {
                Map<String, String> out =
                        stopping.cut(left.stream().map(Run::name).toList(), keep);
                left.stream()
                        .filter(run -> isOpen(run) && out.containsKey(run.name()))
                        .forEach(run -> stop(run, stopping, String.valueOf(out.get(run.name()))));
                left = left.stream().filter(run -> !out.containsKey(run.name())).toList();
                keep = Math.max(1, keep / Objects.requireNonNull(halving));
            }
        }
        return true;
    }

    private boolean isOpen(Run run) {
        return !run.isDone() && !errors.containsKey(run);
    }

    /// The runs in groups, each of which trains in one pass.
    private List<List<Run>> passes(List<Run> runs) {
        Map<String, List<Run>> byCommon = new LinkedHashMap<>();
        for (Run run : runs) {
            CommandLine train = train();
            parse(train, run.arguments);
            String common = onePass == 1 ? null : OnePass.common(run.values, train.getCommand());
            byCommon.computeIfAbsent(common == null ? "alone " + run.name() : common, c -> new ArrayList<>())
                    .add(run);
        }
        List<List<Run>> passes = new ArrayList<>();
        for (List<Run> some : byCommon.values()) {
            for (int from = 0; from < some.size(); from += onePass) {
                passes.add(some.subList(from, Math.min(some.size(), from + onePass)));
            }
        }
        return passes;
    }

    /// Trains, or resumes, the runs of a pass. A run that fails or diverges does not prevent the others.
    private void train(List<Run> pass, EarlyStopping stopping, List<Run> all) {
        List<String> names = pass.stream().map(Run::name).toList();
        List<TrainCommand> commands = new ArrayList<>();
        for (Run run : pass) {
            CommandLine train = train();
            parse(train, begun(run));
            commands.add(train.<TrainCommand>getCommand().observedBy(stopping.of(run.name())));
        }
        if (pass.size() == 1) {
            output.say("run %d of %d: %s".formatted(all.indexOf(pass.getFirst()) + 1, all.size(), names.getFirst()));
            attempt(pass.getFirst(), () -> commands.getFirst().call());
        } else {
            output.say("%d of %d runs in one pass: %s".formatted(pass.size(), all.size(), String.join("; ", names)));
            OnePass together = new OnePass(output);
            for (int i = 0; i < pass.size(); i++) {
                together.add(names.get(i), commands.get(i));
            }
            try {
                together.train();
            } catch (InputException e) {
                output.say(e.getMessage() + "; these runs train one after the other");
                pass.forEach(run -> train(List.of(run), stopping, all));
                return;
            }
            for (int i = 0; i < pass.size(); i++) {
                RuntimeException failure = together.failure(i);
                if (failure != null) {
                    fail(pass.get(i), failure);
                }
            }
        }
        for (int i = 0; i < pass.size(); i++) {
            ObjectNode reached = commands.get(i).reached();
            if (reached != null) {
                paused.put(pass.get(i), reached);
            }
            String why = stopping.stopped(names.get(i));
            if (why != null && isOpen(pass.get(i))) {
                stop(pass.get(i), stopping, why);
            }
        }
    }

    private void attempt(Run run, Runnable training) {
        try {
            training.run();
        } catch (InputException | DivergedException e) {
            fail(run, e);
        }
    }

    private void fail(Run run, RuntimeException e) {
        output.say(String.valueOf(e.getMessage()));
        errors.put(run, String.valueOf(e.getMessage()));
    }

    /// Ends a run that is not finished: its result is what it has reached.
    private void stop(Run run, EarlyStopping stopping, String why) {
        ObjectNode reached = paused.get(run);
        if (reached == null) {
            // It paused before the sweep was killed.
            CommandLine train = train();
            parse(train, begun(run));
            TrainCommand command = train.<TrainCommand>getCommand().observedBy(stopping.of(run.name()));
            attempt(run, command::call);
            reached = command.reached();
        }
        if (reached != null) {
            output.say("%s is stopped after step %d: %s"
                    .formatted(run.name(), reached.path("steps").asInt(), why));
            reached.putObject("stopped")
                    .put("step", reached.path("steps").asInt())
                    .put("why", why);
            new RunFolder(run.folder).result(reached);
        }
    }

    private int report(List<Run> runs, Task task) {
        List<ObjectNode> results = new ArrayList<>();
        runs.forEach(run -> results.add(result(run)));
        Metric headline = task.headline(name -> results.stream().anyMatch(r -> r.has("eval_" + name)));
        results.sort(bestFirst(headline));
        ObjectNode report = JSON.createObjectNode();
        ArrayNode all = report.putArray("runs").addAll(results);
        ObjectNode best = results.getFirst();
        boolean any = !best.has("error");
        report.set("best", any ? best.get("run") : null);
        JsonFile.write(out.resolve("report.json"), report);
        page(results);
        output.table(table(runs.getFirst().values.keySet().stream().toList(), headline.name(), all));
        if (json) {
            output.out().println(report);
        }
        return any ? Main.DONE : Main.INPUT_ERROR;
    }

    /// Writes `report.html` about the runs that have results.
    private void page(List<ObjectNode> results) {
        List<ObjectNode> good = results.stream().filter(r -> !r.has("error")).toList();
        if (good.isEmpty()) {
            return;
        }
        ObjectNode page = Results.of(
                good.stream().map(r -> Path.of(r.path("run").asText())).toList());
        for (int i = 0; i < good.size(); i++) {
            ((ObjectNode) page.path(Results.METHODS).get(i))
                    .set(Results.OPTIONS, good.get(i).get("options"));
        }
        Report.write(out, page);
        output.say("the report: " + out.resolve(Report.PAGE));
    }

    /// Successful runs before failed ones, then by the task's main metric, then by loss.
    private static Comparator<ObjectNode> bestFirst(Metric headline) {
        String key = "eval_" + headline.name();
        return Comparator.<ObjectNode>comparingInt(r -> r.has("error") ? 1 : 0)
                .thenComparingDouble(
                        r -> (headline.higherIsBetter() ? -1 : 1) * r.path(key).asDouble(0))
                .thenComparingDouble(r -> r.path("eval_loss").asDouble(0));
    }

    private ObjectNode result(Run run) {
        ObjectNode result = JSON.createObjectNode();
        run.values.forEach(result.putObject("options")::put);
        result.put("run", run.folder.toString());
        String error = errors.get(run);
        return error != null
                ? result.put("error", error)
                : result.setAll(JsonFile.read(run.folder.resolve(RunFolder.RESULT)));
    }

    /// The command line of a run: it resumes a run that has begun, unless the run was killed before its options were
    /// stored.
    private static List<String> begun(Run run) {
        if (!RunFolder.isRun(run.folder)) {
            return run.arguments;
        }
        return RunFolder.resume(run.folder).hasOptions()
                ? List.of("--resume", run.folder.toString())
                : Stream.concat(run.arguments.stream(), Stream.of("--overwrite"))
                        .toList();
    }

    private static List<List<String>> table(List<String> varied, String headline, ArrayNode results) {
        List<List<String>> lines = new ArrayList<>();
        List<String> head = new ArrayList<>(varied);
        head.addAll(List.of("loss", headline.replace('_', ' '), "trainable", "seconds", "run"));
        lines.add(head);
        for (JsonNode r : results) {
            List<String> line = new ArrayList<>();
            varied.forEach(name -> line.add(r.path("options").path(name).asText()));
            line.add(rounded(r.path("eval_loss"), 4));
            line.add(rounded(r.path("eval_" + headline), 4));
            line.add(r.has("error") ? "-" : Output.shown(r.path("trainable_parameters")));
            line.add(rounded(r.path("seconds"), 1));
            String note = r.has("stopped")
                    ? "stopped after step " + r.at("/stopped/step").asInt()
                    : r.path("error").asText();
            line.add(r.path("run").asText() + (note.isEmpty() ? "" : ": " + note));
            lines.add(line);
        }
        return lines;
    }

    private static String rounded(JsonNode value, int digits) {
        return value.isNumber() ? String.format(Locale.ROOT, "%." + digits + "f", value.asDouble()) : "-";
    }
}
