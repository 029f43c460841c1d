package dev.loran.peft.task;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.data.Encoding;
import dev.loran.peft.data.Example;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Fields;
import dev.loran.peft.data.Labels;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.RowForm;
import dev.loran.peft.data.Tokenizer;
import java.util.List;
import org.jspecify.annotations.Nullable;

/// A task whose answer to a row is written as fields of JSON: what `loran predict` does with it.
public interface Predicts extends Task {
    /// Rows without targets.
    RowForm unlabelled();

    /// Writes the answer to a row.
    ///
    /// @param row of [#unlabelled]
    /// @param example its ids and its target, by the same form
    /// @param outputs of the head, for this row
    void answer(TaskCard card, Row row, Example example, double[] outputs, ObjectNode line);

    /// Texts without targets: [Row.Unlabelled].
    ///
    /// @param pairs whether there may be pairs of texts
    record Texts(String name, boolean pairs) implements RowForm {
        @Override
        public String form() {
            return pairs ? "{\"text\"} or {\"text\",\"text_pair\"}" : "{\"text\"}";
        }

        @Override
        public List<String> fields() {
            return List.of("text", "text_pair");
        }

        @Override
        public Row row(Fields fields) {
            return new Row.Unlabelled(fields.text("text"), fields.optional("text_pair"));
        }

        @Override
        public Encoding encoding(Tokenizer tokenizer, Examples.Options options, @Nullable Labels labels) {
            return (row, out) -> {
                Row.Unlabelled text = (Row.Unlabelled) row;
                if (text.textPair() != null && !pairs) {
                    throw out.bad("field \"text_pair\": task " + name + " takes one text; leave it out");
                }
                out.example(Example.of(ClassifyTask.encode(tokenizer, options, text.text(), text.textPair())));
            };
        }
    }
}
