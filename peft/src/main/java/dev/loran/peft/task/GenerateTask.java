package dev.loran.peft.task;

import dev.loran.peft.data.Encoding;
import dev.loran.peft.data.Example;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Fields;
import dev.loran.peft.data.Labels;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.RowForm;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.generation.Generation;
import dev.loran.peft.generation.GenerationConfig;
import dev.loran.peft.generation.RougeL;
import dev.loran.peft.generation.TextLimit;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Predicate;
import java.util.function.UnaryOperator;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;

/// `generate`: a text in response to a prompt, such as a title, a description, or an answer to an instruction. Rows are
/// [Row.Generate]s; the loss is that of the answer and its end token. The target of an example is the length of its
/// prompt.
public record GenerateTask() implements CausalTask {
    @Override
    public String name() {
        return "generate";
    }

    @Override
    public String form() {
        return "{\"source\",\"target\"}, {\"prompt\",\"completion\"} or {\"instruction\",\"input\",\"output\"}";
    }

    @Override
    public List<String> fields() {
        return List.of("source", "target", "prompt", "completion", "instruction", "input", "output");
    }

    @Override
    public Row row(Fields fields) {
        if (fields.has("instruction")) {
            return Row.Generate.instruction(
                    fields.text("instruction"), fields.stringOrEmpty("input"), fields.text("output"));
        }
        return fields.has("prompt")
                ? new Row.Generate(fields.text("prompt"), fields.text("completion"))
                : new Row.Generate(fields.text("source"), fields.text("target"));
    }

    @Override
    public Encoding encoding(Tokenizer tokenizer, Examples.Options options, @Nullable Labels labels) {
        LmTask.refuseConcatenation(this, options);
        return new Pairs(tokenizer, options);
    }

    /// Rows of prompts and answers, without the tokens around them until the longest answer is known.
    abstract static class Prompted implements Encoding {
        final Tokenizer tokenizer;
        final Examples.Options options;
        private int longestAnswer = 1;

        Prompted(Tokenizer tokenizer, Examples.Options options) {
            this.tokenizer = tokenizer;
            this.options = options;
        }

        /// At most one id more than allowed, which is enough to show that there are too many.
        final int[] bounded(int[] text) {
            return text.length <= options.maxLength() ? text : Arrays.copyOf(text, options.maxLength() + 1);
        }

        /// The ids of an answer behind those of its prompt.
        final int[] answered(int[] prompt, String answer) {
            int[] ids = bounded(tokenizer.targetBody(answer));
            longestAnswer = Math.max(longestAnswer, tokenizer.targetLength(ids));
            int[] both = Arrays.copyOf(prompt, prompt.length + ids.length);
            System.arraycopy(ids, 0, both, prompt.length, ids.length);
            return both;
        }

        /// The same with the tokens around them, cut to the most ids.
        final Tokenizer.Encoded around(Example raw, int text) {
            int[] ids = raw.texts().get(text).ids();
            int prompt = raw.target()[0];
            return tokenizer.pair(
                    Arrays.copyOf(ids, prompt),
                    Arrays.copyOfRange(ids, prompt, ids.length),
                    options.maxLength(),
                    answerRoom());
        }

        @Override
        public int answerRoom() {
            return options.answerRoom() > 0
                    ? options.answerRoom()
                    : Math.max(1, Math.min(longestAnswer, options.maxLength() / 2));
        }
    }

    private static final class Pairs extends Prompted {
        Pairs(Tokenizer tokenizer, Examples.Options options) {
            super(tokenizer, options);
        }

        @Override
        public void add(Row row, Sink out) {
            if (!(row instanceof Row.Generate(String source, String target))) {
                throw out.bad(
                        "a row of another form, " + row.getClass().getSimpleName() + ", among rows of task generate");
            }
            int[] prompt = tokenizer.body(source);
            out.note(source, target, prompt, 0);
            int[] first = bounded(prompt);
            out.example(Example.of(answered(first, target), null, first.length));
        }

        @Override
        public UnaryOperator<Example> end(Sink out) {
            return raw -> {
                Tokenizer.Encoded row = around(raw, 0);
                return Example.of(row, row.promptLength());
            };
        }
    }

