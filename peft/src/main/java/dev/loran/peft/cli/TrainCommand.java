package dev.loran.peft.cli;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.cli.console.Output;
import dev.loran.peft.cli.options.CommonOptions;
import dev.loran.peft.cli.options.DataOptions;
import dev.loran.peft.cli.options.OutOptions;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Labels;
import dev.loran.peft.io.InputException;
import dev.loran.peft.io.JsonFile;
import dev.loran.peft.task.ChatTask;
import dev.loran.peft.task.EmbedTask;
import dev.loran.peft.task.PreferTask;
import dev.loran.peft.task.Task;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.train.MemoryPlan;
import dev.loran.peft.train.RunFolder;
import dev.loran.peft.train.TrainerConfig;
import dev.loran.peft.train.TrainerConfig.Checkpoints;
import dev.loran.peft.train.TrainingListener;
import dev.loran.peft.tuner.PeftConfig;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.LocalDate;
import java.time.ZoneId;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/// `loran train`.
@Command(
        name = "train",
        description = "Fine-tunes a model on your rows.",
        sortOptions = false,
        footer = {
            "",
            "Rows are objects of JSON Lines or of a JSON array, or the rows of a table with a header (.csv, .tsv), "
                    + "plain or .gz: {\"text\",\"label\"} to classify (pairs: \"text_pair\" too; several "
                    + "labels: a list), {\"text\",\"score\"} to regress, {\"tokens\",\"tags\"} to tag, "
                    + "{\"query\",\"passage\",\"label\"} to rerank, "
                    + "{\"source\",\"target\"} or {\"instruction\",\"input\",\"output\"} to generate, {\"messages\"} "
                    + "to chat, {\"prompt\",\"chosen\",\"rejected\"} to prefer, {\"text\"} for lm.",
            "",
            "Example: loran train --model minilm --task classify --train pages.jsonl --eval held-out.jsonl "
                    + "--out run",
            "A run that was killed, or stopped by Ctrl-C, goes on: loran train --resume run",
            "A finished one is prolonged: loran train --resume run --epochs 5 (or --steps N). The warm-up is "
                    + "over then, and the rate goes on as in a run that had been that long from the start; --schedule "
                    + "constant has no jump there."
        })
class TrainCommand implements Callable<Integer> {
    final Output output;

    @Spec
    CommandSpec spec;

    @Option(
            names = "--task",
            required = true,
            paramLabel = "T",
            description = Task.SHIPPED + ", or the class of one of your own")
    String task;

    @Option(
            names = "--method",
            paramLabel = "M",
            description = "lora, dora, adalora, p-tuning, prompt, prefix, adapter, ia3, ln-tuning, bitfit or full "
                    + "(${DEFAULT-VALUE})")
    String method = "lora";

    @Option(
            names = "--train",
            required = true,
            paramLabel = "FILE",
            description = "rows to train on: " + DataOptions.FILES)
    Path train;

    @Option(
            names = "--eval",
            paramLabel = "FILE",
            description = "rows to evaluate on; the best parameters are kept (those of the folder, if --train is one)")
    private @Nullable Path eval;

    @Mixin
    DataOptions.Splitting files;

    @Option(
            names = "--pack",
            description = "put several rows to train on into one of at most --max-length tokens; each attends to itself"
                    + " only (generate, chat and lm)")
    private boolean pack;

    @Mixin
    OutOptions place;

    @Option(names = "--eval-every", paramLabel = "N", description = "steps between evaluations (an epoch)")
    private int evalEvery;

    @Option(
            names = "--patience",
            paramLabel = "N",
            description = "stop after so many evaluations without a better loss (never)")
    private int patience;

    @Option(
            names = "--save-steps",
            paramLabel = "N",
            description =
                    "steps between checkpoints, which a killed run goes on from; there is one after the last step, "
                            + "too; 0 for none (${DEFAULT-VALUE})")
    private int saveSteps = Checkpoints.defaults().everySteps();

