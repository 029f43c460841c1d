package dev.loran.peft.data;

import dev.loran.peft.io.InputException;
import java.util.List;
import java.util.function.UnaryOperator;
import org.jspecify.annotations.Nullable;

/// Turns rows into examples, one by one, and collects what they have in common. One is created for each reading
/// ([RowForm#encoding]).
public interface Encoding {
    /// Adds a row and passes the resulting examples to `out`, usually one.
    ///
    /// @throws InputException for a row that is not of this form or cannot be learned from ([Sink#bad])
    void add(Row row, Sink out);

    /// Called after the last row.
    ///
    /// @return a transformation of each example, in order, now that all rows are known; null to leave them as they are
    /// @throws InputException if there are not enough rows
    default @Nullable UnaryOperator<Example> end(Sink out) {
        return null;
    }

    /// The classes, known after [#end]; null if rows have none.
    default @Nullable Labels labels() {
        return null;
    }

    /// How many of a row's ids a prompt leaves for its answer, known after [#end]; 0 if there are no prompts.
    default int answerRoom() {
        return 0;
    }

    /// What is unusual about the rows beyond what each task's rows are examined for, a line each, without the name of
    /// the file; known once the transformation of [#end] has been applied to all.
    default List<String> notices() {
        return List.of();
    }

    /// Receives examples.
    interface Sink {
        void example(Example example);

        /// Records a row for the notices about unusual rows, such as repeated rows or texts that are mostly unknown to
        /// the tokenizer.
        ///
        /// @param text the input text
        /// @param answer the label or target that belongs to it; empty for a text alone
        /// @param ids the ids of the text
        /// @param special how many of them come from the template
        void note(String text, String answer, int[] ids, int special);

        /// Reports that the row being added gives no example.
        ///
        /// @param why for the notice, which follows the number of such rows
        void leftOut(String why);

        /// The exception to throw for a problem with the row being added, with file and line.
        InputException bad(String problem);

        /// The name of the source of the rows in messages: the file.
        String source();
    }
}
