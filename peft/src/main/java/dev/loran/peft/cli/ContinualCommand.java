package dev.loran.peft.cli;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.cli.console.Output;
import dev.loran.peft.cli.console.Progress;
import dev.loran.peft.cli.options.CommonOptions;
import dev.loran.peft.cli.options.DataOptions;
import dev.loran.peft.cli.options.OutOptions;
import dev.loran.peft.continual.ContinualTrainer;
import dev.loran.peft.continual.ContinualTrainer.Report;
import dev.loran.peft.continual.Scenario;
import dev.loran.peft.continual.Strategy;
import dev.loran.peft.continual.TaskSequence;
import dev.loran.peft.continual.TaskSequence.Source;
import dev.loran.peft.continual.TaskSequence.Stage;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.RowFiles.Part;
import dev.loran.peft.data.RowSource;
import dev.loran.peft.data.ShippedData;
import dev.loran.peft.io.InputException;
import dev.loran.peft.task.Task;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.train.MemoryPlan;
import dev.loran.peft.train.RunFolder;
import dev.loran.peft.train.TrainerConfig;
import dev.loran.peft.train.TrainerConfig.Checkpoints;
import dev.loran.peft.train.TrainingListener;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/// `loran continual`.
@Command(
        name = "continual",
        description = {
            "Trains on several tasks, one after the other, and measures after each how well the model does on "
                    + "all of them: what it keeps, what it forgets, what it transfers."
        },
        sortOptions = false,
        footer = {
            "",
            "Strategies: sequential (plain fine-tuning, the baseline), separate (an adapter for each task), "
                    + "rehearsal (--memory rows of the earlier tasks are trained on again), l2 and ewc (a penalty for "
                    + "moving away from the parameters after the task before; ewc weighs it by the Fisher "
                    + "information), olora (a LoRA for each task, orthogonal to the earlier ones, and all added up).",
            "",
            "Accuracy is that among all classes so far (class-incremental), and that among the classes of the "
                    + "task that a row is from (task-incremental). A row of a class that the head lacks counts as "
                    + "wrong; \"-\" is a task none of whose classes the head has.",
            "",
            "Example: loran continual --model minilm --tasks spring.jsonl,summer.jsonl --strategy ewc --out " + "run",
            "The data that comes with Loran, as five tasks of two classes each: loran continual --model "
                    + "minilm --tasks shipped --split-classes 5 --out run",
            "A run that was killed, or stopped by Ctrl-C, goes on: loran continual --resume run"
        })
final class ContinualCommand implements Callable<Integer> {
    private static final String SHIPPED = "shipped";
    /// The options that may differ from those that a resumed run was begun with.
    private static final List<String> MAY_DIFFER =
            List.of("threads", "ignore-memory", "save-steps", "keep-checkpoints", "resume");

    private final Output output;

    @Spec
    private CommandSpec spec;

    @Option(
            names = "--tasks",
            required = true,
            paramLabel = "FILE,…",
            description = "the rows of each task, in order; or " + SHIPPED + ", the data that comes with Loran")
    private String tasks;

    @Option(
            names = "--eval",
            paramLabel = "FILE,…",
            description = "rows to measure on, as many files as --tasks (a tenth of each task's rows, held out)")
    private @Nullable String eval;

    @Mixin
    private DataOptions files;

    @Option(
            names = "--split-classes",
            paramLabel = "N",
            description = "make N tasks of one file (or of " + SHIPPED + "), each with classes of its own")
    private @Nullable Integer splitClasses;

    @Option(names = "--rows", paramLabel = "N", description = "of " + SHIPPED + ": rows to train on (all 5000)")
    private @Nullable Integer rows;

    @Option(
            names = "--task",
            paramLabel = "T",
            description = "what each task is: " + Task.SHIPPED + ", or the class of one of your own (${DEFAULT-VALUE})")
    private String task = "classify";

    @Option(
            names = "--strategy",
            paramLabel = "S",
            description = "sequential, separate, rehearsal, l2, ewc or olora; see below (${DEFAULT-VALUE})")
    private String strategy = "rehearsal";

    @Option(names = "--memory", paramLabel = "N", description = "rehearsal: rows of earlier tasks that are kept (200)")
    private @Nullable Integer memory;