    @Option(
            names = "--keep-checkpoints",
            paramLabel = "N",
            description = "how many are kept, the newest (${DEFAULT-VALUE})")
    private int keepCheckpoints = Checkpoints.defaults().keep();

    @Option(
            names = "--keep-spikes",
            paramLabel = "N",
            description =
                    "keep the rows of the first N steps whose loss or gradients jump, in spikes/ of the run's folder; "
                            + "0 to not watch for such steps (${DEFAULT-VALUE})")
    private int keepSpikes = TrainerConfig.defaults().spikesToKeep();

    @Option(
            names = "--log-every",
            paramLabel = "N",
            description = "steps between lines of progress where there is no bar (a twentieth of the run)")
    int logEvery;

    @Option(
            names = "--tensorboard",
            description = "write event files for TensorBoard: tensorboard/ in the run's folder")
    boolean tensorboard;

    @Option(
            names = "--resume",
            paramLabel = "RUN",
            description =
                    "go on with the run in this folder from its newest checkpoint, with its own options; with more "
                            + "--epochs or --steps it is prolonged")
    @Nullable
    Path resume;

    @Option(
            names = "--init-adapter",
            paramLabel = "DIR",
            description =
                    "begin with the weights of this adapter, a folder or a run's best, by its method and options; and "
                            + "with its head where that is for the classes of the rows")
    private @Nullable Path initAdapter;

    @Option(
            names = "--pooling",
            paramLabel = "P",
            description =
                    "how a text becomes one vector to classify: mean, cls, max, mean_sqrt_len, last, or BERT's pooler "
                            + "(what the model's sentence-transformers files say; else last for causal models, pooler "
                            + "where the folder has one, mean)")
    private @Nullable String pooling;

    @Option(
            names = "--class-weights",
            paramLabel = "W",
            description = "classify: how much the classes count in the loss: balanced, by how rare they are, or "
                    + "label=2,other=0.5 (all the same)")
    private @Nullable String classWeights;

    @Option(
            names = "--gradient-checkpointing",
            description = "keep only each block's input and compute the rest again in backward: less memory, more time")
    private boolean gradientCheckpointing;

    @Mixin
    ModelOptions.Fresh model;

    @Mixin
    TrainingOptions training;

    @Mixin
    CommonOptions common;

    /// Whether the resumed run gets more steps.
    boolean prolonged;

    /// The listener that a sweep adds to the run.
    TrainingListener beside = new TrainingListener() {};

    /// The run's folder.
    Path out = Path.of("loran-run");
    /// What the run has reached, even if it is not finished; null before.
    @Nullable
    ObjectNode reached;

    /// Messages to print before the run, and the action that stores the run's initial files in its folder.
    final List<String> notices = new ArrayList<>();

    Consumer<RunFolder> begin = run -> {};

    TrainCommand(Output output) {
        this.output = output;
    }

    /// Adds `listener` to the run.
    TrainCommand observedBy(TrainingListener listener) {
        beside = listener;
        return this;
    }

    /// What the run has reached, even if it was stopped; null if it did not train.
    @Nullable
    ObjectNode reached() {
        return reached;
    }

    @Override
    public Integer call() {
        InitAdapter init = settle();
        TrainerConfig config = config();
        output.detail("options: " + CommonOptions.resolved(spec));
        try (OpenModel open = open()) {
            output.detail(open.describe());
            open.model().gradientCheckpointing(gradientCheckpointing);
            if (init != null) {
                init.prepare(open);
            }
            TaskCard before = init == null ? null : init.card();
            Examples.Options reading = reading(open, before);
            TaskRows rows = read(open, reading, init == null ? null : init.labels());
            output.detail("rows: read, %,d to train on".formatted(rows.train().size()));
            if (pooling == null && before != null && before.labels() != null && !before.normalize()) {
                pooling = before.pooling().toString();
            }
            TaskCard card = card(open, reading, rows);
            if (init != null) {
                return begunWith(init, open, config, card, rows);
            }
            PeftConfig adapter = adapter(open, config, rows);
            MemoryPlan plan = training.plan(open, adapter, card, config, rows);
            try (Subject subject = Subject.of(open.model(), adapter, card, model.seed)) {
                return new TrainRun(this, open, plan, rows).train(subject.learner(), config);
            }
        }
    }

