package dev.loran.peft.cli;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.cli.console.Output;
import dev.loran.peft.cli.report.Results;
import dev.loran.peft.io.JsonFile;
import dev.loran.peft.seo.Baselines;
import dev.loran.peft.seo.SeoTask;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Unmatched;

/// `loran example`: the tasks of search engine optimization whose rows come with Loran. It writes the rows to files,
/// and then runs `loran compare` on these, and `loran eval` where texts are generated.
@Command(
        name = "example",
        description = {
            "Trains on one of the tasks of search engine optimization whose rows come with Loran; without a name, "
                    + "lists them.",
            "Shows what each method comes to on rows held out, beside what can be had without a model, and without "
                    + "fine-tuning one. The folder gets the rows with their data card (data/), the report and the run "
                    + "of each method (compare/), and all numbers (results.json)."
        },
        sortOptions = false,
        footer = {
            "",
            "All other options are those of loran compare; they stand behind the name. Defaults are --methods lora "
                    + "and, where texts are written, --targets all-linear --rank 32.",
            "",
            "Example: loran example page-type --methods lora,adalora,p-tuning,prefix,adapter"
        })
final class ExampleCommand implements Callable<Integer> {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final String RESULTS = "results.json";
    private static final String ANSWERS = "answers.jsonl";
    private static final List<String> SHOWN =
            List.of("accuracy", "rouge_l", "mean_chars", "ended", "within_limit", "perplexity");

    /// How texts are generated, so that they keep to the words of the page and do not repeat them: of a few values, what
    /// gave LoRA's titles the highest ROUGE-L.
    private static final List<String> GENERATION = List.of("--encoder-repetition-penalty=1.3", "--frequency-penalty=3");

    private final Output output;

    @Parameters(index = "0", arity = "0..1", paramLabel = "NAME", description = "which task")
    private @Nullable String name;

    @Option(names = "--data-only", description = "write the rows and their data card, and train nothing")
    private boolean dataOnly;

    @Option(
            names = "--out",
            paramLabel = "DIR",
            description = "where the files go; goes on with what is there (loran-example-NAME)")
    private @Nullable Path out;

    @Option(
            names = {"-h", "--help"},
            usageHelp = true,
            description = "show this help")
    boolean help;

    @Option(names = "--json", description = "print the result as one JSON object on the last line")
    private boolean json;

    @Unmatched
    private List<String> shared = new ArrayList<>();

    ExampleCommand(Output output) {
        this.output = output;
    }

    @Override
    public Integer call() {
        if (name == null) {
            output.table(Stream.concat(
                            Stream.of(List.of("example", "rows", "held out", "what is asked for")),
                            Stream.of(SeoTask.values())
                                    .map(t -> List.of(
                                            t.toString(),
                                            "%,d".formatted(t.train().size()),
                                            "%,d".formatted(t.heldOut().size()),
                                            t.summary())))
                    .toList());
            return Main.DONE;
        }
        SeoTask task = SeoTask.named(name);
        Path folder = out == null ? Path.of("loran-example-" + task) : out;
        Path data = folder.resolve("data");
        List<String> arguments = arguments(task, data, folder.resolve("compare"));
        CommandLine compare = command(new CompareCommand(output), "compare");
        compare.parseArgs(Main.readConfig(compare, arguments).toArray(String[]::new));
        task.write(data);
        output.say(task.origin().replaceAll("\\s+", " ").strip());
        if (dataOnly) {
            output.say("the rows are in " + data);
            return Main.DONE;
        }
        ObjectNode result = JSON.createObjectNode().put("example", task.toString());
        ArrayNode lines = result.putArray(Results.METHODS);
        Baselines.of(task).forEach((baseline, metrics) -> {
            ObjectNode line = lines.addObject().put("method", baseline);
            metrics.forEach(line::put);
        });
        show(lines);
        return train(task, folder, compare, result, lines);
    }

