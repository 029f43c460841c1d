package dev.loran.peft.continual;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Tensor;
import dev.loran.peft.continual.TaskSequence.Stage;
import dev.loran.peft.data.Example;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Labels;
import dev.loran.peft.io.Drafts;
import dev.loran.peft.io.InputException;
import dev.loran.peft.io.JsonFile;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.TaskType;
import dev.loran.peft.task.ClassifyTask;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.train.RunFolder;
import dev.loran.peft.train.TaskModel;
import dev.loran.peft.train.Trainer;
import dev.loran.peft.train.TrainerConfig;
import dev.loran.peft.train.TrainingListener;
import dev.loran.peft.train.TrainingReport;
import dev.loran.peft.tuner.AdaLoraConfig;
import dev.loran.peft.tuner.Combination;
import dev.loran.peft.tuner.LoraConfig;
import dev.loran.peft.tuner.PeftConfig;
import dev.loran.peft.tuner.PeftModel;
import dev.loran.peft.tuner.Tuner;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.EnumMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.function.BooleanSupplier;
import java.util.function.Function;
import java.util.function.IntFunction;
import org.jspecify.annotations.Nullable;

/// Trains a model on one task after the other, and measures after each how well it does on all of them.
///
/// ```java
/// RunFolder run = RunFolder.create(out);
/// ContinualTrainer trainer = new ContinualTrainer(
///         model, steps -> LoraConfig.defaults(), card, TrainerConfig.defaults(), new Strategy.Rehearsal(200));
/// ContinualTrainer.Report report = trainer.train(tasks, run, stage -> new TrainingListener() {});
/// ```
///
/// Each task is a run in a folder of its own, [RunFolder#task], with a new optimizer and the whole schedule of the
/// learning rate; it starts from the files of the task before. A run that was killed or stopped continues by the same
/// call, with the same bytes as the result: finished tasks are kept, and an unfinished one resumes from its newest
/// checkpoint. The earlier tasks' rows are needed to resume (for measuring, and rehearsal), and must not have changed.
///
/// The run's own folder gets `continual.json` (the scores, [ScoreMatrix]), a picture of them, and in `last/` the
/// adapter after the last task: with O-LoRA, the sum of all tasks' LoRAs; with one adapter per task, none.
public final class ContinualTrainer {
    private static final String FISHER = "fisher";
    private static final String FISHER_FILE = "fisher.safetensors";
    private static final String SCORES = "scores";
    private static final String INITIAL = "initial";

    private final Model model;
    private final IntFunction<PeftConfig> method;
    private final TaskCard card;
    private final TrainerConfig config;
    private final Strategy strategy;

    /// The outcome of a run.
    ///
    /// @param scores for each scenario in which it was measured, the most demanding first
    /// @param steps optimizer steps, of all tasks
    /// @param seconds time spent in the training loops
    public record Report(Map<Scenario, ScoreMatrix> scores, int steps, double seconds) {}

    /// @param method the fine-tuning method, given the number of optimizer steps of a task
    /// @param card how texts are read and pooled, and the base model; its classes are not used
    /// @param config for each task; its seed also draws initial values and the rows to rehearse
    /// @throws InputException if the strategy does not work with the method or the model
    public ContinualTrainer(
            Model model, IntFunction<PeftConfig> method, TaskCard card, TrainerConfig config, Strategy strategy) {
        this.model = model;
        this.method = method;
        this.card = card;
        this.config = config;
        this.strategy = strategy;
        PeftConfig any = method.apply(1000);
        if (strategy instanceof Strategy.OrthogonalLora && !(any instanceof LoraConfig lora && !lora.useDora())) {
            throw new InputException("strategy olora adds up LoRAs; choose method lora");
        }
        if (any instanceof AdaLoraConfig && !(strategy instanceof Strategy.Separate)) {
            throw new InputException(
                    "adalora cuts ranks by a schedule over one run and cannot be trained on, as strategy "
                            + strategy.name() + " does with each task; choose another method, or strategy separate");
        }
        if (card.task() instanceof ClassifyTask && model.task() == TaskType.SEQ_CLS) {
            throw new InputException(model.title()
                    + " has a classification head of its own, which cannot gain classes; use a model without one");
        }
    }