    /// Fills in the options that follow from others.
    ///
    /// @return the adapter to begin with; null for none
    @Nullable
    InitAdapter settle() {
        if (logEvery < 0) {
            throw new InputException("--log-every " + logEvery + " must be at least 1");
        }
        // An option that was typed overrides the alternative option in a file.
        if (isTyped("--epochs") && !isTyped("--steps")) {
            training.steps = null;
        } else if (isTyped("--steps") && !isTyped("--epochs")) {
            training.epochs = null;
        }
        if (resume != null) {
            resumed(RunFolder.resume(resume));
        }
        if ((Task.named(task) instanceof ChatTask || Task.named(task) instanceof PreferTask) && model.chatDay == null) {
            // A run that is resumed on another day sees the same chats.
            model.chatDay = LocalDate.now(ZoneId.systemDefault()).toString();
        }
        out = resume == null ? place.runFolder("loran-run") : resume;
        training.task(task);
        InitAdapter init = init();
        Method kind = Method.named(method);
        requireSettings();
        training.resolve(kind.epochs, kind.learningRate);
        return init;
    }

    /// @throws InputException if the method does not have what `--set` names
    void requireSettings() {
        Method.requireSettings(training, List.of(Method.named(method)));
    }

    TrainerConfig config() {
        return training.config(model, Method.named(method))
                .withEvaluation(evalEvery, patience)
                .withSpikesToKeep(keepSpikes)
                .withCheckpoints(new Checkpoints(saveSteps, keepCheckpoints));
    }

    Examples.Options reading(OpenModel open, @Nullable TaskCard before) {
        int virtual = Method.named(method).virtualTokens(training);
        return reading(model.maxLength(open, virtual, before == null ? 0 : before.maxLength()))
                .withTextPrefix(open.textPrefix());
    }

    TaskCard card(OpenModel open, Examples.Options reading, TaskRows rows) {
        TaskCard card = rows.card(open, reading, pooling);
        if (Task.named(task).pools() && !card.normalize()) {
            pooling = card.pooling().toString();
        }
        return card;
    }

    /// The method's configuration; null if the whole model trains.
    @Nullable
    PeftConfig adapter(OpenModel open, TrainerConfig config, TaskRows rows) {
        int steps = config.stepsOver(rows.train().size());
        return Method.named(method).config(training, open.model().task(), steps);
    }

    // ---- a pass shared with other runs

    boolean startsFromAdapter() {
        return initAdapter != null;
    }

    TaskRows rows(OpenModel open) {
        open.model().gradientCheckpointing(gradientCheckpointing);
        return read(open, reading(open, null), null);
    }

    private TaskRows read(OpenModel open, Examples.Options reading, @Nullable Labels usual) {
        Task kind = training.prefixes.of(training.task(task), open);
        TaskRows rows = TaskRows.read(open, kind, reading, files.split(train, eval, model.seed), usual)
                .weighted(classWeights);
        if (pack && Method.named(method).virtualTokens(training) > 0 && !method.equals(Method.PREFIX.toString())) {
            throw new InputException("--pack: the virtual tokens of " + method
                    + " precede a row, not each of its texts; leave --pack out, or choose another method");
        }
        return pack ? new TaskRows(rows.task(), rows.train().packed(), rows.heldOut()) : rows;
    }