    @Option(
            names = "--lambda",
            paramLabel = "X",
            description = "strength of the penalty of l2 (1), ewc (1000) and olora (0.5)")
    private @Nullable Double lambda;

    @Option(
            names = "--fisher-rows",
            paramLabel = "N",
            description = "ewc: rows of a task from which the Fisher information is computed (200)")
    private @Nullable Integer fisherRows;

    @Option(
            names = "--fisher-decay",
            paramLabel = "X",
            description = "ewc: weight of the earlier tasks' Fisher information when that of a task is added (1)")
    private @Nullable Double fisherDecay;

    @Option(names = "--method", paramLabel = "M", description = "as of loran train, without full (${DEFAULT-VALUE})")
    private String method = "lora";

    @Mixin
    private OutOptions place;

    @Option(
            names = "--save-steps",
            paramLabel = "N",
            description = "steps between checkpoints, which a killed run goes on from (${DEFAULT-VALUE})")
    private int saveSteps = Checkpoints.defaults().everySteps();

    @Option(
            names = "--keep-checkpoints",
            paramLabel = "N",
            description = "how many are kept for each task, the newest (${DEFAULT-VALUE})")
    private int keepCheckpoints = Checkpoints.defaults().keep();

    @Option(
            names = "--resume",
            paramLabel = "RUN",
            description = "go on with the run in this folder, with its own options")
    private @Nullable Path resume;

    @Option(
            names = "--pooling",
            paramLabel = "P",
            description = "how a text becomes one vector to classify, as of loran train (the model's)")
    private @Nullable String pooling;

    @Option(
            names = "--gradient-checkpointing",
            description = "keep only each block's input and compute the rest again in backward: less memory, more time")
    private boolean gradientCheckpointing;

    @Mixin
    private ModelOptions.Fresh model;

    @Mixin
    private TrainingOptions training;

    @Mixin
    private CommonOptions common;

    ContinualCommand(Output output) {
        this.output = output;
    }

    @Override
    public Integer call() {
        if (resume != null && common.config != null) {
            throw new InputException("--resume takes the options that the run was begun with; leave --config out");
        }
        Strategy how = strategy();
        Task kind = training.task(task);
        Method methodKind = Method.named(method);
        if (methodKind == Method.FULL) {
            throw new InputException("--method full would keep a whole model for each task; choose an adapter");
        }
        Method.requireSettings(training, List.of(methodKind));
        training.resolve(methodKind.epochs, methodKind.learningRate);
        TrainerConfig config =
                training.config(model, methodKind).withCheckpoints(new Checkpoints(saveSteps, keepCheckpoints));
        List<Source> sources = sources(kind);
        Path out = resume == null ? place.runFolder("loran-continual") : resume;
        try (OpenModel open = open()) {
            output.detail(open.describe());
            open.model().gradientCheckpointing(gradientCheckpointing);
            int maxLength = model.maxLength(open, methodKind.virtualTokens(training), 0);
            Examples.Options reading = Examples.Options.of(maxLength).withTextPrefix(open.textPrefix());
            TaskSequence sequence =
                    TaskSequence.read(sources, kind, open.tokenizer(), reading, !(how instanceof Strategy.Separate));
            TaskCard card = card(open, sequence, reading);
            ContinualTrainer trainer = new ContinualTrainer(
                    open.model(),
                    steps -> methodKind.config(training, open.model().task(), steps),
                    card,
                    config,
                    how);
            if (resume != null) {
                requireSameOptions(RunFolder.resume(resume));
            }
            List<String> opening = opening(open, sequence, card, config, methodKind);
            RunFolder folder = resume != null
                    ? RunFolder.resume(resume)
                    : RunFolder.create(out, place.overwrite, begun -> {
                        open.keep(begun.base());
                        begun.options(CommonOptions.resolved(spec));
                    });
            opening.forEach(output::say);
            return run(trainer, sequence, folder, how);
        }
    }

    // ---- options

