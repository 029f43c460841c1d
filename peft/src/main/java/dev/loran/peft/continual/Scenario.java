package dev.loran.peft.continual;

import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.peft.continual.TaskSequence.Stage;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.DataLoader;
import dev.loran.peft.data.Labels;
import dev.loran.peft.task.ClassifyTask;
import dev.loran.peft.task.Evaluation;
import dev.loran.peft.train.TaskModel;
import java.util.HashSet;
import java.util.List;
import java.util.Locale;
import java.util.function.BooleanSupplier;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;

/// What is known about a text when a model is measured on an earlier task. **Paper**: van de Ven and Tolias, "Three
/// scenarios for continual learning", 2019.
public enum Scenario {
    /// Nothing: the answer is the best of all classes that the model has learned so far.
    CLASS_INCREMENTAL,
    /// Which task it is from: the answer is the best of that task's classes.
    TASK_INCREMENTAL,
    /// Nothing, and it does not matter: all tasks have the same classes, or none.
    DOMAIN_INCREMENTAL;

    /// In lower case, as in files.
    @Override
    public String toString() {
        return name().toLowerCase(Locale.ROOT);
    }

    /// Those in which a run is measured, the most demanding first. An adapter of its own can only be chosen by someone
    /// who knows the task.
    static List<Scenario> of(TaskSequence tasks, Strategy strategy) {
        if (strategy instanceof Strategy.Separate) {
            return List.of(TASK_INCREMENTAL);
        }
        boolean same = tasks.stages().stream()
                        .map(stage -> new HashSet<>(stage.classes()))
                        .distinct()
                        .count()
                == 1;
        return same ? List.of(DOMAIN_INCREMENTAL) : List.of(CLASS_INCREMENTAL, TASK_INCREMENTAL);
    }

    /// The scores of a model on the held-out rows of `stage`, one for each of `scenarios`: the accuracy, or for a task
    /// without classes its headline metric. A row of a class that the head lacks is answered wrongly.
    ///
    /// @param head the classes of the model's head; null if it has none
    /// @return null if `stop` returned true between two batches
    static double @Nullable [] scores(
            TaskModel model,
            Stage stage,
            @Nullable Labels head,
            List<Scenario> scenarios,
            int batchSize,
            BooleanSupplier stop) {
        if (head == null || !(model.task() instanceof ClassifyTask)) {
            Evaluation e = Evaluation.of(model, stage.heldOut(), batchSize, stop);
            return e == null
                    ? null
                    : scenarios.stream().mapToDouble(s -> e.headlineValue()).toArray();
        }
        int[] all = IntStream.range(0, head.size()).toArray();
        int[] own = IntStream.of(all)
                .filter(id -> stage.classes().contains(head.names().get(id)))
                .toArray();
        int[] right = new int[scenarios.size()];
        model.train(false);
        try (Autograd.Mode mode = Autograd.noGrad()) {
            for (Batch batch : new DataLoader(stage.heldOut(), DataLoader.Options.evaluation(batchSize)).epoch(0)) {
                if (stop.getAsBoolean()) {
                    return null;
                }
                double[] logits;
                try (Scope scope = Scope.open()) {
                    logits = model.logits(batch).toDoubles();
                }
                for (int row = 0; row < batch.batchSize(); row++) {
                    for (int s = 0; s < right.length; s++) {
                        int[] among = scenarios.get(s) == TASK_INCREMENTAL ? own : all;
                        right[s] += best(logits, row * head.size(), among) == batch.labels()[row] ? 1 : 0;
                    }
                }
            }
        }
        return IntStream.of(right)
                .mapToDouble(n -> (double) n / stage.heldOut().size())
                .toArray();
    }

    /// The id in `among` with the largest logit; the first of equal ones.
    private static int best(double[] logits, int from, int[] among) {
        int best = among[0];
        for (int id : among) {
            best = logits[from + id] > logits[from + best] ? id : best;
        }
        return best;
    }
}
