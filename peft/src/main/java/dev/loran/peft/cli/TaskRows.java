package dev.loran.peft.cli;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.cli.options.DataOptions;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Labels;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.RowSource;
import dev.loran.peft.data.ShippedData;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.TaskType;
import dev.loran.peft.task.ClassWeights;
import dev.loran.peft.task.ClassifyTask;
import dev.loran.peft.task.SentencePooling;
import dev.loran.peft.task.Task;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.task.TextClassifier.Pooling;
import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;

/// Training rows and held-out rows, encoded by a model's tokenizer.
///
/// @param task the task that they are for
record TaskRows(Task task, Examples train, @Nullable Examples heldOut) {
    /// Reads rows. For a model with its own classes, their order is kept if its config names them as the rows do.
    ///
    /// @param usual the classes, in order, to use if they include those of all rows; null to use those of the rows
    static TaskRows read(
            OpenModel open, Task task, Examples.Options reading, DataOptions.Split split, @Nullable Labels usual) {
        Labels known = task.labels(open.model());
        Examples rows = Examples.read(split.train(), task, open.tokenizer(), reading, known);
        Labels own = rows.labelsOrNull();
        if (known == null
                && usual != null
                && own != null
                && usual.several() == own.several()
                && usual.names().containsAll(own.names())) {
            rows = Examples.read(split.train(), task, open.tokenizer(), reading, usual);
        }
        Examples.Options same = reading.withAnswerRoom(rows.answerRoom());
        RowSource eval = split.heldOut();
        Examples heldOut = eval == null ? null : Examples.read(eval, task, open.tokenizer(), same, rows.labelsOrNull());
        return new TaskRows(task, rows, heldOut);
    }

    /// The shipped definitions of nouns, to be classified into ten classes.
    ///
    /// @param rows how many to train on; all held-out rows are used
    /// @throws InputException if there are not that many, or if the model already has a classification head
    static TaskRows shipped(OpenModel open, Examples.Options reading, int rows) {
        Task task = new ClassifyTask();
        ShippedData data = ShippedData.load();
        List<ShippedData.Noun> first = first(rows, data);
        if (open.model().task() == TaskType.SEQ_CLS) {
            throw new InputException("the data that comes with Loran needs a head of ten classes, and " + open.name()
                    + " has a head already; use minilm");
        }
        Examples train = Examples.of(task, classify(first), open.tokenizer(), reading, null);
        Examples heldOut = Examples.of(task, classify(data.heldOut()), open.tokenizer(), reading, train.labels());
        return new TaskRows(task, train, heldOut);
    }

    /// The first `rows` of the shipped rows to train on.
    ///
    /// @throws InputException if there are not that many, or too few are asked for
    static List<ShippedData.Noun> first(int rows, ShippedData data) {
        if (rows < 10 || rows > data.train().size()) {
            throw new InputException(
                    "--rows " + rows + " must be from 10 to " + data.train().size());
        }
        return data.train().subList(0, rows);
    }

    static List<Row.Classify> classify(List<ShippedData.Noun> nouns) {
        return nouns.stream().map(ShippedData.Noun::classify).toList();
    }

    /// The same, to be trained on with weights of the classes.
    ///
    /// @param weights as in [ClassWeights#of]; null for none
    TaskRows weighted(@Nullable String weights) {
        return weights == null ? this : new TaskRows(task, ClassWeights.of(weights, train), heldOut);
    }

    /// The counts of both, for `facts.json`.
    void describe(ObjectNode facts) {
        describe(train, facts.putObject("train"));
        if (heldOut != null) {
            describe(heldOut, facts.putObject("held_out"));
        }
    }

    private static void describe(Examples rows, ObjectNode facts) {
        facts.put("rows", rows.size())
                .put("longest", rows.longest())
                .put("truncated", rows.truncated())
                .put("unknown_share", rows.unknownShare());
        if (rows.majority() > 0) {
            facts.put("majority", rows.majority());
        }
    }

    /// What is unusual about the rows, one line each.
    List<String> notices() {
        List<String> lines = new ArrayList<>(train.notices(null));
        if (heldOut != null) {
            lines.addAll(heldOut.notices(train));
        }
        return lines;
    }

    /// The task card of a model trained on these rows.
    ///
    /// @param pooling the pooling that the user asked for; null for the model's default
    TaskCard card(OpenModel open, Examples.Options reading, @Nullable String pooling) {
        SentencePooling how = task.pools() ? open.pooling(task, pooling) : new SentencePooling(Pooling.LAST, false);
        return task.card(train, open.tokenizer(), reading.maxLength())
                .withPooling(how.pooling(), how.normalize())
                .withTextPrefix(reading.textPrefix())
                .withBase(open.base());
    }
}
