package dev.loran.peft.task;

import dev.loran.peft.data.Encoding;
import dev.loran.peft.data.Example;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Fields;
import dev.loran.peft.data.Labels;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.io.InputException;
import java.util.Arrays;
import java.util.List;
import java.util.function.UnaryOperator;
import org.jspecify.annotations.Nullable;

/// `lm`: next-token prediction on texts. Rows are [Row.Text]s; every token except a row's first is predicted.
public record LmTask() implements CausalTask {
    @Override
    public String name() {
        return "lm";
    }

    @Override
    public String form() {
        return "{\"text\"}";
    }

    @Override
    public List<String> fields() {
        return List.of("text");
    }

    @Override
    public Row row(Fields fields) {
        return new Row.Text(fields.text("text"));
    }

    static void refuseConcatenation(Task task, Examples.Options options) {
        if (options.concatenate()) {
            throw new InputException("only texts of task lm can be joined, not rows of task " + task.name());
        }
    }

    @Override
    public Encoding encoding(Tokenizer tokenizer, Examples.Options options, @Nullable Labels labels) {
        return options.concatenate()
                ? new Joined(tokenizer, options.maxLength())
                : new Apart(tokenizer, options.maxLength());
    }

    private static Row.Text text(Row row, Encoding.Sink out) {
        if (row instanceof Row.Text text) {
            return text;
        }
        throw out.bad("a row of another form, " + row.getClass().getSimpleName() + ", among rows of task lm");
    }

    /// Each text becomes an example.
    private record Apart(Tokenizer tokenizer, int maxLength) implements Encoding {
        @Override
        public void add(Row row, Sink out) {
            String text = text(row, out).text();
            Tokenizer.Encoded ids = tokenizer.encodeDocument(text, maxLength);
            out.note(text, "", ids.ids(), 0);
            if (ids.ids().length <= 1) {
                throw out.bad("the text gives fewer than two tokens: nothing to predict");
            }
            out.example(Example.of(ids, 0));
        }
    }

    /// All texts are concatenated and cut into examples of equal length.
    private static final class Joined implements Encoding {
        private final Tokenizer tokenizer;
        private final int maxLength;
        private int[] waiting = new int[0];
        private int length;

        Joined(Tokenizer tokenizer, int maxLength) {
            this.tokenizer = tokenizer;
            this.maxLength = maxLength;
        }

        @Override
        public void add(Row row, Sink out) {
            String text = text(row, out).text();
            int[] ids = tokenizer.encodeDocument(text, Integer.MAX_VALUE).ids();
            out.note(text, "", ids, 0);
            if (waiting.length < length + ids.length) {
                waiting = Arrays.copyOf(waiting, Math.max(2 * waiting.length, length + ids.length));
            }
            System.arraycopy(ids, 0, waiting, length, ids.length);
            length += ids.length;
            int from = 0;
            for (; length - from >= maxLength; from += maxLength) {
                out.example(Example.of(Arrays.copyOfRange(waiting, from, from + maxLength), null, 0));
            }
            System.arraycopy(waiting, from, waiting, 0, length - from);
            length -= from;
        }

        @Override
        public @Nullable UnaryOperator<Example> end(Sink out) {
            if (length > 1) {
                out.example(Example.of(Arrays.copyOf(waiting, length), null, 0));
            }
            return null;
        }
    }

    @Override
    public String toString() {
        return name();
    }
}
