package dev.loran.peft.cli;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.DataLoader;
import dev.loran.peft.data.Examples;
import dev.loran.peft.io.InputException;
import dev.loran.peft.io.JsonFile;
import dev.loran.peft.task.Evaluation;
import dev.loran.peft.task.Task;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.train.MemoryPlan;
import dev.loran.peft.train.RunFolder;
import dev.loran.peft.train.TaskModel;
import dev.loran.peft.train.Trainer;
import dev.loran.peft.train.TrainerConfig;
import dev.loran.peft.train.TrainingReport;
import dev.loran.peft.tuner.AdapterFiles;
import dev.loran.peft.tuner.PeftConfig;
import dev.loran.peft.tuner.PeftModel.ParameterCount;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

/// `loran compare`.
@Command(
        name = "compare",
        description = {
            "Trains a model by several methods, each with its own usual learning rate and duration, and puts side",
            "by side what they cost and what they gain: trainable parameters, size of the file, most memory that",
            "tensors took, and the process with them (what the JVM took for the methods before stays in it; - where",
            "the system does not count it), speed of the later half of training, time to answer one text (with the",
            "adapter beside the weights, and merged into them where that can be), loss and accuracy on held-out rows.",
            "A new head learns at one rate for all methods (--head-lr, 5e-3)."
        },
        sortOptions = false,
        footer = {"", "Example: loran compare --methods lora,adalora,prefix"})
final class CompareCommand implements Callable<Integer> {
    private static final ObjectMapper JSON = new ObjectMapper();
    /// The same for all methods: a head starts from random weights with each of them, so that different rates would
    /// compare heads rather than methods.
    private static final double HEAD_RATE = 5e-3;

    private static final int TIMED = 100;
    private static final int MOST_ROUNDS = 20;

    private final Output output;

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

    @Option(
            names = "--rows",
            paramLabel = "N",
            description = "without --train: rows to train on, of 5000 (${DEFAULT-VALUE})")
    private int rows = 1000;

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

    /// The data on which all methods are trained and measured.
    private record Data(TaskRows rows, TaskCard card) {
        Examples heldOut() {
            return Objects.requireNonNull(rows.heldOut());
        }
    }

    @Override
    public Integer call() {
        List<Method> compared = Arrays.stream(methods.strip().split("\\s*,\\s*"))
                .map(Method::named)
                .distinct()
                .toList();
        if (model.model == null) {
            model.model = "minilm";
        }
        if (training.headLr == null) {
            training.headLr = HEAD_RATE;
        }
        if ((train == null) != (eval == null)) {
            throw new InputException("--train and --eval go together: what is compared is the held-out rows");
        }
        Path out = place.folder("loran-compare");
        if (!place.overwrite && !RunFolder.isFree(out)) {
            throw new InputException(out
                    + ": holds files already; replace a comparison (--overwrite), or choose another folder (--out)");
        }
        Data data = data(compared);
        ObjectNode report = JSON.createObjectNode()
                .put("model", model.requireModel())
                .put("task", data.card.task().name())
                .put("rows", data.rows.train().size())
                .put("held_out", data.heldOut().size());
        Output.put(report, data.rows.notices());
        ArrayNode results = report.putArray("methods");
        for (Method method : compared) {
            ObjectNode result = measured(method, data, out.resolve(method.toString()));
            if (result == null) {
                output.say("stopped; methods that were done are in " + out.resolve("report.json"));
                return Main.STOPPED;
            }
            results.add(result);
            // The results so far are kept even if a later method fails.
            JsonFile.write(out.resolve("report.json"), report);
        }
        output.table(table(results, data.card.task().headline().name()));
        if (common.json) {
            output.out().println(report);
        }
        return Main.DONE;
    }

    private Data data(List<Method> compared) {
        try (OpenModel open = OpenModel.of(model)) {
            int virtualTokens = compared.stream()
                    .mapToInt(m -> m.virtualTokens(training))
                    .max()
                    .orElse(0);
            int maxLength = model.maxLength(open, virtualTokens, 0);
            Examples.Options reading = Examples.Options.of(maxLength).withTextPrefix(open.textPrefix());
            output.say(open.backendChoice());
            Task kind = Task.named(task);
            TaskRows read;
            if (train != null) {
                read = TaskRows.read(open, kind, reading, train, eval, null);
            } else if (kind.hasShippedRows()) {
                read = TaskRows.shipped(open, reading, rows);
            } else {
                throw new InputException(
                        "--task " + task + " needs --train and --eval; what comes with Loran is to be" + " classified");
            }
            read.notices().forEach(output::say);
            return new Data(read, read.card(open, reading, null));
        }
    }

    /// Trains with one method, on a newly opened model, and measures it; null if it was stopped.
    private @Nullable ObjectNode measured(Method method, Data data, Path out) {
        Examples rowsToTrainOn = data.rows.train();
        TrainerConfig config = training.config(model, method);
        Map<String, ?> options =
                Map.of("method", method.toString(), "lr", config.rate().peak(), "epochs", config.epochs());
        RunFolder folder = RunFolder.create(out, place.overwrite, begun -> begun.options(options));
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
                TrainingReport report;
                double tokensPerSecond;
                try (Trainer trainer = new Trainer(learner, config);
                        Progress progress = new Progress(output, List.of())) {
                    report = trainer.train(rowsToTrainOn, null, folder, progress);
                    tokensPerSecond = progress.tokensPerSecond();
                }
                if (report.stopped()) {
                    return null;
                }
                ObjectNode result = JSON.createObjectNode()
                        .put("method", method.toString())
                        .put("learning_rate", config.rate().peak())
                        .put("steps", report.steps())
                        .put("seconds", report.seconds())
                        .put("trainable_parameters", count.trainableParameters())
                        .put("trainable_percentage", count.trainablePercentage())
                        .put("adapter_bytes", bytes(folder.last()));
                costs(result, open, plan, counted);
                // Before anything is merged.
                Evaluation e = Evaluation.of(learner, data.heldOut(), config.batchSize());
                result.put("tokens_per_second", tokensPerSecond)
                        .put("latency_ms", latency(learner, data.heldOut()))
                        .put("latency_merged_ms", merged(method, subject, data.heldOut()))
                        .put("train_loss", report.trainLoss());
                return gains(result, e).put("best_for", method.bestFor);
            }
        }
    }

    /// @param counted whether the process memory has been counted since the method began
    private static void costs(ObjectNode result, OpenModel open, @Nullable MemoryPlan plan, boolean counted) {
        long peak = open.backend().peakBytes();
        result.put("peak_memory_mib", counted ? (Double) ProcessMemory.peakMib(peak) : null)
                .put("peak_tensor_mib", peak / (double) (1 << 20))
                .put("planned_tensor_mib", plan == null ? null : (Double) plan.totalMib());
    }

    private static ObjectNode gains(ObjectNode result, Evaluation e) {
        return result.put("loss", e.loss())
                .put("accuracy", e.metrics().get("accuracy"))
                .put(e.headline().name(), e.headlineValue());
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
        return value.isNull() ? "-" : String.format(Locale.ROOT, "%,." + digits + "f", value.asDouble());
    }
}