    /// Trains on all tasks, or continues a run in `folder`.
    ///
    /// @param listeners called before a task is trained; its listener's [TrainingListener#wantsStop] is also asked
    ///     while the model is measured
    /// @return null if the run was stopped
    /// @throws InputException if the rows of a finished task are not those it was trained on, and as [Trainer#train]
    public @Nullable Report train(TaskSequence tasks, RunFolder folder, Function<Stage, TrainingListener> listeners) {
        Run run = new Run(tasks, folder, Scenario.of(tasks, strategy));
        try (RunFolder.Reserved reserved = folder.reserve()) {
            List<ObjectNode> results = new ArrayList<>();
            for (int i = 0; i < tasks.stages().size(); i++) {
                ObjectNode result = run.finished(i);
                if (result == null) {
                    result =
                            run.stage(i, results, listeners.apply(tasks.stages().get(i)));
                }
                if (result == null) {
                    return null;
                }
                results.add(result);
            }
            return run.report(results);
        }
    }

    /// What is in training, and the tensors that the strategy compares it with.
    private record Trainee(PeftModel peft, TaskModel learner, List<Tensor> beside) implements AutoCloseable {
        @Override
        public void close() {
            learner.close();
            peft.close();
            beside.forEach(Tensor::close);
        }
    }

    /// One call of [#train].
    private final class Run {
        private final TaskSequence tasks;
        private final RunFolder folder;
        private final List<Scenario> scenarios;

        Run(TaskSequence tasks, RunFolder folder, List<Scenario> scenarios) {
            this.tasks = tasks;
            this.folder = folder;
            this.scenarios = scenarios;
        }

        private Stage stage(int i) {
            return tasks.stages().get(i);
        }

        private Path place(int i) {
            return folder.task(i + 1);
        }

        private Path last(int i) {
            return new RunFolder(place(i)).last();
        }

        private long seed(int i) {
            return config.seed() + i;
        }

        // ---- one task

        /// The result of a task that is done; null if it is not.
        @Nullable
        ObjectNode finished(int i) {
            Path file = place(i).resolve(RunFolder.RESULT);
            if (!Files.exists(file)) {
                return null;
            }
            ObjectNode result = JsonFile.read(file);
            requireSame(result, i, "rows", stage(i).train());
            requireSame(result, i, "held_out_rows", stage(i).heldOut());
            return result;
        }

        private void requireSame(ObjectNode result, int i, String what, Examples now) {
            if (!result.path(what).asText().equals(now.sha256())) {
                throw new InputException("%s: %s of task %s have changed since it was trained; begin another run"
                        .formatted(place(i), what.replace('_', ' '), stage(i).name()));
            }
        }

        /// Trains and measures a task; null if it was stopped.
        @Nullable
        ObjectNode stage(int i, List<ObjectNode> before, TrainingListener listener) {
            BooleanSupplier stop =
                    () -> listener.wantsStop() || Thread.currentThread().isInterrupted();
            Examples rows = rows(i);
            RunFolder run = RunFolder.isRun(place(i)) ? RunFolder.resume(place(i)) : RunFolder.create(place(i));
            ObjectNode result = JsonNodeFactory.instance
                    .objectNode()
                    .put("task", stage(i).name())
                    .put("rows", stage(i).train().sha256())
                    .put("held_out_rows", stage(i).heldOut().sha256());
            try (Trainee trainee = trainee(i, rows)) {
                if (i == 0 && !measure(trainee.learner, -1, List.of(), result.putObject(INITIAL), stop)) {
                    return null;
                }
                TrainingReport report;
                try (Trainer trainer = new Trainer(trainee.learner, config)) {
                    report = trainer.train(rows, null, run, listener);
                }
                if (report.stopped()
                        || !keepFisher(i, trainee.learner, run, stop)
                        || !measure(trainee.learner, i, before, result.putObject(SCORES), stop)) {
                    return null;
                }
                result.put("steps", report.steps())
                        .put("train_loss", report.trainLoss())
                        .put("seconds", report.seconds());
            }
            run.result(result);
            return result;
        }

        /// What a task is trained on: its rows, and those to rehearse.
        private Examples rows(int i) {
            Examples own = stage(i).train();
            if (!(strategy instanceof Strategy.Rehearsal(int memory)) || i == 0) {
                return own;
            }
            Reservoir<int[]> seen = new Reservoir<>(memory, config.seed());
            for (int task = 0; task < i; task++) {
                for (int row = 0; row < stage(task).train().size(); row++) {
                    seen.add(new int[] {task, row});
                }
            }
            List<Example> again = new ArrayList<>();
            seen.items().forEach(place -> again.add(stage(place[0]).train().row(place[1])));
            return own.plus(again);
        }

        /// The classes of the head in training on task i.
        private @Nullable Labels labels(int i) {
            return strategy instanceof Strategy.Separate ? stage(i).train().labelsOrNull() : tasks.labelsAfter(i + 1);
        }

