package dev.loran.peft.data;

import java.util.List;
import org.jspecify.annotations.Nullable;

/// What rows of one kind hold, and how they become token ids and batches: the half of a task that needs no model.
public interface RowForm {
    /// The name, for messages.
    String name();

    /// The fields of a row, as error messages and `--help` show them: `{"text","label"}`.
    String form();

    /// All fields that are read of a row.
    List<String> fields();

    /// The row that a line of a file holds.
    ///
    /// @throws dev.loran.peft.io.InputException if a field is missing or wrong ([Fields#bad])
    Row row(Fields fields);

    /// What turns the rows of one file, or one list, into examples.
    ///
    /// @param labels the classes of an existing model; null to take those of the rows, where rows have any
    Encoding encoding(Tokenizer tokenizer, Examples.Options options, @Nullable Labels labels);

    /// What the loss compares a batch with.
    ///
    /// @param rows the rows of `examples` in the batch
    /// @param length T: positions from a row's end on are padding
    Targets targets(Examples examples, int[] rows, int length);

    /// An example that asks for all the memory that one of `length` ids may need: its ids are 0, and all of it counts.
    default Example dummy(int length) {
        return Example.of(new int[length], null, 0);
    }

    /// What is said of texts that were cut, after how many there are.
    default String cut(Examples.Options options) {
        return "texts are longer than %d tokens and were cut".formatted(options.maxLength());
    }

    /// What the loss compares a batch with.
    ///
    /// @param values in the order in which the task's loss takes them
    /// @param lossTerms how many terms the loss is the mean of: the weight of this batch where gradients are
    ///     accumulated over several
    record Targets(List<Target> values, int lossTerms) {
        public Targets {
            values = List.copyOf(values);
        }

        /// One target of whole numbers.
        public static Targets of(int[] values, int lossTerms, int... dims) {
            return new Targets(List.of(new Target.Ints(values, dims)), lossTerms);
        }
    }
}
