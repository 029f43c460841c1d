package dev.loran.peft.tokenizer;

import java.io.ByteArrayOutputStream;
import java.nio.charset.StandardCharsets;
import java.util.List;

/// GPT-2's bytes as characters: a printable byte of Latin 1 is its own character, the others are U+0100 and on.
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

    /// The UTF-8 bytes of `text[from, to)`, a character each.
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

    /// The text that tokens stand for. A token with a character that stands for no byte stands for itself.
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

    /// The text of bytes, with a replacement character for each longest beginning of a character that is not whole
    /// (Unicode 16, section 3.9, "maximal subparts"); Java takes some that cannot go on for begun.
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

    /// The smallest byte that may follow a first one: no character is written longer than it needs.
    private static int lowest(int lead) {
        return lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    }

    /// The largest: no surrogates, and nothing beyond U+10FFFF.
    private static int highest(int lead) {
        return lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    }
}
