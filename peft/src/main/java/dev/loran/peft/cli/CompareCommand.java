package dev.loran.peft.cli;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.peft.cli.console.Output;
import dev.loran.peft.cli.console.Progress;
import dev.loran.peft.cli.options.CommonOptions;
import dev.loran.peft.cli.options.DataOptions;
import dev.loran.peft.cli.options.OutOptions;
import dev.loran.peft.cli.report.Report;
import dev.loran.peft.cli.report.Results;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.DataLoader;
import dev.loran.peft.data.Examples;
import dev.loran.peft.io.InputException;
import dev.loran.peft.io.JsonFile;
import dev.loran.peft.model.TaskType;
import dev.loran.peft.task.Evaluation;
import dev.loran.peft.task.Metric;
import dev.loran.peft.task.Task;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.train.LinearProbe;
import dev.loran.peft.train.MemoryPlan;
import dev.loran.peft.train.RunFolder;
import dev.loran.peft.train.TaskModel;
import dev.loran.peft.train.Trainer;
import dev.loran.peft.train.TrainerConfig;
import dev.loran.peft.train.TrainingReport;
import dev.loran.peft.tuner.AdapterFiles;
import dev.loran.peft.tuner.BottleneckConfig;
import dev.loran.peft.tuner.LoraConfig;
import dev.loran.peft.tuner.PeftConfig;
import dev.loran.peft.tuner.PeftModel;
import dev.loran.peft.tuner.PeftModel.ParameterCount;
import dev.loran.peft.watch.ProcessMemory;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.Callable;
import java.util.function.IntFunction;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/// `loran compare`.
@Command(
        name = "compare",
        description = {
            "Trains a model by several methods, and puts side by side what they cost and what they gain.",
            "Each method has its own usual learning rate; all have the same rows and the same number of steps "
                    + "(the longest of their usual durations). Measured are trainable parameters, size of the file, "
                    + "most memory that tensors took (planned and measured), and the process with them (what the JVM "
                    + "took for the methods before stays in it; - where the system does not count it), speed of the "
                    + "later half of training, time to answer one text (with the adapter beside the weights, and "
                    + "merged into them where that can be), loss and accuracy on held-out rows after the epoch with "
                    + "the lowest loss. A new head learns at one rate for all methods (--head-lr, 5e-3).",
            "The folder gets a page with figures (report.html), the figures (plots/), all numbers "
                    + "(results.json), and the run of each method. A comparison that was stopped goes on by the same "
                    + "command, with its --out; so does one that gets more --methods."
        },
        sortOptions = false,
        footer = {"", "Example: loran compare --quick --methods full,lora,adalora,prefix"})
final class CompareCommand implements Callable<Integer> {
    private static final ObjectMapper JSON = new ObjectMapper();
    /// The same for all methods: a head starts from random weights with each of them, so that different rates would
    /// compare heads rather than methods.
    private static final double HEAD_RATE = 5e-3;

    private static final int TIMED = 100;
    private static final int MOST_ROUNDS = 20;

    /// The options that all methods share.
    private static final String SHARED = "compare.json";

    private static final int QUICK_STEPS = 120;
    private static final List<Integer> RANKS = List.of(4, 8, 16, 32, 64);
    private static final List<Integer> BOTTLENECKS = List.of(32, 64, 128, 256, 512);

    private final Output output;

    @Spec
    private CommandSpec spec;

    @Option(
            names = "--methods",
            paramLabel = "LIST",
            description = "methods as of loran train, with commas between (${DEFAULT-VALUE})")
    private String methods = "full,lora,adalora,p-tuning,prefix,adapter";

    @Option(names = "--task", paramLabel = "T", description = Task.SHIPPED + " (${DEFAULT-VALUE})")
    private String task = "classify";

    @Option(
            names = "--train",
            paramLabel = "FILE",
            description = "rows to train on (definitions of nouns that come with Loran, to be sorted into ten classes)")
    private @Nullable Path train;

    @Option(names = "--eval", paramLabel = "FILE", description = "rows held out; goes with --train")
    private @Nullable Path eval;

    @Mixin
    private DataOptions.Splitting files;

    @Option(
            names = "--rows",
            paramLabel = "N",
            description = "without --train: rows to train on, of 5000 (${DEFAULT-VALUE})")
    private int rows = 1000;

    @Option(
            names = "--quick",
            description = "a first look: 120 steps for each method; ends within 10 minutes on 2 cores, with minilm and "
                    + "the methods above")
    private boolean quick;

    @Mixin
    private OutOptions place;

    @Mixin
    private ModelOptions model;

    @Mixin
    private TrainingOptions training;

    @Mixin
    private CommonOptions common;

