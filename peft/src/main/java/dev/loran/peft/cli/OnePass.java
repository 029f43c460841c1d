package dev.loran.peft.cli;

import dev.loran.peft.cli.console.Output;
import dev.loran.peft.cli.console.Progress;
import dev.loran.peft.task.Evaluation;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.train.MemoryPlan;
import dev.loran.peft.train.SharedBaseTrainer;
import dev.loran.peft.train.SharedBaseTrainer.Configuration;
import dev.loran.peft.train.SharedBaseTrainer.Outcome;
import dev.loran.peft.train.StepResult;
import dev.loran.peft.train.TrainerConfig;
import dev.loran.peft.train.TrainingReport;
import dev.loran.peft.tuner.PeftConfig;
import dev.loran.peft.watch.ProcessMemory;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.TreeSet;
import org.jspecify.annotations.Nullable;

/// Runs of a sweep that train in one pass over one model: see [SharedBaseTrainer].
final class OnePass {
    /// The options in which runs of a pass may differ: they concern the adapter and its optimizer, and not the model,
    /// the rows or their batches.
    private static final Set<String> MAY_DIFFER = Set.of(
            "method",
            "rank",
            "alpha",
            "dropout",
            "targets",
            "lr",
            "head-lr",
            "optimizer",
            "loraplus-ratio",
            "weight-decay",
            "warmup",
            "schedule",
            "max-grad-norm",
            "loss-scale",
            "skip-bad-steps",
            "epochs",
            "steps",
            "eval-every",
            "patience");

    private static final Set<String> METHODS = Set.of("lora", "dora", "adalora", "adapter", "ia3");

    private final Output output;
    private final List<String> names = new ArrayList<>();
    private final List<TrainCommand> commands = new ArrayList<>();
    private final List<@Nullable RuntimeException> failures = new ArrayList<>();

    OnePass(Output output) {
        this.output = output;
    }

    /// What runs must have in common to share a pass, as a text; null if a run cannot share one.
    ///
    /// @param values the options that vary in the sweep
    static @Nullable String common(Map<String, String> values, TrainCommand command) {
        if (!METHODS.contains(command.method) || command.startsFromAdapter()) {
            return null;
        }
        StringBuilder same = new StringBuilder();
        values.forEach((name, value) -> {
            if (!MAY_DIFFER.contains(name) && !name.startsWith("set.")) {
                same.append(name).append('=').append(value).append(' ');
            }
        });
        return same.toString();
    }

    /// @param name of the run, for messages
    void add(String name, TrainCommand command) {
        names.add(name);
        commands.add(command);
        failures.add(null);
    }

    /// Why run `number` failed; null if it did not.
    @Nullable
    RuntimeException failure(int number) {
        return failures.get(number);
    }

    /// Trains the runs until each is over or stopped.
    ///
    /// @throws dev.loran.peft.io.InputException for what concerns all of them
    void train() {
        List<TrainerConfig> configs = new ArrayList<>();
        for (TrainCommand command : commands) {
            command.settle();
            configs.add(command.config());
        }
        TrainCommand first = commands.getFirst();
        try (OpenModel open = first.open()) {
            TaskRows rows = first.rows(open);
            List<Configuration> configurations = new ArrayList<>();
            List<@Nullable MemoryPlan> plans = new ArrayList<>();
            TaskCard card = null;
            for (int i = 0; i < commands.size(); i++) {
                TrainCommand command = commands.get(i);
                card = command.card(open, command.reading(open, null), rows);
                PeftConfig method = Objects.requireNonNull(command.adapter(open, configs.get(i), rows));
                configurations.add(new Configuration(method, configs.get(i)));
                plans.add(open.plan(method, card, configs.get(i), rows));
            }
            TaskCard same = Objects.requireNonNull(card);
            MemoryPlan plan = together(plans);
            if (plan != null && !first.training.ignoreMemory) {
                ProcessMemory.requireRoom(
                        plan, open.totalBytes(), configs.getFirst().batchSize(), same.maxLength());
            }
            try (SharedBaseTrainer trainer = new SharedBaseTrainer(open.model(), same, configurations)) {
                train(open, trainer, rows, plan);
            }
        }
    }

    private void train(OpenModel open, SharedBaseTrainer trainer, TaskRows rows, @Nullable MemoryPlan plan) {
        Set<Integer> going = new TreeSet<>();
        List<TrainRun> trained = new ArrayList<>();
        List<SharedBaseTrainer.Run> runs = new ArrayList<>();
        List<Progress> shown = new ArrayList<>();
        try {
            for (int i = 0; i < commands.size(); i++) {
                going.add(i);
                Progress progress = new Shown(i, going, i == 0 ? opening(open, rows, plan) : List.of());
                shown.add(progress);
                TrainRun run = new TrainRun(commands.get(i), open, plan, rows);
                trained.add(run);
                runs.add(run.shared(progress));
            }
            List<Outcome> outcomes = trainer.train(rows.train(), rows.heldOut(), runs);
            for (int i = 0; i < commands.size(); i++) {
                TrainingReport report = outcomes.get(i).report();
                if (report != null) {
                    trained.get(i).ended(trainer.learner(i), report, commands.size());
                }
                failures.set(i, outcomes.get(i).failure());
            }
        } finally {
            shown.forEach(Progress::close);
        }
    }

    private List<String> opening(OpenModel open, TaskRows rows, @Nullable MemoryPlan plan) {
        List<String> lines = new ArrayList<>(List.of(open.backendChoice()));
        if (plan != null) {
            lines.add("tensors of the pass: %s; at most %,.1f MiB at once".formatted(plan, plan.totalMib()));
        }
        lines.addAll(rows.notices());
        return lines;
    }

    /// The weights of the base once, and all else of each run.
    private static @Nullable MemoryPlan together(List<@Nullable MemoryPlan> plans) {
        MemoryPlan sum = null;
        for (MemoryPlan p : plans) {
            if (p == null) {
                return null;
            }
            sum = sum == null
                    ? p
                    : new MemoryPlan(
                            Math.max(sum.weights(), p.weights()),
                            sum.activations() + p.activations(),
                            sum.training() + p.training(),
                            sum.total() + Math.max(0, p.total() - p.weights()));
        }
        return sum;
    }

    /// The progress of one run: its steps while it is the first of those that are going on, and all its evaluations.
    private final class Shown extends Progress {
        private final int number;
        private final Set<Integer> going;

        Shown(int number, Set<Integer> going, List<String> opening) {
            super(output, opening);
            this.number = number;
            this.going = going;
        }

        private boolean isFirst() {
            return going.iterator().next() == number;
        }

        @Override
        public void step(StepResult result, int totalSteps, double seconds) {
            if (isFirst() || result.problem() != null) {
                super.step(result, totalSteps, seconds);
            }
        }

        @Override
        public void evaluated(int step, Evaluation e, boolean best) {
            output.say(names.get(number));
            super.evaluated(step, e, best);
        }

        @Override
        public void ended(TrainingReport report) {
            if (going.size() > 1) {
                going.remove(number);
            }
        }
    }
}
