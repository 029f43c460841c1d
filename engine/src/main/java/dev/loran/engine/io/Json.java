package dev.loran.engine.io;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/// A strict reader of a single JSON text (RFC 8259): no comments, no trailing commas, no duplicate keys in an object,
/// no unpaired surrogates, nothing but whitespace after the value. Objects become maps in the order of the text, arrays
/// become lists, and numbers become [Long] if they are integers that fit and [Double] otherwise.
final class Json {
    private static final int MAX_DEPTH = 64;

    private final String where;
    private final String text;
    private int at;

    private Json(String where, String text) {
        this.where = where;
        this.text = text;
    }

    /// Returns the object that `text` holds; `where` is the prefix of every error message.
    ///
    /// @throws SafeTensorsException if `text` is anything else
    static Map<String, @Nullable Object> object(String where, String text) {
        Json json = new Json(where, text);
        json.space();
        Map<String, @Nullable Object> value = json.object(0);
        json.space();
        if (json.at < text.length()) {
            throw json.error("text goes on after the end of the object");
        }
        return value;
    }

    /// Returns `s` as a JSON string, with quotes.
    static String quote(String s) {
        StringBuilder b = new StringBuilder("\"");
        for (int i = 0; i < s.length(); i++) {
            char c = s.charAt(i);
            switch (c) {
                case '"' -> b.append("\\\"");
                case '\\' -> b.append("\\\\");
                case '\b' -> b.append("\\b");
                case '\f' -> b.append("\\f");
                case '\n' -> b.append("\\n");
                case '\r' -> b.append("\\r");
                case '\t' -> b.append("\\t");
                default -> b.append(c < ' ' ? String.format("\\u%04x", (int) c) : String.valueOf(c));
            }
        }
        return b.append('"').toString();
    }

    private @Nullable Object value(int depth) {
        if (depth > MAX_DEPTH) {
            throw error("nested deeper than " + MAX_DEPTH);
        }
        return switch (peek()) {
            case '{' -> object(depth);
            case '[' -> array(depth);
            case '"' -> string();
            case 't' -> word("true", true);
            case 'f' -> word("false", false);
            case 'n' -> word("null", null);
            default -> number();
        };
    }

    private Map<String, @Nullable Object> object(int depth) {
        Map<String, @Nullable Object> map = new LinkedHashMap<>();
        expect('{');
        space();
        if (skip('}')) {
            return map;
        }
        do {
            space();
            String key = string();
            if (map.containsKey(key)) {
                throw error("key " + quote(key) + " stands twice in an object");
            }
            space();
            expect(':');
            space();
            map.put(key, value(depth + 1));
            space();
        } while (skip(','));
        expect('}');
        return map;
    }

    private List<@Nullable Object> array(int depth) {
        List<@Nullable Object> list = new ArrayList<>();
        expect('[');
        space();
        if (skip(']')) {
            return list;
        }
        do {
            space();
            list.add(value(depth + 1));
            space();
        } while (skip(','));
        expect(']');
        return list;
    }

    private String string() {
        expect('"');
        StringBuilder b = new StringBuilder();
        for (char c = next(); c != '"'; c = next()) {
            if (c < ' ') {
                throw error("a control character stands unescaped in a string");
            }
            b.append(c == '\\' ? escaped() : c);
        }
        for (int i = 0; i < b.length(); i++) {
            if (Character.isSurrogate(b.charAt(i))) {
                if (i + 1 == b.length() || !Character.isSurrogatePair(b.charAt(i), b.charAt(++i))) {
                    throw error("a string holds half of a surrogate pair");
                }
            }
        }
        return b.toString();
    }

    private char escaped() {
        char c = next();
        return switch (c) {
            case '"', '\\', '/' -> c;
            case 'b' -> '\b';
            case 'f' -> '\f';
            case 'n' -> '\n';
            case 'r' -> '\r';
            case 't' -> '\t';
            case 'u' -> {
                int code = 0;
                for (int i = 0; i < 4; i++) {
                    char h = next();
                    int digit = h < 128 ? Character.digit(h, 16) : -1;
                    if (digit < 0) {
                        throw error("\\u needs four hexadecimal digits");
                    }
                    code = code * 16 + digit;
                }
                yield (char) code;
            }
            default -> throw error("no such escape in a string");
        };
    }

    private Object number() {
        int from = at;
        skip('-');
        if (!skip('0')) {
            digits();
        }
        boolean integer = true;
        if (skip('.')) {
            integer = false;
            digits();
        }
        if (skip('e') || skip('E')) {
            integer = false;
            if (!skip('+')) {
                skip('-');
            }
            digits();
        }
        String s = text.substring(from, at);
        // 18 digits always fit a long; no valid length or offset is longer than that.
        return integer && s.length() <= 18 ? (Object) Long.valueOf(s) : (Object) Double.valueOf(s);
    }

    private void digits() {
        int from = at;
        while (at < text.length() && text.charAt(at) >= '0' && text.charAt(at) <= '9') {
            at++;
        }
        if (at == from) {
            throw error("expected a value");
        }
    }

    private @Nullable Object word(String word, @Nullable Object value) {
        if (!text.startsWith(word, at)) {
            throw error("expected a value");
        }
        at += word.length();
        return value;
    }

    private void space() {
        while (at < text.length() && " \t\n\r".indexOf(text.charAt(at)) >= 0) {
            at++;
        }
    }

    private char peek() {
        if (at == text.length()) {
            throw error("the text ends too early");
        }
        return text.charAt(at);
    }

    private char next() {
        char c = peek();
        at++;
        return c;
    }

    private boolean skip(char c) {
        boolean there = at < text.length() && text.charAt(at) == c;
        at += there ? 1 : 0;
        return there;
    }

    private void expect(char c) {
        if (peek() != c) {
            throw error("expected '" + c + "'");
        }
        at++;
    }

    private SafeTensorsException error(String what) {
        return new SafeTensorsException(where + ": no valid JSON at character " + at + ": " + what);
    }
}
