package dev.loran.peft.task;

import dev.loran.engine.Tensor;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Labels;
import dev.loran.peft.data.RowForm;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import java.lang.reflect.InvocationTargetException;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/// What a model is trained to do: what a row of data holds, what stands behind the model, the loss, and how well a
/// model does.
///
/// A task of your own implements this, and then works wherever a shipped one does: in [TaskCard], in a trainer, a
/// memory plan, and on the command line by the name of its class (`--task com.acme.Tagging`), which must be on the
/// class path and have a public constructor without parameters.
///
/// | what | where |
/// |---|---|
/// | a row, its fields, how it becomes token ids | [#row], [#encoding] |
/// | what the loss compares a batch with | [#targets] |
/// | the head and the loss | [#head] |
/// | what an evaluation asks and counts | [#asked], [#meter], [#headline] |
public interface Task extends RowForm {
    /// As `--task` takes it and `loran.json` has it: of a task that does not come with Loran the name of its class.
    @Override
    default String name() {
        return getClass().getName();
    }

    /// What answers: made once for a model, new or from the files of a trained one.
    ///
    /// @throws InputException if the model cannot do this task
    Head head(Site site);

    /// What an evaluation asks of a model: its scores, unless the loss is enough.
    default Tensor asked(Forward model, Batch batch) {
        return model.logits(batch);
    }

    /// Counts what a model answers to `rows`.
    Meter meter(Examples rows);

    /// Of the metrics of an evaluation the one that says how well a model does, beside the loss.
    Metric headline();

    /// Refuses classes that this task cannot have, or lacks.
    ///
    /// @param labels null for none
    /// @throws InputException saying which it needs
    default void check(@Nullable Labels labels) {}

    /// What a model trained on these rows is for.
    ///
    /// @param maxLength the most tokens of a text
    default TaskCard card(Examples train, Tokenizer tokenizer, int maxLength) {
        return TaskCard.of(this, train.labelsOrNull(), maxLength);
    }

    /// What a model can be evaluated for that nothing was trained on; null where it has no head for that.
    default @Nullable TaskCard card(Model model) {
        return TaskCard.of(this, null, 0);
    }

    /// The classes that the model has a head for, where it names them (and does not only number them); null for none.
    default @Nullable Labels labels(Model model) {
        return null;
    }

    /// Whether a text becomes one vector, so that it matters by which [TextClassifier.Pooling].
    default boolean pools() {
        return false;
    }

    /// Whether texts to go on from are prompts, which [#prompt] encodes as this task's rows are.
    default boolean hasPrompts() {
        return false;
    }

    /// The ids of a text that a model is to go on from.
    ///
    /// @param maxLength the most ids of text and answer together
    /// @param answerRoom how many of them are left to the answer at least
    default Tokenizer.Encoded prompt(Tokenizer tokenizer, String text, int maxLength, int answerRoom) {
        return tokenizer.encodeStart(text, maxLength - answerRoom);
    }

    /// Metrics that need answers to be generated: too slow for an evaluation within training.
    default Map<String, Double> answers(Answering with) {
        return Map.of();
    }

    /// Whether the data that comes with Loran ([dev.loran.peft.data.ShippedData]) is for this task.
    default boolean hasShippedRows() {
        return false;
    }

    // ---- by name

    /// The names of the tasks that come with Loran, for people.
    String SHIPPED = "classify, generate or lm";

    /// The task of the option `--task`: one that comes with Loran, or one of your own by the name of its class, of
    /// which a new one is made.
    ///
    /// @throws InputException for any other name, and for a class that cannot be used, saying why
    static Task named(String name) {
        for (Task task : List.of(new ClassifyTask(), new GenerateTask(), new LmTask())) {
            if (task.name().equals(name)) {
                return task;
            }
        }
        if (!name.matches("(\\p{javaJavaIdentifierPart}+\\.)+\\p{javaJavaIdentifierPart}+")) {
            throw new InputException("task \"" + name + "\" is not known; choose " + SHIPPED);
        }
        return own(name);
    }

    /// Only a class that implements this is initialised, and so runs: a name may come from a file.
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
