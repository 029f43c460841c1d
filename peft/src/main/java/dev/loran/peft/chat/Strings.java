package dev.loran.peft.chat;

import dev.loran.peft.chat.TemplateException.Problem;
import dev.loran.peft.chat.Values.None;
import dev.loran.peft.chat.Values.Undefined;
import java.time.LocalDateTime;
import java.time.format.DateTimeFormatter;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.TreeMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.jspecify.annotations.Nullable;

/// What Python does with strings: `repr`, `strip`, `split`, formats, `json.dumps`, `strftime`.
final class Strings {
    private static final int MAX_DEPTH = 200;
    private static final Pattern FORMAT =
            Pattern.compile("%(?:(%)|([-0 +]*)(\\d{0,4})(?:\\.(\\d{1,3}))?([sdifr])|(.?))");
    private static final Pattern DATE = Pattern.compile("%(-?.?)");

    private Strings() {}

    static boolean isSpace(int c) {
        return Character.isWhitespace(c) || Character.isSpaceChar(c) || c == 0x85;
    }

    /// The text without characters at its ends.
    ///
    /// @param chars which ones; None for white space
    static String strip(String text, Object chars, boolean left, boolean right) {
        String set = chars == None.NONE ? null : requireString(chars);
        int from = 0;
        int to = text.length();
        while (left && from < to && strips(text.codePointAt(from), set)) {
            from += Character.charCount(text.codePointAt(from));
        }
        while (right && to > from && strips(text.codePointBefore(to), set)) {
            to -= Character.charCount(text.codePointBefore(to));
        }
        return text.substring(from, to);
    }

    private static boolean strips(int c, @Nullable String set) {
        return set == null ? isSpace(c) : set.indexOf(c) >= 0;
    }

    static String requireString(Object value) {
        if (value instanceof String s) {
            return s;
        }
        throw new Problem(Values.kind(value) + " where a string is needed");
    }

    /// The code points `from` to `to`.
    static String slice(String text, int from, int to) {
        int start = text.offsetByCodePoints(0, from);
        return text.substring(start, text.offsetByCodePoints(start, to - from));
    }

    /// @param separator None for runs of white space
    /// @param most splits; negative for all
    static List<Object> split(String text, Object separator, int most, boolean fromRight) {
        List<Object> parts = separator == None.NONE
                ? words(text, most, fromRight)
                : parts(text, requireString(separator), most, fromRight);
        if (fromRight) {
            Collections.reverse(parts);
        }
        return parts;
    }

    private static List<Object> parts(String text, String separator, int most, boolean fromRight) {
        if (separator.isEmpty()) {
            throw new Problem("split has an empty separator");
        }
        List<Object> parts = new ArrayList<>();
        String rest = text;
        for (int n = 0; most < 0 || n < most; n++) {
            int at = fromRight ? rest.lastIndexOf(separator) : rest.indexOf(separator);
            if (at < 0) {
                break;
            }
            parts.add(fromRight ? rest.substring(at + separator.length()) : rest.substring(0, at));
            rest = fromRight ? rest.substring(0, at) : rest.substring(at + separator.length());
        }
        parts.add(rest);
        return parts;
    }

    private static List<Object> words(String text, int most, boolean fromRight) {
        List<Object> parts = new ArrayList<>();
        String rest = strip(text, None.NONE, !fromRight, fromRight);
        while (!rest.isEmpty()) {
            int end = fromRight ? rest.length() : 0;
            while (fromRight
                    ? end > 0 && !isSpace(rest.charAt(end - 1))
                    : end < rest.length() && !isSpace(rest.charAt(end))) {
                end += fromRight ? -1 : 1;
            }
            if (most >= 0 && parts.size() == most) {
                parts.add(strip(rest, None.NONE, fromRight, !fromRight));
                break;
            }
            parts.add(fromRight ? rest.substring(end) : rest.substring(0, end));
            rest = strip(fromRight ? rest.substring(0, end) : rest.substring(end), None.NONE, !fromRight, fromRight);
        }
        return parts;
    }

