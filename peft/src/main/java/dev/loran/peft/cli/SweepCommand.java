package dev.loran.peft.cli;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.io.InputException;
import dev.loran.peft.io.JsonFile;
import dev.loran.peft.task.Metric;
import dev.loran.peft.task.Task;
import dev.loran.peft.train.RunFolder;
import java.io.PrintStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
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
                    + "go to every run; --eval is needed. A sweep that was killed goes on by the same command: "
                    + "finished runs are kept, a half-done one goes on from its checkpoint."
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

    private static final List<String> NOT_VARIED =
            List.of("out", "overwrite", "train", "eval", "task", "resume", "config", "json", "help");

    private final Output output;

    @Option(
            names = "--grid",
            paramLabel = "NAME=V,…",
            description = "an option of loran train and its values, or lowest..highest to draw from; may be repeated")
    private List<String> grid = List.of();

    @Option(
            names = "--space",
            paramLabel = "FILE",
            description = "the same as JSON: an object of options' names with lists of values, or \"lowest..highest\"")
    private @Nullable Path space;

    @Option(
            names = "--random",
            paramLabel = "N",
            description = "draw so many combinations, by --seed, instead of trying all")
    private @Nullable Integer random;

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

    SweepCommand(Output output) {
        this.output = output;
    }

    /// A run: its folder, and the command line that starts it.
    private record Run(Map<String, String> values, Path folder, List<String> arguments) {
        boolean isDone() {
            return Files.isRegularFile(folder.resolve(RunFolder.RESULT));
        }
    }

    @Override
    public Integer call() {
        Map<String, SweepSpace.Values> varied = varied();
        if (shared.stream().anyMatch(a -> a.startsWith("--resume"))) {
            throw new InputException("--resume is for one run; a sweep goes on by itself");
        }
        if (shared.contains("--overwrite")) {
            throw new InputException(
                    "--overwrite is for one run; a sweep replaces nothing: choose another folder (--out)");
        }
        // Errors that affect all runs are reported before anything starts.
        CommandLine train = train();
        parse(train, shared);
        Map<String, Object> options = CommonOptions.resolved(train.getCommandSpec());
        if (!options.containsKey("eval")) {
            throw new InputException("--eval is missing: runs are compared by what they reach on held-out rows");
        }
        long seed = train.getCommandSpec().findOption("--seed").getValue();
        List<Run> runs = new ArrayList<>();
        for (Map<String, String> values :
                random == null ? SweepSpace.all(varied) : SweepSpace.drawn(varied, random, seed)) {
            Run run = run(values);
            parse(train(), run.arguments);
            runs.add(run);
        }
        options.keySet().removeAll(varied.keySet());
        CommonOptions.requireSame(out.resolve(SHARED), "sweep", false, options);
        return report(runs, Task.named(String.valueOf(options.get("task"))).headline());
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
        CommonOptions.requireKnown("", varied.keySet(), known, "options that a sweep can vary");
        return varied;
    }

    private CommandLine train() {
        CommandLine train = new CommandLine(new TrainCommand(new Output(
                new PrintStream(PrintStream.nullOutputStream()), output.err(), output.terminal(), output.stop())));
        train.getCommandSpec().name("loran train");
        return train.setOverwrittenOptionsAllowed(true);
    }

    private static void parse(CommandLine train, List<String> arguments) {
        Main.readConfig(train, arguments);
        train.parseArgs(arguments.toArray(String[]::new));
    }

    private Run run(Map<String, String> values) {
        List<String> arguments = new ArrayList<>(shared);
        values.forEach((name, value) -> arguments.add("--" + name + "=" + value));
        Path folder = out.resolve(SweepSpace.name(values));
        arguments.add("--out=" + folder);
        return new Run(values, folder, arguments);
    }

    // ---- running

    private int report(List<Run> runs, Metric headline) {
        List<ObjectNode> results = new ArrayList<>();
        for (int i = 0; i < runs.size(); i++) {
            Run run = runs.get(i);
            output.say("run %d of %d: %s%s"
                    .formatted(i + 1, runs.size(), run.folder.getFileName(), run.isDone() ? ", done already" : ""));
            results.add(result(run));
            if (output.stop().isAsked()) {
                output.say("the sweep stopped; it goes on by the same command");
                return Main.STOPPED;
            }
        }
        results.sort(bestFirst(headline));
        ObjectNode report = JSON.createObjectNode();
        ArrayNode all = report.putArray("runs").addAll(results);
        ObjectNode best = results.getFirst();
        boolean any = !best.has("error");
        report.set("best", any ? best.get("run") : null);
        JsonFile.write(out.resolve("report.json"), report);
        output.table(table(runs.getFirst().values.keySet().stream().toList(), headline.name(), all));
        if (json) {
            output.out().println(report);
        }
        return any ? Main.DONE : Main.INPUT_ERROR;
    }

    /// Successful runs before failed ones, then by the task's main metric, then by loss.
    private static Comparator<ObjectNode> bestFirst(Metric headline) {
        String key = "eval_" + headline.name();
        return Comparator.<ObjectNode>comparingInt(r -> r.has("error") ? 1 : 0)
                .thenComparingDouble(
                        r -> (headline.higherIsBetter() ? -1 : 1) * r.path(key).asDouble(0))
                .thenComparingDouble(r -> r.path("eval_loss").asDouble(0));
    }

    /// The result of a run, which is trained, or resumed, if it is not finished. A run that fails or diverges does not
    /// prevent the others.
    private ObjectNode result(Run run) {
        ObjectNode result = JSON.createObjectNode();
        run.values.forEach(result.putObject("options")::put);
        result.put("run", run.folder.toString());
        try {
            if (!run.isDone()) {
                CommandLine train = train();
                parse(train, begun(run));
                train.<TrainCommand>getCommand().call();
            }
            return result.setAll(JsonFile.read(run.folder.resolve(RunFolder.RESULT)));
        } catch (InputException e) {
            output.say(String.valueOf(e.getMessage()));
            return result.put("error", e.getMessage());
        }
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
            line.add(r.path("run").asText()
                    + (r.has("error") ? ": " + r.path("error").asText() : ""));
            lines.add(line);
        }
        return lines;
    }

    private static String rounded(JsonNode value, int digits) {
        return value.isNumber() ? String.format(Locale.ROOT, "%." + digits + "f", value.asDouble()) : "-";
    }
}