    /// The adapter to begin with, which also determines the method and the options of the run; null if there is none. A
    /// resumed run has its own copy.
    private @Nullable InitAdapter init() {
        if (resume != null && isTyped("--init-adapter")) {
            throw new InputException("--resume goes on with the run's own weights; leave --init-adapter out");
        }
        if (initAdapter == null) {
            return null;
        }
        InitAdapter init = InitAdapter.of(resume == null ? initAdapter : new RunFolder(resume).init());
        String own = init.method().toString();
        if (isTyped("--method") && !method.equals(own)) {
            throw init.conflict("--method", method, own);
        }
        method = own;
        init.settle(training, this::isTyped);
        if (init.card() != null) {
            model.eosToken = model.eosToken == null ? init.card().eosToken() : model.eosToken;
            model.trainedFormat = init.card().chat();
            if (init.card().task() instanceof EmbedTask embed
                    && Task.named(task) instanceof EmbedTask
                    && training.prefixes.settings().isEmpty()
                    && embed.hasPrefixes()) {
                training.prefixes.query = embed.queryPrefix();
                training.prefixes.passage = embed.passagePrefix();
            }
        }
        return init;
    }

    private int begunWith(InitAdapter init, OpenModel open, TrainerConfig config, TaskCard card, TaskRows rows) {
        String headless = init.headlessFor(card, open);
        MemoryPlan plan = training.plan(open, init.config(headless == null), card, config, rows);
        notices.add("begins with the adapter in %s%s"
                .formatted(
                        resume == null ? init.folder() : initAdapter,
                        headless == null ? "" : ", but with a new head: " + headless));
        try (Subject subject = Subject.of(open.model(), init, headless == null, card, model.seed)) {
            begin = begun -> init.keep(begun.init());
            // The copy, since the other one may be gone before the run ends.
            subject.learner().beganWith(new RunFolder(out).init());
            return new TrainRun(this, open, plan, rows).train(subject.learner(), config);
        }
    }

    /// The run's own options are already set: [Main] read them in the way it reads `--config`.
    private void resumed(RunFolder run) {
        if (common.config != null) {
            throw new InputException("--resume takes the options that the run was begun with; leave --config out");
        }
        // With another operand type it would be another run, although every compared value is the same.
        Map<String, String> options = CommonOptions.read(run.optionsFile());
        String begun = options.getOrDefault("dtype", model.dtype);
        if (!begun.equals(model.dtype)) {
            throw new InputException(
                    ("%s: is of a run with dtype %s, not %s; resume with what the run was begun with, or begin another"
                                    + " one")
                            .formatted(run.path(), begun, model.dtype));
        }
        prolonged = !duration(options.get("steps"), options.get("epochs"))
                .equals(duration(training.steps, training.epochs));
        if (prolonged && method.equals(Method.ADALORA.toString())) {
            throw new InputException(
                    run.path() + ": cannot be prolonged: adalora cuts ranks by a schedule over the whole"
                            + " run, which was begun with " + duration(options.get("steps"), options.get("epochs")));
        }
        if (prolonged && !run.hasCheckpoints() && Files.exists(run.path().resolve(RunFolder.RESULT))) {
            throw new InputException(
                    run.path() + ": cannot be prolonged: it is finished and kept no checkpoint to go on"
                            + " from (--save-steps 0)");
        }
    }

    private static String duration(@Nullable Object steps, @Nullable Object epochs) {
        return steps == null ? "epochs " + epochs : "steps " + steps;
    }

    private boolean isTyped(String option) {
        return spec.commandLine().getParseResult().hasMatchedOption(option);
    }

    /// Stores the new number of epochs or steps in the options of a run that is extended.
    void keepDuration(RunFolder run) {
        ObjectNode options = JsonFile.read(run.optionsFile());
        options.remove(List.of("epochs", "steps"));
        options.put("epochs", training.epochs);
        options.put("steps", training.steps);
        JsonFile.write(run.optionsFile(), options);
    }

    /// How the rows are read.
    Examples.Options reading(int maxLength) {
        return Examples.Options.of(maxLength);
    }

    /// The model to train.
    OpenModel open() {
        if (!OpenModel.FRESH.equals(model.model)) {
            return OpenModel.of(model);
        }
        return resume == null ? OpenModel.fresh(model) : OpenModel.kept(model, new RunFolder(resume).base());
    }
}