    static List<Object> lines(String text, boolean keepEnds) {
        List<Object> lines = new ArrayList<>();
        Matcher m = Pattern.compile(
                        "[^\\n\\r\\u000b\\f\\u001c-\\u001e\\u0085\\u2028\\u2029]*(\\r\\n|[\\n\\r\\u000b\\f\\u001c-\\u001e\\u0085\\u2028\\u2029]|$)")
                .matcher(text);
        while (m.find() && !m.group().isEmpty()) {
            lines.add(keepEnds ? m.group() : text.substring(m.start(), m.start(1)));
        }
        return lines;
    }

    /// Each word with a capital letter first.
    static String title(String text) {
        StringBuilder title = new StringBuilder();
        boolean inWord = false;
        for (int c : text.codePoints().toArray()) {
            title.appendCodePoint(inWord ? Character.toLowerCase(c) : Character.toTitleCase(c));
            inWord = Character.isLetter(c);
        }
        return title.toString();
    }

    static String capitalize(String text) {
        if (text.isEmpty()) {
            return text;
        }
        int end = text.offsetByCodePoints(0, 1);
        return text.substring(0, end).toUpperCase(Locale.ROOT)
                + text.substring(end).toLowerCase(Locale.ROOT);
    }

    static String repr(String text) {
        char quote = text.contains("'") && !text.contains("\"") ? '"' : '\'';
        StringBuilder all = new StringBuilder().append(quote);
        text.codePoints().forEach(c -> {
            switch (c) {
                case '\\' -> all.append("\\\\");
                case '\n' -> all.append("\\n");
                case '\r' -> all.append("\\r");
                case '\t' -> all.append("\\t");
                default -> {
                    if (c == quote) {
                        all.append('\\').append(quote);
                    } else if (c < 0x20 || c >= 0x7f && c < 0xa1 || c == 0xad) {
                        all.append("\\x%02x".formatted(c));
                    } else if (c != ' ' && (Character.isSpaceChar(c) || !Character.isDefined(c))
                            || Character.getType(c) == Character.FORMAT) {
                        all.append((c > 0xffff ? "\\U%08x" : "\\u%04x").formatted(c));
                    } else {
                        all.appendCodePoint(c);
                    }
                }
            }
        });
        return all.append(quote).toString();
    }

    /// The `%` of Python, with the conversions s, r, d, i and f.
    static String format(String format, List<?> values) {
        StringBuilder all = new StringBuilder();
        Matcher m = FORMAT.matcher(format);
        int next = 0;
        int done = 0;
        while (m.find()) {
            all.append(format, done, m.start());
            done = m.end();
            if (m.group(1) != null) {
                all.append('%');
                continue;
            }
            if (m.group(5) == null || next >= values.size()) {
                throw new Problem(
                        m.group(5) == null
                                ? "the format \"%" + m.group(6) + "\" is not supported"
                                : "a format has fewer values than places");
            }
            all.append(formatted(m, values.get(next++)));
        }
        if (next < values.size()) {
            throw new Problem("a format has more values than places");
        }
        return all.append(format.substring(done)).toString();
    }

    private static String formatted(Matcher m, Object value) {
        String text = switch (m.group(5)) {
            case "s" -> Values.string(value);
            case "r" -> Values.repr(value, 0);
            case "f" ->
                String.format(Locale.ROOT, "%." + (m.group(4) == null ? "6" : m.group(4)) + "f", Values.doubled(value));
            default -> String.valueOf((long) Values.doubled(value));
        };
        int width = m.group(3).isEmpty() ? 0 : Integer.parseInt(m.group(3));
        String fill = (m.group(2).contains("0") && !m.group(5).equals("s") ? "0" : " ")
                .repeat(Math.max(0, width - text.length()));
        if (m.group(2).contains("-")) {
            return text + " ".repeat(fill.length());
        }
        return fill.startsWith("0") && text.startsWith("-") ? "-" + fill + text.substring(1) : fill + text;
    }

