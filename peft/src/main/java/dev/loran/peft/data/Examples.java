package dev.loran.peft.data;

import dev.loran.peft.io.Checksums;
import dev.loran.peft.io.InputException;
import java.nio.ByteBuffer;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.Deque;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.OptionalInt;
import java.util.TreeMap;
import java.util.function.Function;
import java.util.function.UnaryOperator;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;

/// Rows as token ids. When a file is read, only the ids are kept, and if there are many, they are kept in
/// memory-mapped, unlinked files. There may thus be more of them than fit in the heap, or in memory. The texts are
/// dropped line by line.
public final class Examples {
    private final RowForm form;
    private final Options options;
    private final int padId;
    private final Kept kept;
    private final @Nullable Labels labels;
    private final RowNotes notes;
    private final Function<int[], String> decoder;

    /// The rows, and their statistics.
    private static final class Kept {
        private final ExampleStore rows = new ExampleStore();
        private int truncated;
        private boolean typed;
        private boolean packed;
        private boolean referenced;
        private int longest;
        private int shortest = Integer.MAX_VALUE;

        void add(Example example) {
            rows.add(example);
            truncated += example.truncated() ? 1 : 0;
            for (Example.Text text : example.texts()) {
                longest = Math.max(longest, text.ids().length);
                shortest = Math.min(shortest, text.ids().length);
                typed |= text.types() != null;
            }
        }
    }

    /// How texts are encoded as ids.
    ///
    /// @param maxLength the most ids per row, including special tokens; longer texts are truncated and counted
    /// @param textPrefix put before every text to classify (for a pair, before the first one) if the encoder was
    ///     trained with a prefix (`"query: "` for `e5-small`); otherwise empty
    /// @param concatenate for a language model: join all texts, each followed by the end token, and cut the result into
    ///     rows of `maxLength` ids, so that nothing is padded or truncated. A row may then contain parts of several
    ///     texts, which attend to each other, as in Hugging Face's language-model examples; see [#packed] for rows
    ///     whose texts do not
    /// @param answerRoom for rows with prompts: how many of the `maxLength` ids a prompt leaves for its target; longer
    ///     prompts are truncated accordingly, whatever the target. 0: as many as the longest target of these rows has,
    ///     but at most half of all
    public record Options(int maxLength, String textPrefix, boolean concatenate, int answerRoom) {
        public Options {
            if (maxLength < 1) {
                throw new InputException("max length " + maxLength + " must be at least 1");
            }
            if (concatenate && maxLength < 2) {
                throw new InputException("max length 1 leaves nothing to predict in a row of joined texts");
            }
            if (answerRoom < 0) {
                throw new InputException("answer room " + answerRoom + " is negative");
            }
        }

        /// No prefix, no concatenation.
        public static Options of(int maxLength) {
            return new Options(maxLength, "", false, 0);
        }

        public Options withTextPrefix(String prefix) {
            return new Options(maxLength, prefix, concatenate, answerRoom);
        }

        public Options withConcatenate(boolean joined) {
            return new Options(maxLength, textPrefix, joined, answerRoom);
        }

        public Options withAnswerRoom(int tokens) {
            return new Options(maxLength, textPrefix, concatenate, tokens);
        }
    }

    private Examples(
            RowForm form,
            Options options,
            int padId,
            Kept kept,
            @Nullable Labels labels,
            RowNotes notes,
            Function<int[], String> decoder) {
        this.form = form;
        this.options = options;
        this.padId = padId;
        this.kept = kept;
        this.labels = labels;
        this.notes = notes;
        this.decoder = decoder;
    }

    /// Reads and tokenizes a file.
    ///
    /// @param form what a row is, such as a task
    /// @param labels the labels of an existing model, for rows with labels; null to use those in the file, sorted
    /// @throws InputException for a bad row, a label that is not one of `labels`, a file with fewer than two labels if
    ///     they are taken from it, or a text that gives a language model nothing to predict
    public static Examples read(
            Path file, RowForm form, Tokenizer tokenizer, Options options, @Nullable Labels labels) {
        return read(RowSource.file(file), form, tokenizer, options, labels);
    }

    /// As above, from any source.
    public static Examples read(
            RowSource source, RowForm form, Tokenizer tokenizer, Options options, @Nullable Labels labels) {
        return read(source, form, form.encoding(tokenizer, options, labels), tokenizer, options);
    }

    /// As above, with a custom encoding.
    public static Examples read(
            RowSource source, RowForm form, Encoding encoding, Tokenizer tokenizer, Options options) {
        return new Builder(source.name(), form, tokenizer, options).build(source, encoding);
    }

    /// Tokenizes rows that are already in memory.
    ///
    /// @param form as in [#read]
    /// @param labels as in [#read]
    /// @throws InputException as in [#read], with `rows` in place of the file and the row's position, counted from 1,
    ///     in place of the line
    public static Examples of(
            RowForm form, List<? extends Row> rows, Tokenizer tokenizer, Options options, @Nullable Labels labels) {
        return read(RowSource.of(rows), form, tokenizer, options, labels);
    }