    CompareCommand(Output output) {
        this.output = output;
    }

    static CommandSpec spec(Output output) {
        return CommonOptions.adapt(
                CommandSpec.forAnnotatedObject(new CompareCommand(output)),
                Map.of(
                        "--model", "a Hugging Face model folder; or minilm, bge-small, e5-small or loran-tiny (minilm)",
                        "--epochs", "passes over the data, of all methods (the longest of the methods': see below)",
                        "--head-lr", "highest learning rate of the head, with all methods (" + HEAD_RATE + ")",
                        "--max-length",
                                "most tokens of a text; longer ones are cut (128, or as many as the model has room "
                                        + "for)",
                        "--overwrite", "replace the comparison that is in --out already"),
                List.of());
    }

    /// The data on which all methods are trained and measured.
    private record Data(TaskRows rows, TaskCard card) {
        Examples heldOut() {
            return Objects.requireNonNull(rows.heldOut());
        }
    }

    @Override
    public Integer call() {
        List<Method> compared = methods();
        settle(compared);
        Method.requireSettings(training, compared);
        if (train == null && (eval != null || files.share != null)) {
            throw new InputException("--eval and --split go with --train: what is compared is the held-out rows");
        }
        if (train != null && eval == null && files.share == null && !Files.isDirectory(train)) {
            throw new InputException("--train needs --eval, or --split 0.1: what is compared is the held-out rows");
        }
        Path out = place.folder("loran-compare");
        begin(out);
        ObjectNode report = JSON.createObjectNode();
        Data data = data(compared, report);
        ArrayNode results = report.putArray(Results.METHODS);
        for (Method method : compared) {
            RunFolder run = new RunFolder(out.resolve(method.toString()));
            boolean isDone = !place.overwrite && Files.isRegularFile(run.path().resolve(RunFolder.RESULT));
            if (isDone) {
                output.say(method + ": done already");
            } else if (!train(method, data, run.path())) {
                output.say("stopped; it goes on by the same command, with --out " + out);
                return Main.STOPPED;
            }
            results.add(Results.ofRun(run.path()).put("best_for", method.bestFor));
            Metric headline = data.card.task().headline(results.path(0)::has);
            report.put("headline", headline.name()).put("higher_is_better", headline.higherIsBetter());
            // The results so far are kept even if a later method fails.
            JsonFile.write(out.resolve(Results.FILE), report);
        }
        Report.write(out, report);
        output.table(table(results, report.path("headline").asText()));
        output.say("the report: " + out.resolve(Report.PAGE));
        if (common.json) {
            output.out().println(report);
        }
        return Main.DONE;
    }

    private List<Method> methods() {
        return Arrays.stream(methods.strip().split("\\s*,\\s*"))
                .map(Method::named)
                .distinct()
                .toList();
    }

    /// What a head on the frozen model reaches, trained on the same rows for the same number of steps.
    ObjectNode probed() {
        List<Method> compared = methods();
        settle(compared);
        Data data = data(compared, JSON.createObjectNode());
        try (OpenModel open = OpenModel.of(model);
                PeftModel peft = new PeftModel(open.model(), model.seed);
                TaskModel frozen = TaskModel.of(peft, data.card, model.seed)) {
            TrainerConfig config = training.config(model, Method.LORA);
            Evaluation probe = LinearProbe.evaluate(frozen, data.rows.train(), data.heldOut(), config, model.seed);
            ObjectNode result = JSON.createObjectNode().put("loss", probe.loss());
            probe.metrics().forEach(result::put);
            return result;
        }
    }

    /// Fills in the defaults. All methods get the same number of steps.
    private void settle(List<Method> compared) {
        if (model.model == null) {
            model.model = "minilm";
        }
        if (training.headLr == null) {
            training.headLr = HEAD_RATE;
        }
        if (training.steps == null && training.epochs == null) {
            if (quick) {
                training.steps = QUICK_STEPS;
            } else {
                training.epochs =
                        compared.stream().mapToInt(m -> m.epochs).max().orElseThrow();
            }
        }
    }

    /// Makes `out` the comparison's folder; one that is there goes on, if it has the same options.
    private void begin(Path out) {
        Map<String, Object> options = CommonOptions.resolved(spec);
        options.remove("methods");
        CommonOptions.requireSame(out.resolve(SHARED), "comparison", place.overwrite, options);
    }

