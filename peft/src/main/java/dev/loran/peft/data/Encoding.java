package dev.loran.peft.data;

import dev.loran.peft.io.InputException;
import java.util.function.UnaryOperator;
import org.jspecify.annotations.Nullable;

/// Turns rows into examples, one by one, and learns on its way what all of them have in common. One is made for each
/// reading ([RowForm#encoding]).
public interface Encoding {
    /// Takes a row in, and gives `out` what comes of it: one example as a rule.
    ///
    /// @throws InputException for a row that is not of this form or cannot be learnt from ([Sink#bad])
    void add(Row row, Sink out);

    /// After the last row.
    ///
    /// @return what becomes of each example, in order, now that all rows are known; null where they stay as they are
    /// @throws InputException if the rows together are not enough
    default @Nullable UnaryOperator<Example> end(Sink out) {
        return null;
    }

    /// The classes, known after [#end]; null where rows have none.
    default @Nullable Labels labels() {
        return null;
    }

    /// How many of the ids of a row a prompt leaves to its answer, known after [#end]; 0 where there are no prompts.
    default int answerRoom() {
        return 0;
    }

    /// Where examples go.
    interface Sink {
        void example(Example example);

        /// Tells what stands out in rows from: how often a row is there, texts that the tokenizer hardly knows.
        ///
        /// @param text what is given
        /// @param answer what belongs to it: a label, a target; empty for a text alone
        /// @param ids of the text
        /// @param special how many of them are the template's
        void note(String text, String answer, int[] ids, int special);

        /// That something is wrong with the row that is being added: the exception to throw, with file and line.
        InputException bad(String problem);

        /// What messages call all rows together: the file.
        String source();
    }
}
