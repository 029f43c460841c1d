package dev.loran.peft.cli;

import dev.loran.peft.cli.options.CommonOptions;
import dev.loran.peft.io.InputException;
import dev.loran.peft.task.Task;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.train.MemoryPlan;
import dev.loran.peft.train.TrainerConfig;
import dev.loran.peft.train.TrainerConfig.Checkpoints;
import dev.loran.peft.train.TrainerConfig.Optimization;
import dev.loran.peft.train.TrainerConfig.Rate;
import dev.loran.peft.train.TrainerConfig.Schedule;
import dev.loran.peft.tuner.PeftConfig;
import dev.loran.peft.tuner.PromptEncoderConfig;
import dev.loran.peft.tuner.Targets;
import dev.loran.peft.watch.ProcessMemory;
import java.util.LinkedHashMap;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

/// The options for training, and the sizes of the method.
final class TrainingOptions {
    private static final double HIGHEST_HEAD_RATE = 2.5e-3;

    @Option(names = "--epochs", paramLabel = "N", description = "passes over the data (the method's: see below)")
    @Nullable
    Integer epochs;

    @Option(names = "--steps", paramLabel = "N", description = "optimizer steps, in place of --epochs")
    @Nullable
    Integer steps;

    @Option(names = "--accumulation", paramLabel = "N", description = "batches that make one step (${DEFAULT-VALUE})")
    int accumulation = 1;

    @Option(names = "--lr", paramLabel = "X", description = "highest learning rate (the method's: see below)")
    @Nullable
    Double lr;

    @Option(
            names = "--head-lr",
            paramLabel = "X",
            description = "highest learning rate of the head (5 times --lr, at most 2.5e-3)")
    @Nullable
    Double headLr;

    @Option(names = "--optimizer", paramLabel = "O", description = "adamw, or sgd with momentum 0.9 (${DEFAULT-VALUE})")
    String optimizer = "adamw";

    @Option(
            names = "--loraplus-ratio",
            paramLabel = "X",
            description = "LoRA+: rate of B by that of A, 16 as a rule; of lora, dora and adalora (${DEFAULT-VALUE})")
    double loraPlusRatio = 1;

    @Option(names = "--weight-decay", paramLabel = "X", description = "decoupled weight decay (${DEFAULT-VALUE})")
    double weightDecay = 0.01;

    @Option(
            names = "--warmup",
            paramLabel = "N",
            description = "steps of rising rate (20, or a fifth of the run where that is less)")
    @Nullable
    Integer warmup;

    @Option(
            names = "--schedule",
            paramLabel = "S",
            description = "after the warm-up: constant, linear or cosine (${DEFAULT-VALUE})")
    String schedule = "linear";

    @Option(
            names = "--max-grad-norm",
            paramLabel = "X",
            description = "gradients are clipped to this norm (${DEFAULT-VALUE})")
    double maxGradNorm = 1;

    @Option(
            names = "--loss-scale",
            paramLabel = "X",
            description =
                    "first scale of the loss, for types in which small gradients vanish, 65536 as a rule; 0 for none,"
                            + " which f32 and bf16 need (${DEFAULT-VALUE})")
    double lossScale;

    @Option(
            names = "--skip-bad-steps",
            paramLabel = "N",
            description = "leave out up to N steps whose loss or gradients are NaN or infinite (${DEFAULT-VALUE})")
    int skipBadSteps;

    @Option(names = "--rank", paramLabel = "N", description = "rank of lora, dora and adalora (${DEFAULT-VALUE})")
    int rank = 8;

    @Option(
            names = "--alpha",
            paramLabel = "X",
            description = "alpha of lora, dora and adalora: the rank divides it (${DEFAULT-VALUE})")
    double alpha = 16;

    @Option(
            names = "--dropout",
            paramLabel = "X",
            description = "dropout of lora, dora, adalora and adapter (${DEFAULT-VALUE})")
    double dropout = 0.05;

    @Option(
            names = "--targets",
            paramLabel = "LIST",
            description =
                    "modules to adapt: names with commas between, all-linear, or /a regular expression/ (query and "
                            + "value, under the names that the model has for them)")
    @Nullable
    String targets;

    @Option(
            names = "--virtual-tokens",
            paramLabel = "N",
            description = "virtual tokens of p-tuning, prompt and prefix (${DEFAULT-VALUE})")
    int virtualTokens = 20;

    @Option(
            names = "--encoder",
            paramLabel = "E",
            description = "what makes p-tuning's virtual tokens: mlp, lstm or transformer (${DEFAULT-VALUE})")
    String encoder = "mlp";

    @Option(
            names = "--loss",
            paramLabel = "L",
            description = "prefer: dpo; ipo, whose answers count by their mean token; or kto, for answers that were "
                    + "judged one by one (dpo)")
    @Nullable
    String loss;

    @Option(
            names = "--beta",
            paramLabel = "X",
            description = "prefer: the larger, the closer the model stays to what it was (0.1)")
    @Nullable
    String beta;

    @Option(
            names = "--label-smoothing",
            paramLabel = "X",
            description = "prefer: the share of rows assumed to prefer the wrong answer, below 0.5 (0)")
    @Nullable
    String labelSmoothing;

    @Option(
            names = "--desirable-weight",
            paramLabel = "X",
            description = "prefer with kto: how much an answer counts that is desirable (1)")
    @Nullable
    String desirableWeight;