    /// These rows, followed by others of the same form with the same classes.
    public Examples plus(List<Example> more) {
        Kept all = new Kept();
        for (int row = 0; row < size(); row++) {
            all.add(row(row));
        }
        more.forEach(all::add);
        return new Examples(form, options, padId, all, labels, notes, decoder);
    }

    /// These rows, as many as fit in one of at most [Options#maxLength] ids: a text attends to itself only, its
    /// positions are counted from its own first token, and the loss is the same as in a row of its own. Rows are put,
    /// the longest first, where they leave the least room (best-fit decreasing: Johnson, 1973; for language models:
    /// Ding et al., "Fewer Truncations Improve Language Modeling", 2024).
    ///
    /// @throws InputException if rows of this form cannot be packed
    public Examples packed() {
        Integer[] order = IntStream.range(0, size()).boxed().toArray(Integer[]::new);
        Arrays.sort(order, Comparator.comparingInt((Integer row) -> -length(row)));
        List<List<Integer>> all = new ArrayList<>();
        TreeMap<Integer, Deque<List<Integer>>> byRoom = new TreeMap<>();
        for (int row : order) {
            Map.Entry<Integer, Deque<List<Integer>>> fitting = byRoom.ceilingEntry(length(row));
            List<Integer> bin =
                    fitting == null ? new ArrayList<>() : fitting.getValue().pop();
            int room = fitting == null ? options.maxLength : fitting.getKey();
            if (fitting == null) {
                all.add(bin);
            } else if (fitting.getValue().isEmpty()) {
                byRoom.remove(room);
            }
            bin.add(row);
            byRoom.computeIfAbsent(room - length(row), r -> new ArrayDeque<>()).push(bin);
        }
        Kept joined = new Kept();
        for (List<Integer> bin : all) {
            List<Example> rows = bin.stream().map(this::row).toList();
            joined.add(rows.size() == 1 ? rows.getFirst() : form.join(rows));
            joined.packed |= rows.size() > 1;
        }
        joined.truncated = kept.truncated;
        return new Examples(form, options, padId, joined, labels, notes, decoder);
    }

    /// Whether a row may hold several texts that do not attend to each other: see [#packed].
    public boolean isPacked() {
        return kept.packed;
    }

    /// The same rows, with other weights of their labels.
    public Examples with(Labels weighted) {
        return new Examples(form, options, padId, kept, weighted, notes, decoder);
    }

    /// These rows with numbers appended to the target of each, as [Float#floatToIntBits]: what a model that is not
    /// trained says of them, with which a loss compares the one that is.
    ///
    /// @param numbers equally many for each row, row by row
    public Examples withReference(float[] numbers) {
        int each = numbers.length / size();
        Kept all = new Kept();
        all.referenced = true;
        for (int row = 0; row < size(); row++) {
            Example example = row(row);
            int own = example.target().length;
            int[] target = Arrays.copyOf(example.target(), own + each);
            for (int i = 0; i < each; i++) {
                target[own + i] = Float.floatToIntBits(numbers[row * each + i]);
            }
            all.add(new Example(example.texts(), target, example.truncated()));
        }
        return new Examples(form, options, padId, all, labels, notes, decoder);
    }

    /// Whether these come from [#withReference].
    public boolean hasReference() {
        return kept.referenced;
    }

    /// The same example `rows` times.
    static Examples copies(RowForm form, @Nullable Labels labels, Example example, int rows, int maxLength) {
        Kept kept = new Kept();
        for (int i = 0; i < rows; i++) {
            kept.add(example);
        }
        RowNotes none = new RowNotes("copies", form.fields(), OptionalInt.empty());
        return new Examples(form, Options.of(maxLength), 0, kept, labels, none, ids -> "");
    }

    /// The form of the rows.
    public RowForm form() {
        return form;
    }

    /// The number of rows, into which texts may have been joined.
    public int size() {
        return kept.rows.size();
    }

    /// A complete row.
    public Example row(int row) {
        return kept.rows.get(row);
    }

    /// The ids of a row, or of its first text if it has several.
    public int[] ids(int row) {
        return row(row).texts().getFirst().ids();
    }

    /// The texts of a row, decoded from their ids: without what was cut off, and as the tokenizer normalizes them.
    public List<String> texts(int row) {
        return row(row).texts().stream().map(text -> decoder.apply(text.ids())).toList();
    }

    /// The types of the ids of a row; null if all are 0.
    public int @Nullable [] tokenTypes(int row) {
        return row(row).texts().getFirst().types();
    }

    /// Whether any row has tokens with a type other than 0.
    public boolean hasTokenTypes() {
        return kept.typed;
    }

    /// The number of ids of the longest text of a row.
    public int length(int row) {
        return kept.rows.length(row);
    }

    /// The target of a row: [Example#target].
    public int[] target(int row) {
        return kept.rows.target(row);
    }

    /// The classes.
    ///
    /// @throws IllegalStateException if the rows have none
    public Labels labels() {
        if (labels == null) {
            throw new IllegalStateException("labels: rows of task " + form.name() + " have none");
        }
        return labels;
    }

