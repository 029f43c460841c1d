package dev.loran.peft.task;

import dev.loran.engine.Tensor;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Labels;
import dev.loran.peft.data.RowForm;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.generation.GenerationConfig;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.Problem;
import dev.loran.peft.model.WithPooler;
import dev.loran.peft.task.TextClassifier.Pooling;
import java.lang.reflect.InvocationTargetException;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.function.Predicate;
import org.jspecify.annotations.Nullable;

/// What a model is trained to do. A task defines the format of the data rows, the head, the loss, and the metrics.
///
/// A task of your own implements this interface. It then works wherever a shipped one does: in [TaskCard], in a
/// trainer, in a memory plan, and on the command line by the name of its class (`--task com.acme.Tagging`), which must
/// be on the class path and have a public constructor without parameters.
///
/// | what | where |
/// |---|---|
/// | a row, its fields, its encoding as token ids | [#row], [#encoding] |
/// | the targets of the loss | [#targets] |
/// | the head and the loss | [#head] |
/// | what an evaluation computes and measures | [#asked], [#meter], [#headline] |
public interface Task extends RowForm {
    /// The name for `--task` and in `loran.json`; for a task that does not come with Loran, the name of its class.
    @Override
    default String name() {
        return getClass().getName();
    }

    @Override
    Targets targets(Examples examples, int[] rows, int length);

    /// The head for a model: a new one, or one from the files of a trained model.
    ///
    /// @throws InputException if the model cannot do this task
    Head head(Site site);

    /// What an evaluation computes with a model: its outputs, unless the loss is sufficient.
    default Tensor asked(Forward model, Batch batch) {
        return model.logits(batch);
    }

    /// A meter for the outputs of a model on `rows`.
    Meter meter(Examples rows);

    /// The metric that best shows how well a model does, apart from the loss.
    Metric headline();

    /// As above, where it depends on the rows: of the metrics that an evaluation had.
    ///
    /// @param measured whether it had the metric of a name
    default Metric headline(Predicate<String> measured) {
        return headline();
    }

    /// Refuses classes, unless the task has some, or the lack of classes that it needs.
    ///
    /// @param labels null for none
    /// @throws InputException that says which it needs
    default void check(@Nullable Labels labels) {
        if (labels != null) {
            throw new InputException("task " + name() + " has no labels");
        }
    }

    /// The task card of a model trained on these rows.
    ///
    /// @param maxLength the most tokens of a text
    default TaskCard card(Examples train, Tokenizer tokenizer, int maxLength) {
        return TaskCard.of(this, train.labelsOrNull(), maxLength);
    }

    /// The task card for evaluating a model that was not trained here; null if the model has no head for this task.
    default @Nullable TaskCard card(Model model) {
        return TaskCard.of(this, null, 0);
    }

    /// The classes of the model's head, if it names them (rather than only numbering them); null for none.
    default @Nullable Labels labels(Model model) {
        return null;
    }

    /// What the outputs of the model's own head mean; null if the task needs none.
    default @Nullable Problem problem(@Nullable Labels labels) {
        return null;
    }

    /// Whether a text is pooled into one vector, so that the [TextClassifier.Pooling] matters.
    default boolean pools() {
        return false;
    }

    /// The pooling if neither the user nor the model's files name one: as for the family's own head, if the model has
    /// everything for that; or else the mean.
    default Pooling pooling(Model model) {
        return model instanceof WithPooler with && !with.takesHead() ? Pooling.MEAN : Pooling.of(model);
    }

    /// Writes what other programs need to use a model for this task into the model's folder, next to its files.
    default void describe(Path folder, Model model, TaskCard card) {}

    /// Prompts, which a model of this task answers, or any text ([dev.loran.peft.data.Row.Unlabelled]); their encoding
    /// gives the ids to continue. Null if it answers none.
    default @Nullable RowForm prompts() {
        return null;
    }

    /// Adds what ends an answer of this task.
    default GenerationConfig ending(GenerationConfig config, Tokenizer tokenizer) {
        return config;
    }

    /// Metrics that require generated answers, which are too slow to compute for evaluations during training.
    default Map<String, Double> answers(Answering with) {
        return Map.of();
    }

    /// How many outputs of the head for a row ([Head#logits]) the loss compares with those of the model before its
    /// training; 0 for none. The latter are appended to the row's target, once, before the first step:
    /// [Examples#withReference].
    default int referenceNumbers() {
        return 0;
    }

    /// What can be set about this task, by name, as saved in `loran.json`; nothing by default.
    default Map<String, String> settings() {
        return Map.of();
    }

    /// This task with other settings; those that are not named stay as they are.
    ///
    /// @throws InputException for one that the task does not have, and for a value that it cannot have
    default Task with(Map<String, String> settings) {
        for (String name : settings.keySet()) {
            throw new InputException("task " + name() + " has no " + name + "; leave it out");
        }
        return this;
    }

    /// Whether the data that comes with Loran ([dev.loran.peft.data.ShippedData]) is for this task.
    default boolean hasShippedRows() {
        return false;
    }

    // ---- by name

    /// The names of the tasks that come with Loran, for messages.
    String SHIPPED = "classify, regress, tag, embed, rerank, generate, chat, prefer or lm";

    /// The tasks that come with Loran.
    static List<Task> shipped() {
        return List.of(
                new ClassifyTask(),
                new RegressTask(),
                new TagTask(),
                new EmbedTask(),
                new RerankTask(),
                new GenerateTask(),
                new ChatTask(),
                new PreferTask(),
                new LmTask());
    }

    /// The task of a model's own classification head. One output of which the config does not say what it means is
    /// that of a cross-encoder, as public ones are; models that transformers trained for regression say so.
    static Task of(Model model) {
        if (model.ofTokens()) {
            return new TagTask();
        }
        boolean isNumber = model.problem() == Problem.REGRESSION;
        if (model.classifier() != null && model.labels().size() == 1 && !(isNumber && model.namesProblem())) {
            return new RerankTask();
        }
        return isNumber ? new RegressTask() : new ClassifyTask();
    }

    /// The task for the option `--task`: one that comes with Loran, or a new instance of a class of your own, given by
    /// its name.
    ///
    /// @throws InputException for any other name, and for a class that cannot be used, with the reason
    static Task named(String name) {
        for (Task task : shipped()) {
            if (task.name().equals(name)) {
                return task;
            }
        }
        if (!name.matches("(\\p{javaJavaIdentifierPart}+\\.)+\\p{javaJavaIdentifierPart}+")) {
            throw new InputException("task \"" + name + "\" is not known; choose " + SHIPPED);
        }
        return own(name);
    }

    /// Initializes, and so runs, only a class that implements this interface: the name may come from a file.
    private static Task own(String name) {
        String what = "task \"" + name + "\": ";
        try {
            Class<?> found = Class.forName(name, false, Thread.currentThread().getContextClassLoader());
            return found.asSubclass(Task.class).getConstructor().newInstance();
        } catch (ClassNotFoundException e) {
            throw new InputException(what + "no such class on the class path; choose " + SHIPPED + ", or add it", e);
        } catch (ClassCastException e) {
            throw new InputException(what + "the class does not implement " + Task.class.getName(), e);
        } catch (NoSuchMethodException | IllegalAccessException | InstantiationException e) {
            throw new InputException(
                    what + "the class needs to be public, with a public constructor without parameters", e);
        } catch (InvocationTargetException e) {
            throw new InputException(what + "the constructor fails: " + e.getCause(), e);
        }
    }
}
