package dev.loran.peft.data;

import dev.loran.peft.io.InputException;
import java.nio.ByteBuffer;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;

/// Rows as token ids. Of a file that is read only the ids stay in memory; texts are let go line by line.
public final class Examples {
    private final Task task;
    private final Options options;
    private final int padId;
    private final int[][] ids;

    /// Of the ids of each row, by its place; not there where all are 0.
    private final Map<Integer, int[]> tokenTypes;

    /// Per row: the class id for [Task#CLASSIFY], otherwise how many leading ids are prompt.
    private final int[] marks;

    private final @Nullable Labels labels;
    private final int truncated;
    private final RowNotes notes;

    /// How texts become ids.
    ///
    /// @param maxLength the most ids of a row, special tokens included; longer texts are cut and counted
    /// @param textPrefix put before every text to classify, of a pair before the first, where the encoder was trained with
    ///     one (`"query: "` for `e5-small`); else empty
    /// @param pack for [Task#LM]: join all texts, each closed by the end token, and cut the whole into rows of
    ///     `maxLength` ids, so that nothing is padded or truncated. A row may then hold parts of several texts,
    ///     which see each other, as in Hugging Face's language-model examples
    /// @param answerRoom for [Task#GENERATE]: how many of the `maxLength` ids a prompt leaves to its target; longer prompts
    ///     are cut to that, whatever the target. 0: as many as the longest target of these rows has, at most half of all
    public record Options(int maxLength, String textPrefix, boolean pack, int answerRoom) {
        public Options {
            if (maxLength < 1) {
                throw new InputException("max length " + maxLength + " is not positive");
            }
            if (pack && maxLength < 2) {
                throw new InputException("max length 1 leaves nothing to predict in a packed row");
            }
            if (answerRoom < 0) {
                throw new InputException("answer room " + answerRoom + " is negative");
            }
        }

        /// No prefix, no packing.
        public static Options of(int maxLength) {
            return new Options(maxLength, "", false, 0);
        }

        public Options withTextPrefix(String prefix) {
            return new Options(maxLength, prefix, pack, answerRoom);
        }

        public Options withPack(boolean packed) {
            return new Options(maxLength, textPrefix, packed, answerRoom);
        }

        public Options withAnswerRoom(int tokens) {
            return new Options(maxLength, textPrefix, pack, tokens);
        }
    }

    private Examples(Builder builder, @Nullable Labels labels) {
        this.task = builder.task;
        this.options = builder.options.withAnswerRoom(builder.answerRoom());
        this.padId = builder.tokenizer.padId().orElse(0);
        this.ids = builder.ids.toArray(int[][]::new);
        this.tokenTypes = builder.tokenTypes;
        this.labels = labels;
        this.marks = new int[ids.length];
        List<String> labelNames = List.copyOf(builder.labelNames.keySet());
        for (int row = 0; row < ids.length; row++) {
            int mark = builder.marks.get(row);
            marks[row] = labels == null ? mark : labels.id(labelNames.get(mark));
        }
        this.truncated = builder.truncated;
        this.notes = builder.notes;
    }

    /// Reads and tokenises a file of JSON Lines.
    ///
    /// @param labels for [Task#CLASSIFY], the labels of an existing model; null to take those of the file,
    ///     sorted. Null for other tasks
    /// @throws InputException for a bad row, a label that is not one of `labels`, a file with fewer than two
    ///     labels where they are taken from it, or a text that gives a language model nothing to predict
    public static Examples read(Path file, Task task, Tokenizer tokenizer, Options options, @Nullable Labels labels) {
        Builder builder = new Builder(file.toString(), task, tokenizer, options, labels);
        Rows.forEach(file, task, (row, line) -> builder.add(row, file.toString(), line), builder.notes::unread);
        return builder.build(file.toString());
    }

    /// Tokenises rows that are in memory already; all of one task.
    ///
    /// @param labels as in [#read]
    /// @throws InputException as in [#read], with `rows` for the file and the row's place, counted from 1, for
    ///     the line
    public static Examples of(List<? extends Row> rows, Tokenizer tokenizer, Options options, @Nullable Labels labels) {
        if (rows.isEmpty()) {
            throw new InputException("rows: there are none");
        }
        Builder builder = new Builder("rows", rows.getFirst().task(), tokenizer, options, labels);
        for (int i = 0; i < rows.size(); i++) {
            builder.add(rows.get(i), "rows", i + 1);
        }
        return builder.build("rows");
    }

    /// Texts to classify whose classes nobody knows: their labels are [Batch#IGNORE].
    public static Examples unlabelled(List<Row.Unlabelled> texts, Tokenizer tokenizer, Options options) {
        Builder builder = new Builder("texts", Task.CLASSIFY, tokenizer, options, null);
        texts.forEach(row -> builder.keep(builder.encode(row.text(), row.textPair()), Batch.IGNORE));
        return new Examples(builder, null);
    }

    public Task task() {
        return task;
    }

    /// How many rows there are; with packing, how many packed rows.
    public int size() {
        return ids.length;
    }