    // ---- JSON

    /// As Python's `json.dumps` writes a value.
    ///
    /// @param indent of each level; null for one line
    record Json(boolean ascii, @Nullable String indent, String comma, String colon, boolean sorted) {
        String of(Object value) {
            StringBuilder all = new StringBuilder();
            write(value, 0, all);
            return all.toString();
        }

        private void write(Object value, int depth, StringBuilder out) {
            if (depth > MAX_DEPTH) {
                throw new Problem("a value is nested more than " + MAX_DEPTH + " times");
            }
            switch (value) {
                case None n -> out.append("null");
                case Boolean b -> out.append(b);
                case Long n -> out.append(n);
                case Double d ->
                    out.append(
                            d.isNaN() ? "NaN" : d.isInfinite() ? d > 0 ? "Infinity" : "-Infinity" : Values.floating(d));
                case String s -> quoted(s, out);
                case List<?> list -> {
                    out.append('[');
                    boolean first = true;
                    for (Object item : list) {
                        next(first, depth + 1, out);
                        write(item, depth + 1, out);
                        first = false;
                    }
                    end(first, depth, out).append(']');
                }
                case Map<?, ?> map -> {
                    Map<?, ?> all = sorted ? new TreeMap<>(map) : map;
                    out.append('{');
                    boolean first = true;
                    for (Map.Entry<?, ?> e : all.entrySet()) {
                        next(first, depth + 1, out);
                        quoted(e.getKey() instanceof String s ? s : of(e.getKey()), out);
                        out.append(colon);
                        write(e.getValue(), depth + 1, out);
                        first = false;
                    }
                    end(first, depth, out).append('}');
                }
                case Undefined u -> throw u.problem();
                default -> throw new Problem("tojson of " + Values.kind(value));
            }
        }

        private void next(boolean first, int depth, StringBuilder out) {
            out.append(first ? "" : comma);
            if (indent != null) {
                out.append('\n').append(indent.repeat(depth));
            }
        }

        private StringBuilder end(boolean empty, int depth, StringBuilder out) {
            return indent == null || empty ? out : out.append('\n').append(indent.repeat(depth));
        }

        private void quoted(String text, StringBuilder out) {
            out.append('"');
            for (int i = 0; i < text.length(); i++) {
                char c = text.charAt(i);
                int escape = "\"\\\n\r\t\f\b".indexOf(c);
                if (escape >= 0) {
                    out.append('\\').append("\"\\nrtfb".charAt(escape));
                } else if (c < 0x20 || ascii && c > 0x7e) {
                    out.append("\\u%04x".formatted((int) c));
                } else {
                    out.append(c);
                }
            }
            out.append('"');
        }
    }

    // ---- dates

    static String date(LocalDateTime when, String format) {
        return DATE.matcher(format).replaceAll(m -> Matcher.quoteReplacement(part(when, m.group(1))));
    }

    private static String part(LocalDateTime when, String code) {
        String pattern = switch (code) {
            case "Y" -> "uuuu";
            case "y" -> "uu";
            case "m" -> "MM";
            case "-m" -> "M";
            case "d" -> "dd";
            case "-d" -> "d";
            case "e" -> "ppd";
            case "B" -> "MMMM";
            case "b", "h" -> "MMM";
            case "A" -> "EEEE";
            case "a" -> "EEE";
            case "H" -> "HH";
            case "-H" -> "H";
            case "I" -> "hh";
            case "-I" -> "h";
            case "M" -> "mm";
            case "S" -> "ss";
            case "p" -> "a";
            case "j" -> "DDD";
            case "F" -> "uuuu-MM-dd";
            case "T" -> "HH:mm:ss";
            case "D" -> "MM/dd/uu";
            case "%" -> "";
            default -> throw new Problem("strftime_now: \"%" + code + "\" is not supported");
        };
        return pattern.isEmpty() ? "%" : when.format(DateTimeFormatter.ofPattern(pattern, Locale.ENGLISH));
    }
}
