package dev.loran.peft.tokenizer;

import java.util.ArrayList;
import java.util.List;
import java.util.function.IntPredicate;

/// Splits a text into the pieces that the model processes one by one.
interface PreTokenizer {
    /// Adds the parts of a non-empty piece.
    void split(Piece piece, List<Piece> out);

    /// GPT-2's pattern: contractions, and letters, digits or other characters with an optional preceding space.
    Regex GPT2 = Regex.of("'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+");

    static PreTokenizer read(Field field) {
        return switch (field.type()) {
            case "Sequence" -> sequence(field);
            case "BertPreTokenizer" -> PreTokenizer::bert;
            case "Whitespace" -> PreTokenizer::words;
            case "WhitespaceSplit" -> characters(Characters::isWhitespace, Spans.Behavior.REMOVED);
            case "Punctuation" -> {
                Field behavior = field.optional("behavior");
                yield characters(
                        Characters::isPunctuation,
                        behavior == null ? Spans.Behavior.ISOLATED : Spans.Behavior.read(behavior));
            }
            case "Digits" ->
                characters(
                        Characters::isNumeric,
                        field.at("individual_digits").flag() ? Spans.Behavior.ISOLATED : Spans.Behavior.CONTIGUOUS);
            case "CharDelimiterSplit" -> {
                int delimiter = field.at("delimiter").character();
                yield characters(c -> c == delimiter, Spans.Behavior.REMOVED);
            }
            case "Split" -> {
                Regex pattern = Regex.read(field.at("pattern"));
                Spans.Behavior behavior = Spans.Behavior.read(field.at("behavior"));
                boolean invert = field.at("invert").flag();
                yield (piece, out) -> cut(piece, pattern, behavior, invert, out);
            }
            case "ByteLevel" -> byteLevel(field);
            case "Metaspace" -> Metaspace.read(field);
            default ->
                throw field.at("type")
                        .unsupported("pre-tokenizers are Sequence, BertPreTokenizer, Whitespace, WhitespaceSplit,"
                                + " Punctuation, Digits, CharDelimiterSplit, Split, ByteLevel and Metaspace");
        };
    }

    private static PreTokenizer sequence(Field field) {
        List<PreTokenizer> steps = new ArrayList<>();
        field.steps("pretokenizers").forEach(step -> steps.add(read(step)));
        return (piece, out) -> {
            List<Piece> pieces = List.of(piece);
            for (PreTokenizer step : steps) {
                List<Piece> parts = new ArrayList<>();
                for (Piece whole : pieces) {
                    step.split(whole, parts);
                }
                pieces = parts;
            }
            out.addAll(pieces);
        };
    }

    private static void cut(Piece piece, Regex pattern, Spans.Behavior behavior, boolean invert, List<Piece> out) {
        pattern.spans(piece.text(), piece.from(), piece.to()).cut(piece, behavior, invert, out);
    }

    /// Splits at each character of one kind.
    private static PreTokenizer characters(IntPredicate kind, Spans.Behavior behavior) {
        return (piece, out) -> {
            Spans spans = new Spans(piece.from());
            for (int i = piece.from(), next; i < piece.to(); i = next) {
                int c = piece.text().codePointAt(i);
                next = i + Character.charCount(c);
                if (kind.test(c)) {
                    spans.match(i, next);
                }
            }
            spans.rest(piece.to());
            spans.cut(piece, behavior, false, out);
        };
    }

    /// Words separated by whitespace, with each punctuation mark as its own piece.
    private static void bert(Piece piece, List<Piece> out) {
        int start = piece.from();
        for (int i = piece.from(), next; i < piece.to(); i = next) {
            int c = piece.text().codePointAt(i);
            next = i + Character.charCount(c);
            boolean blank = Characters.isWhitespace(c);
            if (blank || Characters.isPunctuation(c)) {
                piece.part(start, i, out);
                if (!blank) {
                    piece.part(i, next, out);
                }
                start = next;
            }
        }
        piece.part(start, piece.to(), out);
    }

    /// Runs of word characters, and runs of characters that are neither word characters nor whitespace.
    private static void words(Piece piece, List<Piece> out) {
        int start = piece.from();
        int kind = 0;
        for (int i = piece.from(), next; i < piece.to(); i = next) {
            int c = piece.text().codePointAt(i);
            next = i + Character.charCount(c);
            int here = Characters.isWhitespace(c) ? 0 : Characters.isWord(c) ? 1 : 2;
            if (here != kind) {
                if (kind != 0) {
                    piece.part(start, i, out);
                }
                start = i;
                kind = here;
            }
        }
        if (kind != 0) {
            piece.part(start, piece.to(), out);
        }
    }

    private static PreTokenizer byteLevel(Field field) {
        boolean prefixSpace = field.at("add_prefix_space").flag();
        boolean useRegex = field.flag("use_regex", true);
        return (piece, out) -> {
            Piece spaced = prefixSpace && !piece.startsWith(' ') ? new Piece(" " + piece, piece.first()) : piece;
            List<Piece> words = new ArrayList<>();
            if (useRegex) {
                cut(spaced, GPT2, Spans.Behavior.ISOLATED, false, words);
            } else {
                words.add(spaced);
            }
            for (Piece word : words) {
                out.add(new Piece(ByteLevel.write(word.text(), word.from(), word.to()), word.first()));
            }
        };
    }

    /// SentencePiece's treatment of spaces: each becomes a visible character, one is prepended, and words start with
    /// it.
    record Metaspace(String sign, String prependScheme, boolean split) implements PreTokenizer {
        static Metaspace read(Field field) {
            String sign = Character.toString(field.at("replacement").character());
            Field scheme = field.optional("prepend_scheme");
            String prepend = scheme == null ? "always" : scheme.text();
            if (scheme != null && !List.of("always", "first", "never").contains(prepend)) {
                throw scheme.unsupported("always, first and never are");
            }
            if (!field.flag("add_prefix_space", true) && !prepend.equals("never")) {
                throw field.at("add_prefix_space").problem("is false, but prepend_scheme is " + prepend);
            }
            return new Metaspace(sign, prepend, field.flag("split", true));
        }

        @Override
        public void split(Piece piece, List<Piece> out) {
            String text = piece.toString().replace(" ", sign);
            boolean prepended = prependScheme.equals("always") || (prependScheme.equals("first") && piece.first());
            Piece whole = new Piece(prepended && !text.startsWith(sign) ? sign + text : text, piece.first());
            if (!split) {
                out.add(whole);
                return;
            }
            Spans spans = new Spans(0);
            for (int at = whole.text().indexOf(sign); at >= 0; at = whole.text().indexOf(sign, at + sign.length())) {
                spans.match(at, at + sign.length());
            }
            spans.rest(whole.to());
            spans.cut(whole, Spans.Behavior.MERGED_WITH_NEXT, false, out);
        }
    }
}
