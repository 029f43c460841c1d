package dev.loran.peft.tokenizer;

import java.util.HexFormat;
import java.util.stream.IntStream;
import java.util.stream.Stream;

/// The character classes that Hugging Face tokenizers uses, for Unicode code points.
///
/// Hugging Face's categories are those of Unicode 8. Later characters have no category there, so BERT's tokenizers
/// treat their marks and punctuation as letters.
final class Characters {
    /// Within each range, every format character, mark and punctuation character is newer than Unicode 8.
    private static final int[] YOUNG = ranges("""
            61d 7fd 890-8e2 9fd-9fe a76 afa-aff b55 c04-c3c c77 c84 d00 d3b-d3c d81 eba ece 180f 1abf-1ace 1b4e-1b4f
            1b7d-1b7f 1df6-1dfb 2e43-2e5d a82c a8c5 a8ff 10d24-10f89 11070-11074 110c2-110cd 111cf 1123e-11241 1133b
            113bb-1145e 11660-1166c 116b9 1182f-11fff 12ff1-1612f 16d6d-16f4f 16fe2-16fe4 1cf00-1cf46 1e000-1e5ff
            1e944-1e95f""");

    private Characters() {}

    /// The first and last code point of each range, in order.
    private static int[] ranges(String text) {
        return Stream.of(text.split("\\s"))
                .flatMapToInt(range -> IntStream.of(
                        HexFormat.fromHexDigits(range.replaceFirst("-.*", "")),
                        HexFormat.fromHexDigits(range.replaceFirst(".*-", ""))))
                .toArray();
    }

    private static boolean isYoung(int c) {
        int low = 0;
        for (int high = YOUNG.length / 2; low < high; ) {
            int middle = (low + high) / 2;
            if (YOUNG[2 * middle + 1] < c) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        return 2 * low < YOUNG.length && YOUNG[2 * low] <= c;
    }

    /// The Unicode 8 category of characters that are format characters, nonspacing marks or punctuation there or in
    /// Java's Unicode version.
    private static int type(int c) {
        return switch (c) {
            case 0x166d, 0x111c9 -> Character.OTHER_PUNCTUATION;
            case 0x1734, 0x1171e -> Character.NON_SPACING_MARK;
            case 0x1885, 0x1886, 0xa9bd -> Character.OTHER_LETTER;
            default -> isYoung(c) ? Character.UNASSIGNED : Character.getType(c);
        };
    }

    /// Unicode's White_Space.
    static boolean isWhitespace(int c) {
        return c < 0x80
                ? c == ' ' || (c >= '\t' && c <= '\r')
                : c == 0x85
                        || c == 0xa0
                        || c == 0x1680
                        || (c >= 0x2000 && c <= 0x200a)
                        || c == 0x2028
                        || c == 0x2029
                        || c == 0x202f
                        || c == 0x205f
                        || c == 0x3000;
    }

    /// Control, format, surrogate and private-use characters.
    static boolean isOther(int c) {
        int type = type(c);
        return type == Character.CONTROL
                || type == Character.FORMAT
                || type == Character.SURROGATE
                || type == Character.PRIVATE_USE;
    }

    /// All Unicode punctuation, and the ASCII symbols.
    static boolean isPunctuation(int c) {
        if (c < 0x80) {
            return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
        }
        return switch (type(c)) {
            case Character.CONNECTOR_PUNCTUATION,
                    Character.DASH_PUNCTUATION,
                    Character.START_PUNCTUATION,
                    Character.END_PUNCTUATION,
                    Character.INITIAL_QUOTE_PUNCTUATION,
                    Character.FINAL_QUOTE_PUNCTUATION,
                    Character.OTHER_PUNCTUATION -> true;
            default -> false;
        };
    }

    static boolean isNonspacingMark(int c) {
        return type(c) == Character.NON_SPACING_MARK;
    }

    static boolean isMark(int c) {
        int type = Character.getType(c);
        return type == Character.NON_SPACING_MARK
                || type == Character.COMBINING_SPACING_MARK
                || type == Character.ENCLOSING_MARK;
    }

    static boolean isNumeric(int c) {
        int type = Character.getType(c);
        return type == Character.DECIMAL_DIGIT_NUMBER
                || type == Character.LETTER_NUMBER
                || type == Character.OTHER_NUMBER;
    }

    /// The meaning of `\w` in a Unicode regular expression: letters, marks, digits, connectors and joiners.
    static boolean isWord(int c) {
        return Character.isAlphabetic(c)
                || isMark(c)
                || Character.getType(c) == Character.DECIMAL_DIGIT_NUMBER
                || Character.getType(c) == Character.CONNECTOR_PUNCTUATION
                || c == 0x200c
                || c == 0x200d;
    }

    /// The ideographs that BERT surrounds with spaces.
    static boolean isChinese(int c) {
        return c >= 0x3400
                && ((c <= 0x4dbf)
                        || (c >= 0x4e00 && c <= 0x9fff)
                        || (c >= 0xf900 && c <= 0xfaff)
                        || (c >= 0x20000 && c <= 0x2a6df)
                        || (c >= 0x2a700 && c <= 0x2b73f)
                        || (c >= 0x2b740 && c <= 0x2b81f)
                        || (c >= 0x2b920 && c <= 0x2ceaf)
                        || (c >= 0x2f800 && c <= 0x2fa1f));
    }

    /// Appends the lower case of a character, regardless of its context.
    static void appendLowerCase(StringBuilder out, int c) {
        if (c == 0x130) {
            out.append("i\u0307");
        } else {
            out.appendCodePoint(Character.toLowerCase(c));
        }
    }
}