    /// The classes; null if the rows have none.
    public @Nullable Labels labelsOrNull() {
        return labels;
    }

    /// The number of rows with a text that was too long and was truncated.
    public int truncated() {
        return kept.truncated;
    }

    /// The share of the texts' tokens that are not in the tokenizer's vocabulary (`[UNK]`).
    public double unknownShare() {
        return notes.unknownShare();
    }

    /// How many rows the most frequent class has; 0 if the rows do not have one class each.
    public int majority() {
        if (labels == null) {
            return 0;
        }
        Map<Integer, Integer> counts = new HashMap<>();
        for (int row = 0; row < size(); row++) {
            int[] target = target(row);
            if (target.length != 1) {
                return 0;
            }
            if (target[0] != Batch.IGNORE) {
                counts.merge(target[0], 1, Integer::sum);
            }
        }
        return counts.values().stream().mapToInt(Integer::intValue).max().orElse(0);
    }

    /// How many of a row's ids a prompt leaves for its target: the value for [Tokenizer#encodePrompt] that truncates as
    /// these rows were truncated. 0 for rows without prompts.
    public int answerRoom() {
        return options.answerRoom;
    }

    /// What is unusual about these rows, one line each with the file and a count: truncated texts, duplicate rows,
    /// equal texts with different labels, texts that are mostly unknown to the tokenizer, fields that are not read.
    ///
    /// @param train the rows that were trained on, if these are held out: rows that are in both are reported too
    public List<String> notices(@Nullable Examples train) {
        List<String> lines = new ArrayList<>(notes.formats());
        if (kept.truncated > 0) {
            lines.add("%s: %,d %s".formatted(notes.file(), kept.truncated, form.cut(options)));
        }
        lines.addAll(notes.lines(labels != null, train == null ? null : train.notes));
        return lines;
    }

    /// The SHA-256 of all ids, types and targets, in order: everything that training sees of the rows.
    public String sha256() {
        MessageDigest sha256 = Checksums.sha256();
        for (int row = 0; row < size(); row++) {
            Example example = row(row);
            update(sha256, example.target());
            for (Example.Text text : example.texts()) {
                update(sha256, new int[] {text.ids().length});
                update(sha256, text.ids());
                if (text.types() != null) {
                    update(sha256, text.types());
                }
            }
        }
        return HexFormat.of().formatHex(sha256.digest());
    }

    private static void update(MessageDigest digest, int[] values) {
        ByteBuffer bytes = ByteBuffer.allocate(4 * values.length);
        Arrays.stream(values).forEach(bytes::putInt);
        digest.update(bytes.flip());
    }

    /// The number of ids of the longest text.
    public int longest() {
        return kept.longest;
    }

    /// The number of ids of the shortest text.
    public int shortest() {
        return kept.shortest;
    }

    int maxLength() {
        return options.maxLength;
    }

    int padId() {
        return padId;
    }

    /// Receives rows one by one and keeps their ids.
    private static final class Builder implements Encoding.Sink, RowSource.Visitor {
        private final RowForm form;
        private final Tokenizer tokenizer;
        private final Options options;
        private String source;
        private final RowNotes notes;
        private Kept kept = new Kept();
        private @Nullable Encoding encoding;
        private long line;

        Builder(String source, RowForm form, Tokenizer tokenizer, Options options) {
            this.source = source;
            this.form = form;
            this.tokenizer = tokenizer;
            this.options = options;
            this.notes = new RowNotes(source, form.fields(), tokenizer.unknownId());
        }

        Examples build(RowSource rows, Encoding by) {
            encoding = by;
            rows.forEach(form, this);
            UnaryOperator<Example> change = by.end(this);
            if (kept.rows.size() == 0) {
                throw new InputException(
                        source + ": the texts give fewer than two tokens, which leaves nothing to predict; add texts");
            }
            if (change != null) {
                change(change);
            }
            by.notices().forEach(line -> notes.format(source + ": " + line));
            Options as = options.withAnswerRoom(by.answerRoom());
            return new Examples(form, as, tokenizer.padId().orElse(0), kept, by.labels(), notes, tokenizer::decode);
        }

        private void change(UnaryOperator<Example> change) {
            Kept before = kept;
            kept = new Kept();
            for (int row = 0; row < before.rows.size(); row++) {
                kept.add(change.apply(before.rows.get(row)));
            }
        }

        @Override
        public void row(Row row, long at) {
            line = at;
            Objects.requireNonNull(encoding).add(row, this);
        }

        @Override
        public void unread(String field) {
            notes.unread(field);
        }

        @Override
        public void file(String name) {
            source = name;
        }

        @Override
        public void format(String detected) {
            notes.format(source + ": " + detected);
        }

        @Override
        public void example(Example example) {
            kept.add(example);
        }

        @Override
        public void note(String text, String answer, int[] ids, int special) {
            notes.row(text, answer, ids, special);
        }

        @Override
        public void leftOut(String why) {
            notes.leftOut(why);
        }

        @Override
        public InputException bad(String problem) {
            return InputException.at(source, line, problem);
        }

        @Override
        public String source() {
            return source;
        }
    }
}