    @Override
    public String cut(Examples.Options options) {
        return "rows are longer than %d tokens, or their prompts than %d, and were cut"
                .formatted(options.maxLength(), options.maxLength() - options.answerRoom());
    }

    // ---- answers

    @Override
    public RowForm prompts() {
        return new Prompts(name());
    }

    /// Prompts, as rows of `generate` have them, or texts: [Row.Unlabelled]. They are cut as in training.
    record Prompts(String name) implements RowForm {
        @Override
        public String form() {
            return "{\"source\"}, {\"prompt\"}, {\"instruction\",\"input\"} or {\"text\"}";
        }

        @Override
        public List<String> fields() {
            return List.of("source", "prompt", "instruction", "input", "text");
        }

        @Override
        public Row row(Fields fields) {
            String field = fields().stream()
                    .filter(name -> fields.has(name) && !name.equals("input"))
                    .findFirst()
                    .orElse("text");
            String text = fields.text(field);
            return new Row.Unlabelled(
                    field.equals("instruction")
                            ? Row.Generate.instruction(text, fields.stringOrEmpty("input"), "")
                                    .source()
                            : text,
                    null);
        }

        @Override
        public Encoding encoding(Tokenizer tokenizer, Examples.Options options, @Nullable Labels labels) {
            int room = options.answerRoom() == 0 ? options.maxLength() / 2 : options.answerRoom();
            return (row, out) -> out.example(Example.of(tokenizer.encodePrompt(
                    ((Row.Unlabelled) row).text(), options.maxLength(), Math.min(room, options.maxLength() / 2))));
        }
    }

    /// Of the answers to the prompts, as the loss saw these:
    ///
    /// | | |
    /// |---|---|
    /// | `rouge_l` | the mean score, compared with the whole targets |
    /// | `mean_chars` | their mean length in characters |
    /// | `ended` | the share that an end token ended, rather than a limit |
    /// | `within_limit` | with a limit of characters: the share that kept it without being cut |
    @Override
    public Map<String, Double> answers(Answering with) {
        Examples rows = with.examples();
        GenerationConfig config =
                with.generation().withMaxNewTokens(with.maxNewTokens() > 0 ? with.maxNewTokens() : longestTarget(rows));
        List<int[]> prompts = IntStream.range(0, rows.size())
                .mapToObj(row -> Arrays.copyOf(rows.ids(row), promptLength(rows, row)))
                .toList();
        return measured(
                with,
                prompts,
                with.rows().stream().map(Row.Generate.class::cast).toList(),
                config);
    }

    /// The metrics of answers to prompts.
    static Map<String, Double> measured(
            Answering with, List<int[]> prompts, List<Row.Generate> rows, GenerationConfig config) {
        List<Generation.Answer> answers =
                Generation.answers(with.model(), with.tokenizer(), prompts, config, with.positions(), with.batchSize());
        double score = 0;
        for (int i = 0; i < answers.size(); i++) {
            score += RougeL.score(answers.get(i).text(), rows.get(i).target());
            with.each().accept(rows.get(i), answers.get(i));
        }
        Map<String, Double> metrics = new LinkedHashMap<>();
        metrics.put("rouge_l", score / answers.size());
        metrics.put(
                "mean_chars",
                answers.stream()
                        .mapToInt(answer -> TextLimit.length(answer.text()))
                        .average()
                        .orElse(0));
        metrics.put("ended", share(answers, end -> end == Generation.End.TOKEN));
        if (with.generation().maxChars() > 0) {
            metrics.put("within_limit", share(answers, end -> end != Generation.End.CHARACTERS));
        }
        return metrics;
    }

    private static double share(List<Generation.Answer> answers, Predicate<Generation.End> ending) {
        return answers.stream().filter(answer -> ending.test(answer.end())).count() / (double) answers.size();
    }

    private static int promptLength(Examples rows, int row) {
        return rows.target(row)[0];
    }

    /// The number of ids of the longest target, including its end token.
    private static int longestTarget(Examples rows) {
        return IntStream.range(0, rows.size())
                .map(row -> rows.length(row) - promptLength(rows, row))
                .max()
                .orElse(0);
    }

    @Override
    public String toString() {
        return name();
    }
}
