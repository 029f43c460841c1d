package dev.loran.peft.data;

import dev.loran.peft.io.Nearest;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.OptionalInt;
import java.util.Set;
import java.util.TreeMap;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;

/// Collects what is unusual about the rows of a file: each kind is counted and reported in one line. Two 64-bit hashes
/// per row stay in memory.
final class RowNotes {
    private final String file;
    private final List<String> fields;
    private final OptionalInt unknownId;

    /// Hashes of texts, and of texts with their answers.
    private long[] texts = new long[64];

    private long[] whole = new long[64];
    private int rows;

    private final Set<String> formats = new LinkedHashSet<>();
    private final Map<String, Integer> unread = new TreeMap<>();
    private final Map<String, Integer> leftOut = new TreeMap<>();
    private int empty;
    private int mostlyUnknown;
    private long unknown;
    private long tokens;

    /// @param fields the fields that are read from a row
    RowNotes(String file, List<String> fields, OptionalInt unknownId) {
        this.file = file;
        this.fields = fields;
        this.unknownId = unknownId;
    }

    String file() {
        return file;
    }

    /// @param text the input text
    /// @param answer the label or target that belongs to it; empty for a text alone
    /// @param ids the ids of the text
    /// @param special how many of them come from the template
    void row(String text, String answer, int[] ids, int special) {
        if (rows == texts.length) {
            texts = Arrays.copyOf(texts, 2 * rows);
            whole = Arrays.copyOf(whole, 2 * rows);
        }
        texts[rows] = hash(text, 0);
        whole[rows] = hash(answer, texts[rows]);
        rows++;
        long missed =
                Arrays.stream(ids).filter(id -> unknownId.orElse(-1) == id).count();
        int own = ids.length - special;
        empty += own == 0 ? 1 : 0;
        mostlyUnknown += 2 * missed > own ? 1 : 0;
        unknown += missed;
        tokens += own;
    }

    /// The share of the tokens that the tokenizer has no id for; 0 if there are none.
    double unknownShare() {
        return unknown / (double) Math.max(1, tokens);
    }

    /// Records the format of a file, in words.
    void format(String detected) {
        formats.add(detected);
    }

    /// The formats of the files, a line for each.
    List<String> formats() {
        return List.copyOf(formats);
    }

    /// Records a field that is not read.
    void unread(String field) {
        unread.merge(field, 1, Integer::sum);
    }

    /// Records a row without an example.
    void leftOut(String why) {
        leftOut.merge(why, 1, Integer::sum);
    }

    /// FNV-1a over the characters, then the finalizer of MurmurHash3.
    private static long hash(String text, long seed) {
        long h = 0xcbf29ce484222325L ^ seed;
        for (int i = 0; i < text.length(); i++) {
            h = (h ^ text.charAt(i)) * 0x100000001b3L;
        }
        h = (h ^ h >>> 33) * 0xff51afd7ed558ccdL;
        h = (h ^ h >>> 33) * 0xc4ceb9fe1a85ec53L;
        return h ^ h >>> 33;
    }

    private static long[] distinct(long[] hashes, int count) {
        return Arrays.stream(hashes, 0, count).sorted().distinct().toArray();
    }

    /// The notices, one line for each kind.
    ///
    /// @param labelled whether a text has a single right answer, so that rows with the same text count as the same row
    /// @param train the rows that were trained on, if these are held out
    List<String> lines(boolean labelled, @Nullable RowNotes train) {
        List<String> lines = new ArrayList<>();
        if (!unread.isEmpty()) {
            String names = unread.entrySet().stream()
                    .map(e -> e.getKey() + " (" + e.getValue() + ")")
                    .collect(Collectors.joining(", "));
            add(lines, 1, "fields that are not read: " + names + Nearest.hint(near(), fields));
        }
        leftOut.forEach((why, count) -> add(lines, count, "rows were left out: " + why));
        long[] different = distinct(whole, rows);
        add(lines, rows - different.length, "rows repeat another one");
        if (labelled) {
            int more = different.length - distinct(texts, rows).length;
            add(lines, more, "rows have a text that another row has with another label");
        }
        add(lines, empty, "texts are empty for the tokenizer");
        add(
                lines,
                mostlyUnknown,
                ("texts are for the most part not in the tokenizer's vocabulary, %.1f %% of all tokens; is it of their"
                                + " language?")
                        .formatted(100.0 * unknown / Math.max(1, tokens)));
        add(
                lines,
                train == null ? 0 : shared(labelled, train),
                "rows are among those to train on: results on them prove nothing");
        return lines;
    }

    /// Unread fields whose name is close to that of a field that is read.
    private List<String> near() {
        return unread.keySet().stream()
                .filter(field -> fields.stream().anyMatch(known -> Nearest.edits(field, known) <= 2))
                .toList();
    }

    private int shared(boolean labelled, RowNotes train) {
        long[] known = distinct(labelled ? train.texts : train.whole, train.rows);
        long[] own = labelled ? texts : whole;
        return (int) Arrays.stream(own, 0, rows)
                .filter(h -> Arrays.binarySearch(known, h) >= 0)
                .count();
    }

    private void add(List<String> lines, int count, String what) {
        if (count > 0) {
            lines.add(file + ": " + (what.startsWith("fields") ? "" : "%,d of %,d ".formatted(count, rows)) + what);
        }
    }
}