    /// Reads the rows, and puts what is the same for all methods into `report`.
    private Data data(List<Method> compared, ObjectNode report) {
        try (OpenModel open = OpenModel.of(model)) {
            int virtualTokens = compared.stream()
                    .mapToInt(m -> m.virtualTokens(training))
                    .max()
                    .orElse(0);
            int maxLength = model.maxLength(open, virtualTokens, 0);
            Examples.Options reading = Examples.Options.of(maxLength).withTextPrefix(open.textPrefix());
            output.detail(open.describe());
            output.say(open.backendChoice());
            Task kind = training.prefixes.of(training.task(task), open);
            TaskRows read;
            if (train != null) {
                DataOptions.Split given = files.split(train, eval, model.seed);
                if (given.heldOut() == null) {
                    throw new InputException(
                            "--eval is missing, or --split 0.1: what is compared is the held-out rows");
                }
                read = TaskRows.read(open, kind, reading, given, null);
            } else if (kind.hasShippedRows()) {
                read = TaskRows.shipped(open, reading, rows);
            } else {
                throw new InputException(
                        "--task " + task + " needs --train and --eval; what comes with Loran is to be" + " classified");
            }
            read.notices().forEach(output::say);
            Data data = new Data(read, read.card(open, reading, null));
            report.put("model", model.requireModel())
                    .put("task", kind.name())
                    .put("rows", read.train().size())
                    .put("held_out", data.heldOut().size());
            report.putObject("measured")
                    .put("backend", open.backendChoice())
                    .put("dtype", model.dtype)
                    .put("java", Runtime.version().toString())
                    .put("cores", Runtime.getRuntime().availableProcessors())
                    .put("load", ManagementFactory.getOperatingSystemMXBean().getSystemLoadAverage());
            Output.put(report, read.notices());
            sizes(compared, open, data.card, report);
            return data;
        }
    }

    /// Counts what trains in the model itself, for several ranks of LoRA and several bottlenecks of adapters.
    private void sizes(List<Method> compared, OpenModel open, TaskCard card, ObjectNode report) {
        TaskType type = open.model().task();
        if (compared.stream().anyMatch(Method::hasLora)) {
            LoraConfig lora = (LoraConfig) Objects.requireNonNull(Method.LORA.config(training, type, 1));
            count(open, card, report.putArray("parameters_by_rank"), "rank", RANKS, r -> lora.withRank(r, r));
        }
        if (compared.contains(Method.ADAPTER)) {
            BottleneckConfig adapter = BottleneckConfig.houlsby().withTask(type);
            count(
                    open,
                    card,
                    report.putArray("parameters_by_bottleneck"),
                    "bottleneck",
                    BOTTLENECKS,
                    adapter::withSize);
        }
    }

    private void count(
            OpenModel open, TaskCard card, ArrayNode to, String size, List<Integer> sizes, IntFunction<PeftConfig> of) {
        for (int n : sizes) {
            try (Subject subject = Subject.of(open.model(), of.apply(n), card, model.seed)) {
                to.addObject()
                        .put(size, n)
                        .put(
                                "trainable_parameters",
                                subject.learner().parameterCount().trainableParameters());
            }
        }
    }

    /// Trains by one method, on a newly opened model, measures it, and writes the results into its run's folder.
    ///
    /// @return false if it was stopped
    private boolean train(Method method, Data data, Path out) {
        Examples rowsToTrainOn = data.rows.train();
        TrainerConfig config = training.config(model, method);
        RunFolder folder = folder(method, config, out);
        boolean counted = ProcessMemory.resetPeak();
        try (OpenModel open = OpenModel.of(model)) {
            int steps = config.stepsOver(rowsToTrainOn.size());
            PeftConfig adapter = method.config(training, open.model().task(), steps);
            MemoryPlan plan = training.plan(open, adapter, data.card, config, data.rows);
            try (Subject subject = Subject.of(open.model(), adapter, data.card, model.seed)) {
                TaskModel learner = subject.learner();
                ParameterCount count = learner.parameterCount();
                output.say(String.format(
                        Locale.ROOT,
                        "%s: %d steps at %.0e",
                        method,
                        steps,
                        config.rate().peak()));
                folder.facts(open.facts(plan, data.rows)
                        .put("steps", steps)
                        .put("trainable_parameters", count.trainableParameters()));
                TrainingReport report;
                try (Trainer trainer = new Trainer(learner, config);
                        Progress progress = new Progress(output, List.of())) {
                    report = trainer.train(rowsToTrainOn, data.heldOut(), folder, progress);
                }
                if (report.stopped()) {
                    return false;
                }
                ObjectNode result = JSON.createObjectNode()
                        .put("method", method.toString())
                        .put("steps", report.steps())
                        .put("seconds", report.seconds())
                        .put("trainable_parameters", count.trainableParameters())
                        .put("trainable_percentage", count.trainablePercentage())
                        .put("adapter_bytes", bytes(folder.last()));
                costs(result, open, plan, counted);
                result.put("latency_ms", latency(learner, data.heldOut()))
                        .put("latency_merged_ms", merged(method, subject, data.heldOut()))
                        .put("train_loss", report.trainLoss());
                gains(result, Objects.requireNonNull(report.best()));
                folder.result(result.put("rows", rowsToTrainOn.size())
                        .put("held_out", data.heldOut().size()));
                return true;
            }
        }
    }

