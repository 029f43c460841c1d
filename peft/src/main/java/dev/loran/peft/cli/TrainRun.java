package dev.loran.peft.cli;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.cli.console.Output;
import dev.loran.peft.cli.console.Progress;
import dev.loran.peft.cli.options.CommonOptions;
import dev.loran.peft.data.Examples;
import dev.loran.peft.task.Evaluation;
import dev.loran.peft.train.MemoryPlan;
import dev.loran.peft.train.RunFolder;
import dev.loran.peft.train.SharedBaseTrainer;
import dev.loran.peft.train.TaskModel;
import dev.loran.peft.train.Trainer;
import dev.loran.peft.train.TrainerConfig;
import dev.loran.peft.train.TrainingListener;
import dev.loran.peft.train.TrainingReport;
import dev.loran.peft.tuner.PeftModel.ParameterCount;
import dev.loran.peft.watch.ProcessMemory;
import dev.loran.peft.watch.TensorBoard;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;

/// The run of a `loran train` whose options are settled: its folder, what it shows, and its result.
///
/// @param plan null if the memory cannot be predicted
record TrainRun(
        TrainCommand command, OpenModel open, @Nullable MemoryPlan plan, TaskRows rows) {
    /// Trains in this process alone, and prints the result.
    ///
    /// @return the exit code
    int train(TaskModel learner, TrainerConfig config) {
        Examples examples = rows.train();
        if (Method.FULL.toString().equals(command.method)) {
            // A whole model is only useful together with its tokenizer.
            Path given = command.model.tokenizer();
            Path tokenizer = given == null ? open.folder() : given;
            learner.alsoSave(saved -> OpenModel.copyTokenizer(tokenizer, saved));
        }
        ParameterCount count = learner.parameterCount();
        TrainingReport report;
        RunFolder folder;
        List<String> unreached = List.of();
        try (Trainer trainer = new Trainer(learner, config)) {
            String what = "%s on %,d rows, %,d steps; %,d of %,d parameters train (%.3f %%)"
                    .formatted(
                            command.method,
                            examples.size(),
                            trainer.plan(examples),
                            count.trainableParameters(),
                            count.totalParameters(),
                            count.trainablePercentage());
            folder = folder();
            try (Progress progress = progress(folder, what, count)) {
                report = trainer.train(examples, rows.heldOut(), folder, progress.and(listeners(folder)));
            }
            if (trainer.step() > 2) {
                unreached = trainer.withoutGradient();
            }
        }
        ObjectNode reached = result(count, report, 1);
        if (report.stopped()) {
            if (command.output.stop().isAsked()) {
                command.output.say("stopped after %d of its steps; it goes on by: loran %s --resume %s"
                        .formatted(report.steps(), command.spec.name().replace("loran ", ""), folder.path()));
            }
            return Main.STOPPED;
        }
        if (!unreached.isEmpty()) {
            unreached.forEach(reached.putArray("without_gradient")::add);
        }
        folder.result(reached);
        command.output.result(reached, command.common.json);
        return Main.DONE;
    }

    // ---- a pass shared with other runs

    /// The run as one of several in a pass.
    SharedBaseTrainer.Run shared(TrainingListener progress) {
        RunFolder folder = folder();
        return new SharedBaseTrainer.Run(folder, progress.and(listeners(folder)));
    }

    /// Writes the result of the run in a pass of `runs`, unless it was stopped.
    void ended(TaskModel learner, TrainingReport report, int runs) {
        ObjectNode reached = result(learner.parameterCount(), report, runs);
        if (!report.stopped()) {
            new RunFolder(command.out).result(reached);
        }
    }

    // ---- the folder, and what is shown

    /// Who listens to the run, besides its progress.
    private TrainingListener listeners(RunFolder folder) {
        return command.tensorboard ? command.beside.and(new TensorBoard(folder.events())) : command.beside;
    }

    private Progress progress(RunFolder folder, String what, ParameterCount count) {
        Progress.Detail detail = new Progress.Detail(command.logEvery, memory());
        return new Progress(command.output, opening(what), detail) {
            @Override
            public void begun(int step, int totalSteps) {
                if (command.prolonged) {
                    command.keepDuration(folder);
                }
                folder.facts(open.facts(plan, rows)
                        .put("steps", totalSteps)
                        .put("trainable_parameters", count.trainableParameters()));
                super.begun(step, totalSteps);
            }
        };
    }

    /// The folder of a new run, or that of the resumed run.
    private RunFolder folder() {
        if (command.resume != null) {
            return RunFolder.resume(command.out);
        }
        return RunFolder.create(command.out, command.place.overwrite, begun -> {
            open.keep(begun.base());
            command.begin.accept(begun);
            begun.options(CommonOptions.resolved(command.spec));
        });
    }

    /// The memory of tensors so far, and what was planned.
    private Supplier<String> memory() {
        String planned = plan == null ? "" : String.format(Locale.ROOT, "of %.0f ", plan.totalMib());
        return () -> String.format(Locale.ROOT, "%.0f %sMiB", open.backend().peakBytes() / (double) (1 << 20), planned);
    }

    /// The messages at the start of a run.
    private List<String> opening(String what) {
        List<String> opening = new ArrayList<>(List.of(open.backendChoice(), what));
        opening.addAll(command.notices);
        if (plan != null) {
            opening.add("tensors: %s; at most %,.1f MiB at once".formatted(plan, plan.totalMib()));
        }
        opening.addAll(rows.notices());
        return opening;
    }

    /// What the run has reached, even if it was stopped.
    ///
    /// @param runs how many trained in the same pass
    private ObjectNode result(ParameterCount count, TrainingReport report, int runs) {
        ObjectNode result = new ObjectMapper()
                .createObjectNode()
                .put("method", command.method)
                .put("dtype", command.model.dtype)
                .put("device", open.device())
                .put("steps", report.steps())
                .put("seconds", report.seconds())
                .put("steps_per_second", report.stepsPerSecond())
                .put("tokens_per_second", report.tokensPerSecond())
                .put("trainable_parameters", count.trainableParameters())
                .put("trainable_percentage", count.trainablePercentage())
                .put("peak_memory_mib", ProcessMemory.peakMib(open.backend().peakBytes()))
                .put("peak_tensor_mib", open.backend().peakBytes() / (double) (1 << 20))
                .put("planned_tensor_mib", plan == null ? null : (Double) plan.totalMib())
                .put("train_loss", report.trainLoss());
        Evaluation best = report.best();
        result.put("eval_loss", best == null ? null : (Double) best.loss());
        result.put("eval_accuracy", best == null ? null : best.metrics().get("accuracy"));
        if (best != null) {
            result.put("eval_" + best.headline().name(), best.headlineValue());
        }
        Examples heldOut = rows.heldOut();
        result.put("rows", rows.train().size())
                .put("held_out", heldOut == null ? null : (Integer) heldOut.size())
                .put("truncated", rows.train().truncated() + (heldOut == null ? 0 : heldOut.truncated()))
                .put("out", command.out.toString());
        if (runs > 1) {
            result.put("runs_in_pass", runs);
        }
        Output.put(result, rows.notices());
        command.reached = result;
        return result;
    }
}
