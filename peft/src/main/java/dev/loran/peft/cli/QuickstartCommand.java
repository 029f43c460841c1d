package dev.loran.peft.cli;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.cli.console.Output;
import dev.loran.peft.cli.console.Progress;
import dev.loran.peft.cli.options.CommonOptions;
import dev.loran.peft.cli.options.OutOptions;
import dev.loran.peft.data.Examples;
import dev.loran.peft.task.Evaluation;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.train.LinearProbe;
import dev.loran.peft.train.RunFolder;
import dev.loran.peft.train.TaskModel;
import dev.loran.peft.train.Trainer;
import dev.loran.peft.train.TrainerConfig;
import dev.loran.peft.tuner.PeftModel;
import dev.loran.peft.watch.ProcessMemory;
import java.nio.file.Path;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/// `loran quickstart`: the main use case, without any preparation.
@Command(
        name = "quickstart",
        description = {
            "Fine-tunes a pretrained encoder by LoRA on the data that comes with Loran: definitions of nouns, "
                    + "to be sorted into ten classes.",
            "Shows the accuracy on held-out definitions of a head on the frozen encoder, trained as long, and "
                    + "of the fine-tuned one; saves the adapter."
        },
        sortOptions = false)
final class QuickstartCommand implements Callable<Integer> {
    private static final int EPOCHS = 2;
    private static final double LEARNING_RATE = 1e-3;

    private final Output output;

    @Spec
    private CommandSpec spec;

    @Option(names = "--rows", paramLabel = "N", description = "rows to train on, of 5000 (${DEFAULT-VALUE})")
    private int rows = 2000;

    @Mixin
    private OutOptions place;

    @Mixin
    private ModelOptions model;

    @Mixin
    private TrainingOptions training;

    @Mixin
    private CommonOptions common;

    QuickstartCommand(Output output) {
        this.output = output;
    }

    static CommandSpec spec(Output output) {
        return CommonOptions.adapt(
                CommandSpec.forAnnotatedObject(new QuickstartCommand(output)),
                Map.of(
                        "--model",
                        "the encoder, as of loran train (minilm)",
                        "--epochs",
                        "passes over the data (" + EPOCHS + ")",
                        "--lr",
                        "highest learning rate (" + LEARNING_RATE + ")",
                        "--overwrite",
                        "replace the run that is in --out already"),
                List.of(
                        "--virtual-tokens",
                        "--encoder",
                        "--loss",
                        "--beta",
                        "--label-smoothing",
                        "--desirable-weight",
                        "--undesirable-weight",
                        "--temperature",
                        "--mini-batch",
                        "--query-prefix",
                        "--passage-prefix"));
    }

    @Override
    public Integer call() {
        long started = System.nanoTime();
        Path out = place.runFolder("loran-quickstart");
        if (model.model == null) {
            model.model = "minilm";
        }
        try (OpenModel open = OpenModel.of(model);
                PeftModel peft = new PeftModel(open.model(), model.seed)) {
            Examples.Options reading =
                    Examples.Options.of(model.maxLength(open, 0, 0)).withTextPrefix(open.textPrefix());
            TaskRows data = TaskRows.shipped(open, reading, rows);
            Examples train = data.train();
            Examples heldOut = Objects.requireNonNull(data.heldOut());
            Method.requireSettings(training, List.of(Method.LORA));
            training.resolve(EPOCHS, LEARNING_RATE);
            TrainerConfig config = training.config(model, Method.LORA);
            RunFolder folder =
                    RunFolder.create(out, place.overwrite, begun -> begun.options(CommonOptions.resolved(spec)));
            TaskCard card = data.card(open, reading, null);
            output.detail(open.describe());
            output.say(open.backendChoice());
            data.notices().forEach(output::say);
            folder.facts(open.facts(null, data));
            Evaluation before = before(peft, card, train, heldOut, config);
            Evaluation after = after(peft, card, train, heldOut, config, folder);
            if (after == null) {
                output.say("stopped; what it came to is in " + folder.last());
                return Main.STOPPED;
            }
            ObjectNode result = new ObjectMapper()
                    .createObjectNode()
                    .put("accuracy_before", before.metric("accuracy"))
                    .put("accuracy_after", after.metric("accuracy"))
                    .put("seconds", (System.nanoTime() - started) / 1e9)
                    .put("rows", train.size())
                    .put("held_out", heldOut.size())
                    .put("truncated", train.truncated() + heldOut.truncated())
                    .put("peak_memory_mib", ProcessMemory.peakMib(open.backend().peakBytes()))
                    .put("adapter", folder.last().toString());
            folder.result(result);
            output.result(result, common.json);
            return after.metric("accuracy") > before.metric("accuracy") ? Main.DONE : Main.FAILED;
        }
    }

    private Evaluation before(PeftModel peft, TaskCard card, Examples train, Examples heldOut, TrainerConfig config) {
        output.say("the frozen encoder with a linear head, on %,d rows, %,d held out"
                .formatted(train.size(), heldOut.size()));
        try (TaskModel frozen = TaskModel.of(peft, card, model.seed)) {
            Evaluation e = LinearProbe.evaluate(frozen, train, heldOut, config, model.seed);
            output.say(String.format(Locale.ROOT, "accuracy before: %.4f", e.metric("accuracy")));
            return e;
        }
    }

    /// The evaluation after training; null if it was stopped.
    private @Nullable Evaluation after(
            PeftModel peft, TaskCard card, Examples train, Examples heldOut, TrainerConfig config, RunFolder folder) {
        peft.addAdapter(
                PeftModel.DEFAULT_ADAPTER,
                Objects.requireNonNull(
                        Method.LORA.config(training, peft.model().task(), config.stepsOver(train.size()))));
        try (TaskModel learner = TaskModel.of(peft, card, model.seed);
                Trainer trainer = new Trainer(learner, config)) {
            output.say("LoRA: %,d parameters train"
                    .formatted(learner.parameterCount().trainableParameters()));
            try (Progress progress = new Progress(output, List.of())) {
                if (trainer.train(train, null, folder, progress).stopped()) {
                    return null;
                }
            }
            Evaluation e = Evaluation.of(learner, heldOut, config.batchSize());
            output.say(String.format(Locale.ROOT, "accuracy after: %.4f", e.metric("accuracy")));
            return e;
        }
    }
}