    /// The ids of a row; the array is not copied.
    public int[] ids(int row) {
        return ids[row];
    }

    /// The types of a row's ids; the array is not copied. Null where all are 0.
    public int @Nullable [] tokenTypes(int row) {
        return tokenTypes.get(row);
    }

    /// Whether any row has tokens of other types than 0.
    public boolean hasTokenTypes() {
        return !tokenTypes.isEmpty();
    }

    public int length(int row) {
        return ids[row].length;
    }

    /// The class id of a row of [Task#CLASSIFY]; [Batch#IGNORE] where it has none.
    public int label(int row) {
        return marks[row];
    }

    /// How many leading ids of a row are prompt, and have no part in the loss; 0 but for [Task#GENERATE].
    public int promptLength(int row) {
        return task == Task.GENERATE ? marks[row] : 0;
    }

    /// The classes, for [Task#CLASSIFY].
    ///
    /// @throws IllegalStateException for another task, and for unlabelled rows
    public Labels labels() {
        if (labels == null) {
            throw new IllegalStateException("labels: rows of task " + task + " have none");
        }
        return labels;
    }

    /// How many rows had a text that was longer than there was room for and was cut.
    public int truncated() {
        return truncated;
    }

    /// How many of the ids of a row a prompt leaves to its target: what [Tokenizer#encodePrompt] must be told in order to cut
    /// as these rows were cut. 0 but for [Task#GENERATE].
    public int answerRoom() {
        return options.answerRoom;
    }

    /// The ids of the longest target, its end among them; 0 but for [Task#GENERATE].
    public int longestTarget() {
        return task == Task.GENERATE
                ? IntStream.range(0, size())
                        .map(row -> length(row) - promptLength(row))
                        .max()
                        .orElse(0)
                : 0;
    }

    /// What stands out in these rows, a line each that names file and count: texts that were cut, rows that are there twice,
    /// the same text with different labels, texts that the tokenizer hardly knows, fields that nothing reads.
    ///
    /// @param train the rows that were trained on, where these are held out: rows of both are told too
    public List<String> notices(@Nullable Examples train) {
        List<String> lines = new ArrayList<>();
        if (truncated > 0) {
            lines.add("%s: %,d %s"
                    .formatted(
                            notes.file(),
                            truncated,
                            task == Task.GENERATE
                                    ? "rows are longer than %d tokens, or their prompts than %d, and were cut"
                                            .formatted(options.maxLength, options.maxLength - options.answerRoom)
                                    : "texts are longer than %d tokens and were cut".formatted(options.maxLength)));
        }
        lines.addAll(notes.lines(train == null ? null : train.notes));
        return lines;
    }

    /// The SHA-256 of all ids, types, classes and prompt lengths, in order: what training sees of the rows.
    public String sha256() {
        try {
            MessageDigest sha256 = MessageDigest.getInstance("SHA-256");
            for (int row = 0; row < ids.length; row++) {
                ByteBuffer bytes = ByteBuffer.allocate(4 * (2 + ids[row].length));
                bytes.putInt(marks[row]).putInt(ids[row].length);
                for (int id : ids[row]) {
                    bytes.putInt(id);
                }
                sha256.update(bytes.flip());
                int[] types = tokenTypes.get(row);
                if (types != null) {
                    bytes.clear();
                    Arrays.stream(types).forEach(bytes::putInt);
                    sha256.update(bytes.flip());
                }
            }
            return HexFormat.of().formatHex(sha256.digest());
        } catch (NoSuchAlgorithmException e) {
            throw new IllegalStateException("every Java platform has SHA-256", e);
        }
    }

    /// The ids of the longest row.
    public int longest() {
        return Arrays.stream(ids).mapToInt(row -> row.length).max().orElse(0);
    }

    int maxLength() {
        return options.maxLength;
    }

    int padId() {
        return padId;
    }

    /// Takes rows one by one and keeps their ids.
    private static final class Builder {
        private final Task task;
        private final Tokenizer tokenizer;
        private final Options options;
        private final @Nullable Labels given;
        private final RowNotes notes;
        private final List<int[]> ids = new ArrayList<>();
        private final Map<Integer, int[]> tokenTypes = new HashMap<>();

        /// Per row: the place of its label in `labelNames`, or how many ids are prompt.
        private final List<Integer> marks = new ArrayList<>();

        /// Labels in order of first appearance.
        private final Map<String, Integer> labelNames = new LinkedHashMap<>();

        /// Prompts and targets that wait for the longest target to be known.
        private final List<Pair> pairs = new ArrayList<>();

        private int[] unpacked = new int[0];
        private int unpackedLength;
        private int truncated;

        Builder(String name, Task task, Tokenizer tokenizer, Options options, @Nullable Labels given) {
            if (options.pack && task != Task.LM) {
                throw new InputException("packing joins texts of task lm, not rows of task " + task);
            }
            this.task = task;
            this.tokenizer = tokenizer;
            this.options = options;
            this.given = given;
            this.notes = new RowNotes(name, task, tokenizer.unknownId());
        }