        private Trainee trainee(int i, Examples rows) {
            boolean alone = i == 0 || strategy instanceof Strategy.Separate;
            Anchor before = alone ? null : values(i - 1);
            List<Tensor> beside =
                    new ArrayList<>(before == null ? List.of() : before.values().values());
            PeftModel peft = new PeftModel(model, seed(i));
            TaskModel learner = null;
            boolean done = false;
            try {
                peft.addAdapter(PeftModel.DEFAULT_ADAPTER, method.apply(config.stepsOver(rows.size())));
                learner = TaskModel.of(peft, card.withLabels(labels(i)), seed(i));
                if (before != null) {
                    goOn(i, peft, learner, before, beside);
                }
                done = true;
                return new Trainee(peft, learner, beside);
            } finally {
                if (!done) {
                    if (learner != null) {
                        learner.close();
                    }
                    peft.close();
                    beside.forEach(Tensor::close);
                }
            }
        }

        /// The parameters after task i.
        private Anchor values(int i) {
            requireBase(i);
            try (PeftModel peft = new PeftModel(model, seed(i));
                    TaskModel trained = TaskModel.load(peft, last(i))) {
                return Anchor.of(trained);
            }
        }

        private void requireBase(int i) {
            TaskCard.Base base = card.base();
            if (base != null) {
                TaskCard.read(last(i)).requireBase(base, last(i));
            }
        }

        /// Continues from the values after the task before, as the strategy says.
        ///
        /// @param beside receives the tensors that are needed as long as `learner`
        private void goOn(int i, PeftModel peft, TaskModel learner, Anchor before, List<Tensor> beside) {
            boolean adds = strategy instanceof Strategy.OrthogonalLora;
            before.copyTo(learner, name -> !adds || learner.isHead(name));
            Map<String, Tensor> now = learner.parameters();
            String name = strategy.toJson().toString();
            switch (strategy) {
                case Strategy.L2(double lambda) -> learner.penalize(name, () -> before.penalty(now, null, lambda));
                case Strategy.Ewc(double lambda, double decay, int rows) -> {
                    Path file = place(i - 1).resolve(FISHER).resolve(FISHER_FILE);
                    Anchor fisher = Anchor.read(file, model.backend());
                    beside.addAll(fisher.values().values());
                    before.requireFits(fisher, file);
                    learner.penalize(name, () -> before.penalty(now, fisher.values(), lambda));
                }
                case Strategy.OrthogonalLora(double lambda) -> {
                    List<String> names = load(peft, i);
                    peft.setAdapter(PeftModel.DEFAULT_ADAPTER, names);
                    List<Tuner> earlier = names.stream()
                            .map(task -> Objects.requireNonNull(peft.adapters().get(task), task))
                            .toList();
                    Subspaces subspaces = Subspaces.of(peft.active(), earlier);
                    beside.addAll(subspaces.rows().values());
                    learner.penalize(name, () -> subspaces.penalty(now, lambda));
                }
                case Strategy.Sequential _, Strategy.Separate _, Strategy.Rehearsal _ -> {}
            }
        }

        /// Loads the LoRAs of the first `count` tasks, without their heads, and returns their names.
        private List<String> load(PeftModel peft, int count) {
            List<String> names = new ArrayList<>();
            for (int i = 0; i < count; i++) {
                names.add("task-" + (i + 1));
                peft.loadAdapter(names.getLast(), last(i), false);
            }
            return names;
        }

        /// Writes what the parameters are worth to the tasks up to i, if a later one needs it.
        ///
        /// @return false if it was stopped
        private boolean keepFisher(int i, TaskModel learner, RunFolder run, BooleanSupplier stop) {
            if (!(strategy instanceof Strategy.Ewc ewc) || i == tasks.stages().size() - 1) {
                return true;
            }
            Anchor fisher = Anchor.fisher(learner, stage(i).train(), ewc.rows(), config.seed(), stop);
            if (fisher == null) {
                return false;
            }
            try (fisher) {
                if (i > 0) {
                    Path earlier = place(i - 1).resolve(FISHER).resolve(FISHER_FILE);
                    try (Anchor before = Anchor.read(earlier, model.backend())) {
                        fisher.add(before, ewc.decay());
                    }
                }
                new Drafts(run.path()).put(FISHER, draft -> fisher.write(draft.resolve(FISHER_FILE)));
                return true;
            } catch (IOException e) {
                throw InputException.io(run.path(), "the Fisher information cannot be written", e);
            }
        }

        // ---- scores

