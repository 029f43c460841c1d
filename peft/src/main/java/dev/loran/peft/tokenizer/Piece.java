package dev.loran.peft.tokenizer;

import java.util.List;

/// The stretch `text[from, to)`, which pre-tokenizers may split further.
///
/// @param first whether it starts where the user's text starts
record Piece(String text, int from, int to, boolean first) {
    Piece(String text, boolean first) {
        this(text, 0, text.length(), first);
    }

    /// Adds the part `text[start, end)` of this piece, unless it is empty.
    void part(int start, int end, List<Piece> out) {
        if (start == from && end == to) {
            out.add(this);
        } else if (start < end) {
            out.add(new Piece(text, start, end, first && start == from));
        }
    }

    boolean startsWith(int c) {
        return from < to && text.codePointAt(from) == c;
    }

    @Override
    public String toString() {
        return text.substring(from, to);
    }
}
