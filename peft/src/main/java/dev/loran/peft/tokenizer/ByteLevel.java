package dev.loran.peft.tokenizer;

import java.io.ByteArrayOutputStream;
import java.nio.charset.StandardCharsets;
import java.util.List;

/// GPT-2's mapping of bytes to characters: printable bytes of Latin 1 map to themselves, the others to U+0100 and up.
final class ByteLevel {
    private static final char[] CHARACTERS = new char[256];
    private static final byte[] BYTES = new byte[0x144];
    private static final boolean[] KNOWN = new boolean[0x144];

    static {
        int others = 0;
        for (int b = 0; b < 256; b++) {
            boolean printable = (b >= '!' && b <= '~') || (b >= 0xa1 && b != 0xad);
            char c = (char) (printable ? b : 256 + others++);
            CHARACTERS[b] = c;
            BYTES[c] = (byte) b;
            KNOWN[c] = true;
        }
    }

    private ByteLevel() {}

    /// The character of a byte.
    static char character(int b) {
        return CHARACTERS[b];
    }

    /// The UTF-8 bytes of `text[from, to)`, one character per byte.
    static String write(String text, int from, int to) {
        StringBuilder out = new StringBuilder(to - from + 16);
        for (int i = from, c; i < to; i += Character.charCount(c)) {
            c = text.codePointAt(i);
            if (c < 0x80) {
                out.append(CHARACTERS[c]);
            } else if (c < 0x800) {
                out.append(CHARACTERS[0xc0 | c >> 6]).append(CHARACTERS[0x80 | c & 0x3f]);
            } else if (c < 0x10000) {
                out.append(CHARACTERS[0xe0 | c >> 12])
                        .append(CHARACTERS[0x80 | c >> 6 & 0x3f])
                        .append(CHARACTERS[0x80 | c & 0x3f]);
            } else {
                out.append(CHARACTERS[0xf0 | c >> 18])
                        .append(CHARACTERS[0x80 | c >> 12 & 0x3f])
                        .append(CHARACTERS[0x80 | c >> 6 & 0x3f])
                        .append(CHARACTERS[0x80 | c & 0x3f]);
            }
        }
        return out.toString();
    }

    /// The text that tokens represent. A token that contains a character which maps to no byte represents itself.
    static String read(List<String> tokens) {
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        for (String token : tokens) {
            if (token.chars().allMatch(c -> c < KNOWN.length && KNOWN[c])) {
                token.chars().forEach(c -> out.write(BYTES[c]));
            } else {
                out.writeBytes(token.getBytes(StandardCharsets.UTF_8));
            }
        }
        return utf8(out.toByteArray());
    }

    /// Decodes UTF-8, with one replacement character for each maximal subpart of an ill-formed sequence (Unicode 16,
    /// section 3.9, "maximal subparts"); Java's decoder also accepts some prefixes that cannot be continued.
    private static String utf8(byte[] bytes) {
        StringBuilder out = new StringBuilder(bytes.length);
        for (int i = 0; i < bytes.length; ) {
            int lead = bytes[i++] & 0xff;
            int more = lead < 0xc2 || lead > 0xf4 ? 0 : lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : 3;
            int c = lead < 0x80 ? lead : more == 0 ? 0xfffd : lead & 0x3f >> more;
            for (int low = lowest(lead), high = highest(lead); more > 0; more--, low = 0x80, high = 0xbf) {
                int next = i < bytes.length ? bytes[i] & 0xff : 0;
                if (next < low || next > high) {
                    c = 0xfffd;
                    break;
                }
                c = c << 6 | next & 0x3f;
                i++;
            }
            out.appendCodePoint(c);
        }
        return out.toString();
    }

    /// The smallest valid byte after a lead byte: excludes overlong encodings.
    private static int lowest(int lead) {
        return lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    }

    /// The largest valid byte after a lead byte: excludes surrogates and anything beyond U+10FFFF.
    private static int highest(int lead) {
        return lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    }
}