    /// The strategy with its options, of which those that were not given get their defaults.
    private Strategy strategy() {
        requireFits("--memory", memory, List.of("rehearsal"));
        requireFits("--lambda", lambda, List.of("l2", "ewc", "olora"));
        requireFits("--fisher-rows", fisherRows, List.of("ewc"));
        requireFits("--fisher-decay", fisherDecay, List.of("ewc"));
        return switch (strategy) {
            case "sequential" -> new Strategy.Sequential();
            case "separate" -> new Strategy.Separate();
            case "rehearsal" -> {
                memory = usual(memory, 200);
                yield new Strategy.Rehearsal(memory);
            }
            case "l2" -> {
                lambda = usual(lambda, 1.0);
                yield new Strategy.L2(lambda);
            }
            case "ewc" -> {
                lambda = usual(lambda, 1000.0);
                fisherDecay = usual(fisherDecay, 1.0);
                fisherRows = usual(fisherRows, 200);
                yield new Strategy.Ewc(lambda, fisherDecay, fisherRows);
            }
            case "olora" -> {
                lambda = usual(lambda, 0.5);
                yield new Strategy.OrthogonalLora(lambda);
            }
            default ->
                throw new InputException("strategy \"" + strategy
                        + "\" is not known; choose sequential, separate, rehearsal, l2, ewc or olora");
        };
    }

    private static <T> T usual(@Nullable T given, T usual) {
        return given == null ? usual : given;
    }

    private void requireFits(String option, @Nullable Object value, List<String> strategies) {
        if (value != null && !strategies.contains(strategy)) {
            throw new InputException("%s is an option of strategy %s; --strategy is %s"
                    .formatted(option, String.join(", ", strategies), strategy));
        }
    }

    /// Refuses to go on with other options than those that the run was begun with.
    private void requireSameOptions(RunFolder run) {
        Map<String, String> before = CommonOptions.read(run.optionsFile());
        CommonOptions.resolved(spec).forEach((name, value) -> {
            String begun = before.get(name);
            if (!MAY_DIFFER.contains(name) && !String.valueOf(value).equals(begun)) {
                throw new InputException("%s: was begun %s, not with --%s %s; leave it out, or begin another run"
                        .formatted(
                                run.path(),
                                begun == null ? "without --" + name : "with --" + name + " " + begun,
                                name,
                                value));
            }
        });
    }

    private OpenModel open() {
        if (!OpenModel.FRESH.equals(model.model)) {
            return OpenModel.of(model);
        }
        return resume == null ? OpenModel.fresh(model) : OpenModel.kept(model, new RunFolder(resume).base());
    }

    // ---- rows

    private List<Source> sources(Task kind) {
        boolean shipped = tasks.equals(SHIPPED);
        if (rows != null && !shipped) {
            throw new InputException("--rows is for the data that comes with Loran (--tasks " + SHIPPED + ")");
        }
        if (splitClasses != null && !kind.pools()) {
            throw new InputException("--split-classes is for --task classify; rows of " + task + " have no classes");
        }
        List<Source> all = shipped ? List.of(shipped(kind)) : files();
        if (splitClasses == null) {
            return all;
        }
        if (all.size() > 1) {
            throw new InputException("--split-classes makes tasks of one file; --tasks names " + all.size());
        }
        return all.getFirst().byClass(splitClasses);
    }

    private Source shipped(Task kind) {
        if (eval != null) {
            throw new InputException(
                    "--eval: the data that comes with Loran has held-out rows of its own; leave it out");
        }
        if (splitClasses == null || !kind.hasShippedRows()) {
            throw new InputException("--tasks " + SHIPPED
                    + " is one set of rows to classify; say into how many tasks it" + " is split (--split-classes 5)");
        }
        ShippedData data = ShippedData.load();
        int count = rows == null ? data.train().size() : rows;
        return new Source(
                SHIPPED,
                RowSource.of(TaskRows.classify(TaskRows.first(count, data)), SHIPPED),
                RowSource.of(TaskRows.classify(data.heldOut()), SHIPPED + ", held out"));
    }

    private List<Source> files() {
        List<String> train = CommonOptions.names("--tasks", tasks);
        List<String> held = eval == null ? List.of() : CommonOptions.names("--eval", eval);
        if (eval != null && held.size() != train.size()) {
            throw new InputException(
                    "--eval names %d files and --tasks %d; give one for each task, or leave --eval out to hold out a"
                                    .formatted(held.size(), train.size())
                            + " tenth of the rows");
        }
        List<Source> sources = new ArrayList<>();
        for (int i = 0; i < train.size(); i++) {
            Path file = Path.of(train.get(i));
            String name = file.getFileName().toString().replaceFirst("\\.(jsonl?|csv|tsv|txt)(\\.gz)?$", "");
            RowSource rowsOf = files.rows(file, Part.TRAIN, Part.TRAIN);
            sources.add(
                    eval == null
                            ? Source.heldOutOf(name, rowsOf, model.seed)
                            : new Source(name, rowsOf, files.rows(Path.of(held.get(i)), Part.VALIDATION, Part.TEST)));
        }
        return sources;
    }