    /// The folder of a method's run: a new one, or one that was stopped and goes on.
    private RunFolder folder(Method method, TrainerConfig config, Path out) {
        if (!place.overwrite && RunFolder.isRun(out)) {
            return RunFolder.resume(out);
        }
        Map<String, Object> options = CommonOptions.resolved(spec);
        options.remove("methods");
        options.put("method", method.toString());
        options.put("lr", config.rate().peak());
        return RunFolder.create(out, place.overwrite, begun -> begun.options(options));
    }

    /// @param counted whether the process memory has been counted since the method began
    private static void costs(ObjectNode result, OpenModel open, @Nullable MemoryPlan plan, boolean counted) {
        long peak = open.backend().peakBytes();
        result.put("peak_memory_mib", counted ? (Double) ProcessMemory.peakMib(peak) : null)
                .put("peak_tensor_mib", peak / (double) (1 << 20))
                .put("planned_tensor_mib", plan == null ? null : (Double) plan.totalMib());
    }

    private static void gains(ObjectNode result, Evaluation best) {
        result.put("eval_loss", best.loss());
        best.metrics().forEach((name, value) -> result.put("eval_" + name, value));
    }

    /// The size on disk of the adapter's tensors, or of the model's if all of it was trained; without a separate head.
    private static long bytes(Path folder) {
        try {
            Path adapter = folder.resolve(AdapterFiles.WEIGHTS);
            return Files.size(Files.exists(adapter) ? adapter : folder.resolve("model.safetensors"));
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    private static @Nullable Double merged(Method method, Subject subject, Examples rows) {
        if (subject.peft() == null || !method.merges()) {
            return null;
        }
        subject.peft().mergeAdapter();
        return latency(subject.learner(), rows);
    }

    /// The milliseconds from a text's ids to its scores, one text at a time: the lowest median over rounds of 100,
    /// which continue while each is at least a twentieth faster. The JVM compiles in the meantime; without the extra
    /// rounds, the first method would bear that cost for all.
    private static double latency(TaskModel learner, Examples rows) {
        List<Batch> texts = new DataLoader(rows, new DataLoader.Options(1, false, 0, false, false, 1)).epoch(0);
        learner.train(false);
        double best = median(learner, texts);
        for (int round = 1; round < MOST_ROUNDS; round++) {
            double next = median(learner, texts);
            boolean steady = next > 0.95 * best;
            best = Math.min(best, next);
            if (steady) {
                break;
            }
        }
        return best;
    }

    private static double median(TaskModel learner, List<Batch> texts) {
        double[] milliseconds = new double[TIMED];
        try (Autograd.Mode mode = Autograd.noGrad()) {
            for (int i = 0; i < TIMED; i++) {
                Batch text = texts.get(i % texts.size());
                long started = System.nanoTime();
                try (Scope scope = Scope.open()) {
                    learner.logits(text).toFloats();
                }
                milliseconds[i] = (System.nanoTime() - started) / 1e6;
            }
        }
        Arrays.sort(milliseconds);
        return milliseconds[TIMED / 2];
    }

    private static List<List<String>> table(ArrayNode results, String headline) {
        List<List<String>> lines = new ArrayList<>();
        lines.add(List.of(
                "method",
                "trainable",
                "%",
                "bytes",
                "tensors MiB",
                "process MiB",
                "tokens/s",
                "ms",
                "ms merged",
                "loss",
                headline.replace('_', ' '),
                "best for"));
        for (JsonNode r : results) {
            lines.add(List.of(
                    r.path("method").asText(),
                    Output.shown(r.path("trainable_parameters")),
                    rounded(r.path("trainable_percentage"), 2),
                    Output.shown(r.path("adapter_bytes")),
                    rounded(r.path("peak_tensor_mib"), 0),
                    rounded(r.path("peak_memory_mib"), 0),
                    rounded(r.path("tokens_per_second"), 0),
                    rounded(r.path("latency_ms"), 2),
                    rounded(r.path("latency_merged_ms"), 2),
                    rounded(r.path("loss"), 4),
                    rounded(r.path(headline), 4),
                    r.path("best_for").asText()));
        }
        return lines;
    }

    private static String rounded(JsonNode value, int digits) {
        return value.isNumber() ? String.format(Locale.ROOT, "%,." + digits + "f", value.asDouble()) : "-";
    }
}
