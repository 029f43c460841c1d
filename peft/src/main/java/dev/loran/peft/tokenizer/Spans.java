package dev.loran.peft.tokenizer;

import java.util.Arrays;
import java.util.List;

/// A text split without gaps into the stretches that a pattern matched and those in between.
final class Spans {
    /// How the matched stretches are treated.
    enum Behavior {
        REMOVED("Removed"),
        ISOLATED("Isolated"),
        MERGED_WITH_PREVIOUS("MergedWithPrevious"),
        MERGED_WITH_NEXT("MergedWithNext"),
        CONTIGUOUS("Contiguous");

        private final String name;

        Behavior(String name) {
            this.name = name;
        }

        static Behavior read(Field field) {
            for (Behavior behavior : values()) {
                if (behavior.name.equals(field.text())) {
                    return behavior;
                }
            }
            throw field.unsupported("Removed, Isolated, MergedWithPrevious, MergedWithNext and Contiguous are");
        }
    }

    private int[] ends = new int[16];
    private boolean[] matched = new boolean[16];
    private int size;
    private final int start;

    /// Initially empty; the first span starts at `start`.
    Spans(int start) {
        this.start = start;
    }

    int size() {
        return size;
    }

    int from(int i) {
        return i == 0 ? start : ends[i - 1];
    }

    int to(int i) {
        return ends[i];
    }

    boolean matched(int i) {
        return matched[i];
    }

    /// Adds a match, and the text between it and the last span.
    void match(int from, int to) {
        rest(from);
        add(to, true);
    }

    /// Adds the remaining text up to `end`, if any.
    void rest(int end) {
        if (end > from(size)) {
            add(end, false);
        }
    }

    private void add(int end, boolean match) {
        if (size == ends.length) {
            ends = Arrays.copyOf(ends, 2 * size);
            matched = Arrays.copyOf(matched, 2 * size);
        }
        ends[size] = end;
        matched[size++] = match;
    }

    /// Splits the piece that these spans belong to.
    void cut(Piece piece, Behavior behavior, boolean invert, List<Piece> out) {
        switch (behavior) {
            case ISOLATED -> {
                for (int i = 0; i < size; i++) {
                    piece.part(from(i), to(i), out);
                }
            }
            case REMOVED -> {
                for (int i = 0; i < size; i++) {
                    if (matched[i] == invert) {
                        piece.part(from(i), to(i), out);
                    }
                }
            }
            default -> merge(piece, behavior, invert, out);
        }
    }

    /// Cuts between two spans unless the behavior joins them. Of several consecutive matches, only the one adjacent to
    /// the text between matches is joined to it.
    private void merge(Piece piece, Behavior behavior, boolean invert, List<Piece> out) {
        int from = start;
        for (int i = 1; i < size; i++) {
            boolean before = matched[i - 1] != invert;
            boolean after = matched[i] != invert;
            boolean joined = switch (behavior) {
                case CONTIGUOUS -> before == after;
                case MERGED_WITH_PREVIOUS -> after && !before;
                default -> before && !after;
            };
            if (!joined) {
                piece.part(from, to(i - 1), out);
                from = to(i - 1);
            }
        }
        if (size > 0) {
            piece.part(from, to(size - 1), out);
        }
    }
}