        /// The ids of a prompt and a target without what stands around them.
        private record Pair(int[] prompt, int[] target) {}

        void add(Row row, String file, long line) {
            if (row.task() != task) {
                throw InputException.at(file, line, "a row of task " + row.task() + " among rows of task " + task);
            }
            switch (row) {
                case Row.Classify(String text, String textPair, String label) -> {
                    if (given != null) {
                        requireKnown(label, given, file, line);
                    }
                    Integer place = labelNames.putIfAbsent(label, labelNames.size());
                    Tokenizer.Encoded ids = encode(text, textPair);
                    if (textPair == null) {
                        notes.row(text, label, ids.ids(), tokenizer.aroundText());
                    } else {
                        notes.row(text + '\0' + textPair, label, ids.ids(), tokenizer.aroundPair());
                    }
                    keep(ids, place == null ? labelNames.size() - 1 : place);
                }
                case Row.Unlabelled none -> throw InputException.at(file, line, "a row without a label");
                case Row.Generate(String source, String target) -> {
                    int[] prompt = tokenizer.body(source);
                    notes.row(source, target, prompt, 0);
                    pairs.add(new Pair(bounded(prompt), bounded(tokenizer.targetBody(target))));
                }
                case Row.Text(String text) -> {
                    Tokenizer.Encoded ids =
                            tokenizer.encodeDocument(text, options.pack ? Integer.MAX_VALUE : options.maxLength);
                    notes.row(text, "", ids.ids(), 0);
                    if (options.pack) {
                        pack(ids.ids());
                    } else {
                        keep(requireLoss(ids, file, line), 0);
                    }
                }
            }
        }

        private Tokenizer.Encoded encode(String text, @Nullable String textPair) {
            String first = options.textPrefix + text;
            return textPair == null
                    ? tokenizer.encode(first, options.maxLength)
                    : tokenizer.encode(first, textPair, options.maxLength);
        }

        /// Not more ids than tell that there are too many.
        private int[] bounded(int[] text) {
            return text.length <= options.maxLength ? text : Arrays.copyOf(text, options.maxLength + 1);
        }

        /// How much room prompts leave to targets.
        int answerRoom() {
            if (options.answerRoom > 0 || task != Task.GENERATE) {
                return options.answerRoom;
            }
            int longest = pairs.stream()
                    .mapToInt(p -> tokenizer.targetLength(p.target))
                    .max()
                    .orElse(1);
            return Math.max(1, Math.min(longest, options.maxLength / 2));
        }

        private static void requireKnown(String label, Labels given, String file, long line) {
            try {
                given.id(label);
            } catch (InputException e) {
                throw new InputException(file + ":" + line + ": field \"label\": " + e.getMessage(), e);
            }
        }

        private static Tokenizer.Encoded requireLoss(Tokenizer.Encoded encoded, String file, long line) {
            if (encoded.ids().length <= 1) {
                throw InputException.at(file, line, "the text gives fewer than two tokens: nothing to predict");
            }
            return encoded;
        }

        private void keep(Tokenizer.Encoded encoded, int mark) {
            if (encoded.tokenTypes() != null) {
                tokenTypes.put(ids.size(), encoded.tokenTypes());
            }
            ids.add(encoded.ids());
            marks.add(mark);
            truncated += encoded.truncated() ? 1 : 0;
        }

        private void pack(int[] text) {
            if (unpacked.length < unpackedLength + text.length) {
                unpacked = Arrays.copyOf(unpacked, Math.max(2 * unpacked.length, unpackedLength + text.length));
            }
            System.arraycopy(text, 0, unpacked, unpackedLength, text.length);
            unpackedLength += text.length;
            int from = 0;
            for (; unpackedLength - from >= options.maxLength; from += options.maxLength) {
                keepPacked(from, from + options.maxLength);
            }
            System.arraycopy(unpacked, from, unpacked, 0, unpackedLength - from);
            unpackedLength -= from;
        }

        private void keepPacked(int from, int to) {
            ids.add(Arrays.copyOfRange(unpacked, from, to));
            marks.add(0);
        }

        Examples build(String file) {
            if (unpackedLength > 1) {
                keepPacked(0, unpackedLength);
            }
            int answerRoom = answerRoom();
            for (Pair pair : pairs) {
                Tokenizer.Encoded row = tokenizer.pair(pair.prompt, pair.target, options.maxLength, answerRoom);
                keep(row, row.promptLength());
            }
            if (ids.isEmpty()) {
                throw new InputException(file + ": the texts give fewer than two tokens: nothing to predict");
            }
            return new Examples(this, task == Task.CLASSIFY ? labelsOf(file) : null);
        }

        private Labels labelsOf(String file) {
            if (given != null) {
                return given;
            }
            try {
                return Labels.of(labelNames.keySet());
            } catch (InputException e) {
                throw new InputException(file + ": field \"label\": " + e.getMessage(), e);
            }
        }
    }
}
