package dev.loran.peft.continual;

import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Labels;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.RowSource;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.io.InputException;
import dev.loran.peft.task.ClassifyTask;
import dev.loran.peft.task.Task;
import java.util.ArrayList;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.function.Predicate;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;

/// The tasks that a model learns, in order, all of the same kind.
///
/// The classes of a task to classify are those of its training rows. With one head for all tasks, their ids are in the
/// order in which the tasks bring them, sorted within a task: those of the first n tasks are then the first rows of a
/// head for more of them.
///
/// @param kind what the model learns to do in each of them
/// @param labels the classes of all tasks, for one head; null if there are none, or each task has its own head
public record TaskSequence(
        Task kind, List<Stage> stages, @Nullable Labels labels) {
    /// The share of rows that is held out where no other rows are given.
    private static final double HELD_OUT_SHARE = 0.1;

    public TaskSequence {
        stages = List.copyOf(stages);
        if (stages.size() < 2) {
            throw new InputException("continual learning needs two tasks or more, not " + stages.size()
                    + "; name more of them (--tasks)");
        }
    }

    /// One of the tasks.
    ///
    /// @param classes those of its rows; empty if rows have none
    public record Stage(String name, Examples train, Examples heldOut, List<String> classes) {
        public Stage {
            classes = List.copyOf(classes);
        }
    }

    /// The rows of a task, not yet read.
    public record Source(String name, RowSource train, RowSource heldOut) {
        /// Holds out a tenth of the rows, chosen at random.
        public static Source heldOutOf(String name, RowSource rows, long seed) {
            return new Source(name, rows.besides(HELD_OUT_SHARE, seed), rows.heldOut(HELD_OUT_SHARE, seed));
        }

        /// Splits the rows of one task to classify into `parts` tasks, each with the rows of its own classes: the
        /// sorted classes, cut into parts of equal size, or with one more in the first ones.
        ///
        /// @throws InputException if there are not enough classes; the first task needs two
        public List<Source> byClass(int parts) {
            List<String> all = classes(train);
            if (parts < 2 || parts >= all.size()) {
                throw new InputException("%s: %d classes cannot be split into %d tasks; from 2 to %d are possible"
                        .formatted(train.name(), all.size(), parts, all.size() - 1));
            }
            List<Source> sources = new ArrayList<>();
            for (int i = 0, from = 0; i < parts; i++) {
                int to = from + all.size() / parts + (i < all.size() % parts ? 1 : 0);
                Set<String> own = new LinkedHashSet<>(all.subList(from, to));
                String title = String.join("+", own);
                Supplier<Predicate<Row>> has = () -> row -> row instanceof Row.Classify c && own.contains(c.label());
                sources.add(new Source(
                        title,
                        train.only(train.name() + " (" + title + ")", has),
                        heldOut.only(heldOut.name() + " (" + title + ")", has)));
                from = to;
            }
            return sources;
        }
    }

    /// Reads the rows of all tasks.
    ///
    /// @param shared whether one head serves all tasks; otherwise each has a head for its own classes
    /// @throws InputException for a bad row, a held-out row of a class that the task's training rows lack, and a first
    ///     task with fewer than two classes (with heads of their own, any task)
    public static TaskSequence read(
            List<Source> sources, Task kind, Tokenizer tokenizer, Examples.Options reading, boolean shared) {
        boolean grows = shared && kind instanceof ClassifyTask;
        List<List<String>> classes = new ArrayList<>();
        Labels labels = grows ? labels(sources, classes) : null;
        Examples.Options same = reading;
        List<Stage> stages = new ArrayList<>();
        for (int i = 0; i < sources.size(); i++) {
            Source source = sources.get(i);
            Examples train = Examples.read(source.train, kind, tokenizer, same, labels);
            if (i == 0) {
                same = reading.withAnswerRoom(train.answerRoom());
                labels = shared ? train.labelsOrNull() : null;
            }
            Labels own = train.labelsOrNull();
            Examples heldOut = Examples.read(source.heldOut, kind, tokenizer, same, own);
            List<String> names = grows ? classes.get(i) : own == null ? List.of() : own.names();
            Stage stage = new Stage(source.name, train, heldOut, names);
            if (grows) {
                requireOwnClasses(stage, source.heldOut.name());
            }
            stages.add(stage);
        }
        return new TaskSequence(kind, stages, labels);
    }

    private static Labels labels(List<Source> sources, List<List<String>> classes) {
        Set<String> all = new LinkedHashSet<>();
        for (Source source : sources) {
            List<String> own = classes(source.train);
            if (all.isEmpty() && own.size() < 2) {
                throw new InputException(source.train.name()
                        + ": the first task has one class, \"" + own.getFirst()
                        + "\"; it needs two, since a classifier does; put another class, or another task, first");
            }
            classes.add(own);
            all.addAll(own);
        }
        return new Labels(List.copyOf(all));
    }

    /// The classes of some rows, sorted.
    private static List<String> classes(RowSource rows) {
        Set<String> names = new TreeSet<>();
        rows.forEach(new ClassifyTask(), (row, line) -> {
            if (row instanceof Row.Classify c) {
                names.add(c.label());
            } else if (row instanceof Row.Labelled) {
                throw InputException.at(
                        rows.name(),
                        line,
                        "field \"label\" is a list; tasks that follow one another need one class a text");
            }
        });
        return names.size() < 2 ? List.copyOf(names) : Labels.of(names).names();
    }

    private static void requireOwnClasses(Stage stage, String file) {
        Labels labels = stage.heldOut.labels();
        for (int row = 0; row < stage.heldOut.size(); row++) {
            String label = labels.names().get(stage.heldOut.target(row)[0]);
            if (!stage.classes.contains(label)) {
                throw new InputException("%s: a row has label \"%s\", which the training rows of task %s lack: %s"
                        .formatted(file, label, stage.name, stage.classes));
            }
        }
    }

    /// The classes that the first `stages` tasks have brought, for one head; null if there are none.
    public @Nullable Labels labelsAfter(int count) {
        Labels all = labels;
        if (all == null || !(kind instanceof ClassifyTask)) {
            return all;
        }
        Set<String> seen = new LinkedHashSet<>();
        stages.subList(0, count).forEach(stage -> seen.addAll(stage.classes));
        return new Labels(List.copyOf(seen));
    }
}
