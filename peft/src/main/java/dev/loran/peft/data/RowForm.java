package dev.loran.peft.data;

import dev.loran.peft.io.InputException;
import java.util.List;
import org.jspecify.annotations.Nullable;

/// What rows of one kind contain, and how they become token ids and batches: the part of a task that needs no model.
public interface RowForm {
    /// The name, for messages.
    String name();

    /// The fields of a row, as shown in error messages and `--help`: `{"text","label"}`.
    String form();

    /// The names of all fields that are read.
    List<String> fields();

    /// The row in a line of a file.
    ///
    /// @throws dev.loran.peft.io.InputException if a field is missing or wrong ([Fields#bad])
    Row row(Fields fields);

    /// The encoding that turns the rows of one file, or one list, into examples.
    ///
    /// @param labels the classes of an existing model; null to use those of the rows, if rows have any
    Encoding encoding(Tokenizer tokenizer, Examples.Options options, @Nullable Labels labels);

    /// The targets of the loss for a batch; none for rows that are only to be answered.
    ///
    /// @param rows the rows of `examples` in the batch
    /// @param length T: positions from a row's end on are padding
    default Targets targets(Examples examples, int[] rows, int length) {
        return new Targets(List.of(), rows.length);
    }

    /// An example that needs as much memory as any of `length` ids can: its ids are 0, and every position counts.
    default Example dummy(int length) {
        return Example.of(new int[length], null, 0);
    }

    /// One example of several, each of which is to attend to itself only, for [Examples#packed]. [#targets] then
    /// numbers the texts of a row.
    ///
    /// @throws InputException if rows of this form cannot be packed
    default Example join(List<Example> rows) {
        throw new InputException(
                "rows of task " + name() + " cannot be packed, only those that a causal model is to continue");
    }

    /// The text of the notice about truncated texts, which follows their number.
    default String cut(Examples.Options options) {
        return "texts are longer than %d tokens and were cut".formatted(options.maxLength());
    }

    /// The targets of the loss for a batch.
    ///
    /// @param values in the order in which the task's loss uses them
    /// @param lossTerms the number of terms that the loss averages, or the sum of their weights: the weight of this
    ///     batch when gradients are accumulated over several
    /// @param texts (B, T), if rows hold several texts that do not attend to each other: the number of each token's
    ///     text in its row, from 1; 0 for padding. Null if a row is one text
    record Targets(List<Target> values, double lossTerms, int @Nullable [] texts) {
        public Targets {
            values = List.copyOf(values);
        }

        public Targets(List<Target> values, double lossTerms) {
            this(values, lossTerms, null);
        }

        /// A single integer target.
        public static Targets of(int[] values, double lossTerms, int... dims) {
            return new Targets(List.of(new Target.Ints(values, dims)), lossTerms);
        }
    }
}