    private TaskCard card(OpenModel open, TaskSequence sequence, Examples.Options reading) {
        Stage first = sequence.stages().getFirst();
        TaskCard card = new TaskRows(sequence.kind(), first.train(), null).card(open, reading, pooling);
        if (sequence.kind().pools() && !card.normalize()) {
            pooling = card.pooling().toString();
        }
        return card;
    }

    // ---- the run

    /// The messages at the start.
    private List<String> opening(
            OpenModel open, TaskSequence sequence, TaskCard card, TrainerConfig config, Method methodKind) {
        List<String> lines = new ArrayList<>(List.of(open.backendChoice()));
        Stage largest = sequence.stages().stream()
                .max(Comparator.comparingInt(stage -> stage.train().longest()))
                .orElseThrow();
        TaskCard all =
                card.withLabels(sequence.labels() == null ? largest.train().labelsOrNull() : sequence.labels());
        int steps = config.stepsOver(largest.train().size());
        MemoryPlan plan = training.plan(
                open,
                methodKind.config(training, open.model().task(), steps),
                all,
                config,
                new TaskRows(sequence.kind(), largest.train(), largest.heldOut()));
        if (plan != null) {
            lines.add("tensors: %s; at most %,.1f MiB at once, without what the strategy keeps"
                    .formatted(plan, plan.totalMib()));
        }
        for (Stage stage : sequence.stages()) {
            lines.addAll(new TaskRows(sequence.kind(), stage.train(), stage.heldOut()).notices());
        }
        return lines;
    }

    private int run(ContinualTrainer trainer, TaskSequence sequence, RunFolder folder, Strategy how) {
        Report report;
        List<Progress> shown = new ArrayList<>();
        try {
            report = trainer.train(sequence, folder, stage -> listener(sequence, stage, shown));
        } finally {
            shown.forEach(Progress::close);
        }
        if (report == null) {
            output.say("stopped; it goes on by: loran continual --resume %s".formatted(folder.path()));
            return Main.STOPPED;
        }
        report.scores().forEach((scenario, matrix) -> {
            output.out()
                    .printf(
                            "%s, %s:%n",
                            matrix.metric().name(), scenario.toString().replace('_', '-'));
            output.table(matrix.table());
            output.out().println();
        });
        ObjectNode result =
                result(sequence, report, how).put("out", folder.path().toString());
        folder.result(result);
        output.result(result, common.json);
        return Main.DONE;
    }

    /// A progress display for each task; that of the task before is closed.
    private TrainingListener listener(TaskSequence sequence, Stage stage, List<Progress> shown) {
        shown.forEach(Progress::close);
        shown.clear();
        String line = "task %d of %d: %s, %,d rows%s"
                .formatted(
                        sequence.stages().indexOf(stage) + 1,
                        sequence.stages().size(),
                        stage.name(),
                        stage.train().size(),
                        stage.classes().isEmpty() ? "" : ", classes " + String.join(", ", stage.classes()));
        Progress progress = new Progress(output, List.of(line));
        shown.add(progress);
        return progress;
    }

    private ObjectNode result(TaskSequence sequence, Report report, Strategy how) {
        ObjectNode result = new ObjectMapper()
                .createObjectNode()
                .put("strategy", how.name())
                .put("method", method)
                .put("tasks", sequence.stages().size())
                .put("steps", report.steps())
                .put("seconds", report.seconds());
        boolean several = report.scores().size() > 1;
        report.scores().forEach((scenario, matrix) -> {
            String prefix = several && scenario == Scenario.TASK_INCREMENTAL ? scenario + "_" : "";
            ObjectNode numbers = matrix.toJson();
            result.set(prefix + "average_" + matrix.metric().name(), numbers.get("average"));
            for (String name : List.of("forgetting", "backward_transfer", "forward_transfer")) {
                result.set(prefix + name, numbers.get(name));
            }
        });
        return result;
    }
}