    @Option(
            names = "--undesirable-weight",
            paramLabel = "X",
            description = "prefer with kto: how much one counts that is not (1)")
    @Nullable
    String undesirableWeight;

    @Option(
            names = "--temperature",
            paramLabel = "X",
            description = "embed: what the cosines are divided by in the loss (0.05)")
    @Nullable
    String temperature;

    @Option(
            names = "--mini-batch",
            paramLabel = "N",
            description = "embed: the most texts that pass the model together; with it, a batch may exceed memory, for "
                    + "one more forward pass (all)")
    @Nullable
    String miniBatch;

    @Mixin
    PrefixOptions prefixes = new PrefixOptions();

    @Option(
            names = "--set",
            paramLabel = "FIELD=VALUE",
            description = "a field of the method's configuration by its name in peft's files, such as use_rslora=true; "
                    + "may be repeated")
    Map<String, String> set = new LinkedHashMap<>();

    @Option(
            names = "--ignore-memory",
            description = "train although the tensors are planned to need more memory than there is")
    boolean ignoreMemory;

    /// The task of this name, with the settings that were given.
    Task task(String name) {
        Map<String, String> settings = new LinkedHashMap<>();
        putIfGiven(settings, "loss", loss);
        putIfGiven(settings, "beta", beta);
        putIfGiven(settings, "label_smoothing", labelSmoothing);
        putIfGiven(settings, "desirable_weight", desirableWeight);
        putIfGiven(settings, "undesirable_weight", undesirableWeight);
        putIfGiven(settings, "temperature", temperature);
        putIfGiven(settings, "mini_batch", miniBatch);
        settings.putAll(prefixes.settings());
        return Task.named(name).with(settings);
    }

    private static void putIfGiven(Map<String, String> settings, String name, @Nullable String value) {
        if (value != null) {
            settings.put(name, value);
        }
    }

    /// Predicts the memory that training `open` will take; null if that is not possible.
    ///
    /// @param method null if the whole model trains
    /// @throws InputException if this machine does not have that much memory
    @Nullable
    MemoryPlan plan(OpenModel open, @Nullable PeftConfig method, TaskCard card, TrainerConfig config, TaskRows rows) {
        MemoryPlan plan = open.plan(method, card, config, rows);
        if (plan != null && !ignoreMemory) {
            ProcessMemory.requireRoom(plan, open.totalBytes(), config.batchSize(), card.maxLength());
        }
        return plan;
    }

    /// Fills in the defaults.
    void resolve(int usualEpochs, double usualLr) {
        if (epochs == null && steps == null) {
            epochs = usualEpochs;
        }
        if (lr == null) {
            lr = usualLr;
        }
        if (headLr == null) {
            headLr = headRate(lr);
        }
    }

    /// A head starts from random weights and trains at a higher rate than the rest, but not at five times the rate of
    /// parameters that need a high rate themselves, such as AdaLoRA's singular values and virtual tokens: on the
    /// shipped task that costs more than one point.
    private static double headRate(double lr) {
        return Math.min(5 * lr, HIGHEST_HEAD_RATE);
    }

    /// The trainer's configuration, with the method's own rate and duration as defaults.
    TrainerConfig config(ModelOptions model, Method method) {
        double peak = lr == null ? method.learningRate : lr;
        double head = (headLr == null ? headRate(peak) : headLr) / peak;
        if (steps != null && steps < 1) {
            throw new InputException("--steps " + steps + " must be at least 1");
        }
        if (loraPlusRatio != 1 && !method.hasLora()) {
            throw new InputException(
                    "--loraplus-ratio is for lora, dora and adalora; " + method + " has no A and B: leave it out");
        }
        TrainerConfig config = TrainerConfig.defaults()
                .withRate(new Rate(peak, head, Schedule.named(schedule), warmup))
                .withOptimizer(
                        Optimization.of(Optimization.Kind.named(optimizer)).withLoraPlus(loraPlusRatio))
                .withBatch(model.batchSize(), accumulation)
                .withWeightDecay(weightDecay)
                .withMaxGradNorm(maxGradNorm)
                .withLossScale(lossScale)
                .withSeed(model.seed)
                .withSkippedBadSteps(skipBadSteps)
                // Only a run of `train` can be resumed; that command sets the number.
                .withCheckpoints(new Checkpoints(0, 1))
                .withEpochs(epochs == null ? method.epochs : epochs);
        return steps == null ? config : config.withSteps(steps);
    }

    Targets targets() {
        if (targets == null) {
            return Targets.modelDefault();
        }
        if (targets.length() > 1 && targets.startsWith("/") && targets.endsWith("/")) {
            return Targets.regex(targets.substring(1, targets.length() - 1));
        }
        if (targets.equals("all-linear")) {
            return Targets.allLinear();
        }
        return Targets.of(CommonOptions.names("--targets", targets));
    }

    /// The prompt encoder that [#encoder] names.
    PromptEncoderConfig.Encoder encoder() {
        for (PromptEncoderConfig.Encoder kind : PromptEncoderConfig.Encoder.values()) {
            if (kind.name().equalsIgnoreCase(encoder)) {
                return kind;
            }
        }
        throw new InputException("--encoder " + encoder + " is not known; choose mlp, lstm or transformer");
    }
}