    /// Compares the methods, and then lets the best of each generate.
    private int train(SeoTask task, Path folder, CommandLine compare, ObjectNode result, ArrayNode lines) {
        List<String> model = model(compare);
        Path data = folder.resolve("data");
        ObjectNode frozen = frozen(task, compare, data);
        SHOWN.stream()
                .filter(frozen::has)
                .forEach(metric ->
                        output.say("frozen model: %s %s".formatted(metric, Output.shown(frozen.get(metric)))));
        lines.add(frozen);
        int code = compare.<CompareCommand>getCommand().call();
        if (code != Main.DONE) {
            return code;
        }
        for (JsonNode method :
                JsonFile.read(folder.resolve("compare").resolve(Results.FILE)).path(Results.METHODS)) {
            ObjectNode line = method.deepCopy();
            line.retain("method", "trainable_parameters", "trainable_percentage", "steps", "seconds", "loss");
            SHOWN.forEach(metric -> {
                if (method.has(metric)) {
                    line.set(metric, method.get(metric));
                }
            });
            if (task.maxChars() > 0) {
                Path run =
                        folder.resolve("compare").resolve(method.path("method").asText());
                line.setAll(
                        evaluated(task, data, model, List.of("--adapter=" + run, "--answers=" + run.resolve(ANSWERS))));
            }
            lines.add(line);
        }
        JsonFile.write(folder.resolve(RESULTS), result);
        show(lines);
        output.say("the report: " + folder.resolve("compare/report.html"));
        if (json) {
            output.out().println(result);
        }
        return Main.DONE;
    }

    /// The command line of the comparison.
    private List<String> arguments(SeoTask task, Path data, Path to) {
        List<String> arguments = new ArrayList<>(List.of(
                "--model=" + (task.maxChars() == 0 ? "minilm" : "loran-tiny"),
                "--methods=lora",
                "--max-length=" + task.maxLength()));
        if (task.maxChars() > 0) {
            // A model as small as loran-tiny learns to write for a task only with most of its matrices adapted.
            arguments.addAll(List.of("--targets=all-linear", "--rank=32"));
        }
        arguments.addAll(shared);
        arguments.addAll(List.of(
                "--task=" + task.task().name(),
                "--train=" + data.resolve(SeoTask.TRAIN),
                "--eval=" + data.resolve(SeoTask.HELD_OUT),
                "--out=" + to));
        return arguments;
    }

    /// The options of the comparison that say how a model runs.
    private static List<String> model(CommandLine compare) {
        return Stream.of("model", "device", "dtype", "threads", "tokenizer", "batch-size", "max-length")
                .filter(option ->
                        compare.getCommandSpec().findOption("--" + option).getValue() != null)
                .map(option -> "--" + option + "="
                        + compare.getCommandSpec().findOption("--" + option).getValue())
                .toList();
    }

    /// What the model does without being fine-tuned: with a head on the frozen model, or as it is.
    private ObjectNode frozen(SeoTask task, CommandLine compare, Path data) {
        ObjectNode line = JSON.createObjectNode().put("method", "frozen model");
        if (task.maxChars() > 0) {
            return line.setAll(evaluated(task, data, model(compare), List.of("--task", "generate")));
        }
        return line.setAll(compare.<CompareCommand>getCommand().probed());
    }

    /// What `loran eval` says of generated texts.
    private ObjectNode evaluated(SeoTask task, Path data, List<String> model, List<String> more) {
        CommandLine eval = command(new EvalCommand(output), "eval");
        List<String> arguments = new ArrayList<>(model);
        arguments.addAll(more);
        arguments.addAll(GENERATION);
        arguments.addAll(List.of("--data=" + data.resolve(SeoTask.HELD_OUT), "--max-chars=" + task.maxChars()));
        eval.parseArgs(arguments.toArray(String[]::new));
        return eval.<EvalCommand>getCommand()
                .evaluated()
                .retain("loss", "perplexity", "rouge_l", "mean_chars", "ended", "within_limit");
    }

    private static CommandLine command(Object of, String name) {
        CommandLine command = new CommandLine(of);
        command.getCommandSpec().name("loran " + name);
        return command.setOverwrittenOptionsAllowed(true);
    }

    private void show(ArrayNode lines) {
        List<String> metrics = SHOWN.stream()
                .filter(metric -> lines.valueStream().anyMatch(line -> line.has(metric)))
                .toList();
        List<List<String>> rows = new ArrayList<>();
        rows.add(Stream.of(Stream.of("method"), metrics.stream().map(m -> m.replace('_', ' ')), Stream.of("trainable"))
                .flatMap(s -> s)
                .toList());
        for (JsonNode line : lines) {
            rows.add(Stream.of(
                            Stream.of(line.path("method").asText()),
                            metrics.stream().map(m -> line.has(m) ? Output.shown(line.get(m)) : "-"),
                            Stream.of(
                                    line.has("trainable_parameters")
                                            ? Output.shown(line.get("trainable_parameters"))
                                            : "-"))
                    .flatMap(s -> s)
                    .toList());
        }
        output.table(rows);
    }
}
