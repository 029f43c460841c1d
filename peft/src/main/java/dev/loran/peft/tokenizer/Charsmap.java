package dev.loran.peft.tokenizer;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.jspecify.annotations.Nullable;

/// SentencePiece's `precompiled_charsmap`: the replacements of characters and grapheme clusters.
///
/// It holds the size of a double-array trie in four bytes (Aoe 1989, in the layout of Darts-clone), the trie's 32-bit
/// units in little-endian order, and the replacements, each terminated by a zero byte. A unit's low byte and highest
/// bit are the label, which must equal the byte that led there; bit 8 marks a value, and the remaining bits are an
/// offset, in units of 256 if bit 9 is set.
final class Charsmap implements Normalizer {
    /// A grapheme cluster.
    private static final Pattern GRAPHEME = Pattern.compile("\\X");

    /// Longer graphemes are looked up character by character.
    private static final int MAX_GRAPHEME_BYTES = 5;

    private final int[] units;
    private final byte[] replacements;

    Charsmap(Field field) {
        byte[] map;
        try {
            map = Base64.getDecoder().decode(field.text());
        } catch (IllegalArgumentException e) {
            throw field.problem("is not Base64");
        }
        ByteBuffer bytes = ByteBuffer.wrap(map).order(ByteOrder.LITTLE_ENDIAN);
        int size = map.length < 8 ? 0 : bytes.getInt();
        if (size < 4 || size % 4 != 0 || size > bytes.remaining()) {
            throw field.problem("is not a map of " + map.length + " bytes");
        }
        units = new int[size / 4];
        bytes.asIntBuffer().get(units);
        bytes.position(4 + size);
        replacements = new byte[bytes.remaining()];
        bytes.get(replacements);
    }

    @Override
    public void apply(Passage passage) {
        String text = passage.text;
        StringBuilder out = new StringBuilder(text.length() + 16);
        int plain = 0;
        // An ASCII character other than a carriage return is a grapheme of its own unless a non-ASCII character
        // follows.
        while (plain < text.length() && text.charAt(plain) < 0x80 && text.charAt(plain) != '\r') {
            plain++;
        }
        plain -= plain < text.length() && plain > 0 ? 1 : 0;
        for (int i = 0; i < plain; i++) {
            replace(text, i, i + 1, out);
        }
        Matcher graphemes = GRAPHEME.matcher(text).region(plain, text.length());
        while (plain < text.length() && graphemes.find()) {
            grapheme(text, graphemes.start(), graphemes.end(), out);
        }
        passage.text = out.toString();
    }

    private void grapheme(String text, int from, int to, StringBuilder out) {
        if (to - from <= MAX_GRAPHEME_BYTES) {
            byte[] bytes = text.substring(from, to).getBytes(StandardCharsets.UTF_8);
            String replacement = bytes.length <= MAX_GRAPHEME_BYTES ? find(bytes) : null;
            if (replacement != null) {
                out.append(replacement);
                return;
            }
        }
        for (int i = from, c; i < to; i += Character.charCount(c)) {
            c = text.codePointAt(i);
            replace(text, i, i + Character.charCount(c), out);
        }
    }

    private void replace(String text, int from, int to, StringBuilder out) {
        String replacement = find(text.substring(from, to).getBytes(StandardCharsets.UTF_8));
        if (replacement == null) {
            out.append(text, from, to);
        } else {
            out.append(replacement);
        }
    }

    /// The replacement for the shortest prefix of `key` that has one; it is used for the whole key.
    private @Nullable String find(byte[] key) {
        int node = offset(units[0]);
        for (byte b : key) {
            node ^= b & 0xff;
            if (b == 0 || node >= units.length || (units[node] & 0x800000ff) != (b & 0xff)) {
                return null;
            }
            boolean hasValue = (units[node] >>> 8 & 1) == 1;
            node ^= offset(units[node]);
            if (hasValue) {
                return node < units.length ? replacement(units[node] & 0x7fffffff) : null;
            }
        }
        return null;
    }

    private static int offset(int unit) {
        return unit >>> 10 << ((unit & 1 << 9) >>> 6);
    }

    private @Nullable String replacement(int start) {
        if (start >= replacements.length) {
            return null;
        }
        int end = start;
        while (end < replacements.length && replacements[end] != 0) {
            end++;
        }
        return new String(replacements, start, end - start, StandardCharsets.UTF_8);
    }
}