        /// Measures on every task that the head has a class of.
        ///
        /// @param after the task that was trained last; -1 for none
        /// @return false if it was stopped
        private boolean measure(
                TaskModel learner, int after, List<ObjectNode> before, ObjectNode into, BooleanSupplier stop) {
            int n = tasks.stages().size();
            double[][] scores = new double[scenarios.size()][n];
            for (double[] row : scores) {
                Arrays.fill(row, Double.NaN);
            }
            Labels head = labels(Math.max(0, after));
            for (int task = 0; task < n; task++) {
                if (strategy instanceof Strategy.Separate && task != after) {
                    if (task < after) {
                        scores[0][task] = row(before.get(task), SCORES, scenarios.getFirst())[task];
                    }
                    continue;
                }
                List<String> classes = stage(task).classes();
                if (head != null && !classes.isEmpty() && Collections.disjoint(head.names(), classes)) {
                    continue;
                }
                double[] found = Scenario.scores(learner, stage(task), head, scenarios, config.batchSize(), stop);
                if (found == null) {
                    return false;
                }
                for (int s = 0; s < found.length; s++) {
                    scores[s][task] = found[s];
                }
            }
            for (int s = 0; s < scores.length; s++) {
                ScoreMatrix.put(into.putArray(scenarios.get(s).toString()), scores[s]);
            }
            return true;
        }

        private double[] row(ObjectNode result, String what, Scenario scenario) {
            JsonNode values = result.path(what).path(scenario.toString());
            double[] row = new double[tasks.stages().size()];
            for (int i = 0; i < row.length; i++) {
                row[i] = values.path(i).asDouble(Double.NaN);
            }
            return row;
        }

        Report report(List<ObjectNode> results) {
            Map<Scenario, ScoreMatrix> scores = new EnumMap<>(Scenario.class);
            List<String> names = tasks.stages().stream().map(Stage::name).toList();
            ObjectNode json = JsonNodeFactory.instance.objectNode();
            json.set("strategy", strategy.toJson());
            for (int i = 0; i < results.size(); i++) {
                ObjectNode task = json.withArray("tasks").addObject();
                task.put("name", names.get(i)).put("rows", stage(i).train().size());
                task.put("held_out_rows", stage(i).heldOut().size());
                stage(i).classes().forEach(task.putArray("classes")::add);
            }
            json.put("metric", tasks.kind().headline().name());
            for (Scenario scenario : scenarios) {
                double[][] matrix = new double[results.size()][];
                for (int i = 0; i < matrix.length; i++) {
                    matrix[i] = row(results.get(i), SCORES, scenario);
                }
                double[] initial = row(results.getFirst(), INITIAL, scenario);
                ScoreMatrix all = new ScoreMatrix(names, tasks.kind().headline(), initial, matrix);
                scores.put(scenario, all);
                json.set(scenario.toString(), all.toJson());
            }
            keepSum(results.size());
            JsonFile.write(folder.scores(), json);
            ScoreMatrix main = Objects.requireNonNull(scores.get(scenarios.getFirst()));
            JsonFile.write(
                    folder.heatMap(),
                    main.toSvg(main.metric().name() + ", " + strategy.name() + " ("
                            + scenarios.getFirst().toString().replace('_', '-') + ")"));
            int steps = results.stream().mapToInt(r -> r.path("steps").asInt()).sum();
            double seconds = results.stream()
                    .mapToDouble(r -> r.path("seconds").asDouble())
                    .sum();
            return new Report(scores, steps, seconds);
        }

        /// Writes the adapter for all tasks, if there is one.
        private void keepSum(int count) {
            if (strategy instanceof Strategy.Separate) {
                return;
            }
            requireBase(count - 1);
            if (!(strategy instanceof Strategy.OrthogonalLora)) {
                try (PeftModel peft = new PeftModel(model, seed(0));
                        TaskModel trained = TaskModel.load(peft, last(count - 1))) {
                    folder.save(trained, folder.last());
                }
                return;
            }
            try (Anchor after = values(count - 1);
                    PeftModel peft = new PeftModel(model, seed(0))) {
                List<String> names = load(peft, count);
                peft.addWeightedAdapter(
                        PeftModel.DEFAULT_ADAPTER, names, Collections.nCopies(count, 1.0), Combination.cat());
                peft.setAdapter(PeftModel.DEFAULT_ADAPTER);
                try (TaskModel sum = TaskModel.of(peft, card.withLabels(labels(count - 1)), seed(0))) {
                    after.copyTo(sum, sum::isHead);
                    folder.save(sum, folder.last());
                }
            }
        }
    }
}
