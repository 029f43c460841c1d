package dev.loran.peft.cli;

import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Labels;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.ShippedData;
import dev.loran.peft.data.Task;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.TaskType;
import dev.loran.peft.train.SentencePooling;
import dev.loran.peft.train.TaskCard;
import dev.loran.peft.train.TextClassifier.Pooling;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;

/// Rows to train on, and rows held out, as a model's tokenizer reads them.
///
/// @param labels the classes; null but for [Task#CLASSIFY]
record TaskRows(
        Examples train,
        @Nullable Examples heldOut,
        @Nullable Labels labels) {
    /// Reads files. A model with classes of its own keeps their order, where its config names them as the rows do.
    ///
    /// @param eval null where nothing is held out
    /// @param usual the classes, in their order, where all rows have one of them; null for those of the rows
    static TaskRows read(
            OpenModel open,
            Task task,
            Examples.Options reading,
            Path train,
            @Nullable Path eval,
            @Nullable Labels usual) {
        boolean classify = task == Task.CLASSIFY;
        Labels known = classify && open.model().task() == TaskType.SEQ_CLS ? open.namedLabels() : null;
        Examples rows = Examples.read(train, task, open.tokenizer(), reading, known);
        if (classify
                && known == null
                && usual != null
                && usual.names().containsAll(rows.labels().names())) {
            rows = Examples.read(train, task, open.tokenizer(), reading, usual);
        }
        Labels labels = classify ? rows.labels() : null;
        Examples.Options same = reading.withAnswerRoom(rows.answerRoom());
        Examples heldOut = eval == null ? null : Examples.read(eval, task, open.tokenizer(), same, labels);
        return new TaskRows(rows, heldOut, labels);
    }

    /// The shipped definitions of nouns, to be sorted into ten classes.
    ///
    /// @param rows how many to train on; all that are held out are
    /// @throws InputException if there are not so many, or the model has a head that is not for these classes
    static TaskRows shipped(OpenModel open, Examples.Options reading, int rows) {
        ShippedData data = ShippedData.load();
        if (rows < 10 || rows > data.train().size()) {
            throw new InputException(
                    "--rows " + rows + " must be from 10 to " + data.train().size());
        }
        if (open.model().task() == TaskType.SEQ_CLS) {
            throw new InputException("the data that comes with Loran needs a head of ten classes, and " + open.name()
                    + " has a head already; use minilm");
        }
        Examples train = Examples.of(classify(data.train().subList(0, rows)), open.tokenizer(), reading, null);
        Examples heldOut = Examples.of(classify(data.heldOut()), open.tokenizer(), reading, train.labels());
        return new TaskRows(train, heldOut, train.labels());
    }

    private static List<Row.Classify> classify(List<ShippedData.Noun> nouns) {
        return nouns.stream().map(ShippedData.Noun::classify).toList();
    }

    /// What stands out in all of them, a line each.
    List<String> notices() {
        List<String> lines = new ArrayList<>(train.notices(null));
        if (heldOut != null) {
            lines.addAll(heldOut.notices(train));
        }
        return lines;
    }

    /// What training on these rows is for.
    ///
    /// @param pooling what the user asked for; null for the model's usual
    TaskCard card(OpenModel open, Examples.Options reading, @Nullable String pooling) {
        SentencePooling how =
                train.task() == Task.CLASSIFY ? open.pooling(pooling) : new SentencePooling(Pooling.LAST, false);
        TaskCard card = labels == null
                ? TaskCard.of(train.task(), reading.maxLength())
                        .withAnswers(train.answerRoom(), open.tokenizer().eosToken())
                : TaskCard.classify(labels, reading.maxLength());
        return card.withPooling(how.pooling(), how.normalize())
                .withTextPrefix(reading.textPrefix())
                .withBase(open.base());
    }
}
