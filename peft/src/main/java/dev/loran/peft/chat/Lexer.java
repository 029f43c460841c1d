package dev.loran.peft.chat;

import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Deque;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.jspecify.annotations.Nullable;

/// Splits the text of a template into tokens, with `trim_blocks` and `lstrip_blocks`: a line break right after a block
/// or a comment is dropped, and so is the blank space of a line before one.
final class Lexer {
    enum Kind {
        DATA,
        PRINT,
        PRINT_END,
        BLOCK,
        BLOCK_END,
        NAME,
        STRING,
        INTEGER,
        FLOAT,
        OPERATOR,
        END
    }

    /// @param text of a string its value
    record Token(Kind kind, String text, int line) {
        boolean is(Kind of, String what) {
            return kind == of && text.equals(what);
        }

        String shown() {
            return switch (kind) {
                case DATA -> "text";
                case END -> "the end";
                case STRING -> "a string";
                default -> "\"" + text + "\"";
            };
        }
    }

    private static final Pattern START = Pattern.compile("\\{([{%#])([-+]?)");
    private static final Pattern RAW = Pattern.compile("\\{%([-+]?)\\s*raw\\s*(-%}\\s*|\\+%}|%}\\n?)");
    private static final Pattern END_RAW = Pattern.compile("\\{%([-+]?)\\s*endraw\\s*(-%}\\s*|\\+%}|%}\\n?)");
    private static final Pattern COMMENT_END = Pattern.compile("-#}\\s*|\\+#}|#}\\n?");
    private static final Pattern PRINT_END = Pattern.compile("-}}\\s*|}}");
    private static final Pattern BLOCK_END = Pattern.compile("-%}\\s*|\\+%}|%}\\n?");
    private static final Pattern SPACE = Pattern.compile("\\s+");
    private static final Pattern NAME = Pattern.compile("[\\p{L}_][\\p{L}\\p{N}_]*");
    private static final Pattern FLOAT = Pattern.compile(
            "(?<![.])(?:\\d+_?)*\\d+(?:\\.(?:\\d+_?)*\\d+)?[eE][+-]?\\d+|(?:\\d+_?)*\\d+\\.(?:\\d+_?)*\\d+");
    private static final Pattern INTEGER = Pattern.compile("\\d+(?:_\\d+)*");
    private static final Pattern STRING =
            Pattern.compile("'((?:[^'\\\\]|\\\\.)*+)'|\"((?:[^\"\\\\]|\\\\.)*+)\"", Pattern.DOTALL);
    private static final Pattern OPERATOR = Pattern.compile("\\*\\*|//|==|!=|<=|>=|[-+*/%~<>=.:,|()\\[\\]{};]");

    private final String name;
    private final String text;
    private final List<Token> tokens = new ArrayList<>();
    private int at;
    private int line = 1;
    private boolean lineStarts = true;

    Lexer(String name, String source) {
        this.name = name;
        String lines = source.replace("\r\n", "\n").replace('\r', '\n');
        this.text = lines.endsWith("\n") ? lines.substring(0, lines.length() - 1) : lines;
    }

    /// @throws TemplateException for what is not closed, and for characters that are no token
    List<Token> tokens() {
        while (at < text.length()) {
            Matcher start = START.matcher(text);
            if (!start.find(at)) {
                data(text.substring(at));
                at = text.length();
                break;
            }
            Matcher raw = RAW.matcher(text).region(start.start(), text.length());
            boolean isRaw = raw.lookingAt();
            String sign = isRaw ? raw.group(1) : start.group(2);
            boolean print = start.group(1).equals("{");
            data(before(text.substring(at, start.start()), sign, print));
            advance(isRaw ? raw.end() : start.end());
            if (isRaw) {
                raw();
            } else if (start.group(1).equals("#")) {
                Matcher end = COMMENT_END.matcher(text);
                if (!end.find(at)) {
                    throw bad("the comment does not end: #} is missing");
                }
                advance(end.end());
            } else {
                tokens.add(new Token(print ? Kind.PRINT : Kind.BLOCK, start.group(), line));
                code(print);
            }
        }
        tokens.add(new Token(Kind.END, "", line));
        return tokens;
    }

    /// The text before a tag, without the blank space that the tag removes.
    private String before(String data, String sign, boolean print) {
        if (sign.equals("-")) {
            return data.stripTrailing();
        }
        int lineStart = data.lastIndexOf('\n') + 1;
        boolean strips = !sign.equals("+") && !print && (lineStart > 0 || lineStarts);
        return strips && data.substring(lineStart).isBlank() ? data.substring(0, lineStart) : data;
    }

    private void raw() {
        Matcher end = END_RAW.matcher(text);
        if (!end.find(at)) {
            throw bad("the block raw does not end: {% endraw %} is missing");
        }
        data(before(text.substring(at, end.start()), end.group(1), false));
        advance(end.end());
    }

    /// The inside of a tag, up to its end.
    private void code(boolean print) {
        Deque<String> open = new ArrayDeque<>();
        int began = line;
        while (at < text.length()) {
            Matcher end = (print ? PRINT_END : BLOCK_END).matcher(text).region(at, text.length());
            if (open.isEmpty() && end.lookingAt()) {
                tokens.add(new Token(print ? Kind.PRINT_END : Kind.BLOCK_END, print ? "}}" : "%}", line));
                advance(end.end());
                return;
            }
            if (next(SPACE) != null) {
                continue;
            }
            Token token = token();
            if (token.kind == Kind.OPERATOR) {
                balance(token.text, open);
            }
            tokens.add(token);
        }
        throw new TemplateException(name, began, "the tag does not end: " + (print ? "}}" : "%}") + " is missing");
    }

    private void balance(String operator, Deque<String> open) {
        switch (operator) {
            case "(" -> open.push(")");
            case "[" -> open.push("]");
            case "{" -> open.push("}");
            case ")", "]", "}" -> {
                if (open.isEmpty() || !open.pop().equals(operator)) {
                    throw bad("\"" + operator + "\" closes nothing");
                }
            }
            default -> {}
        }
    }

    private Token token() {
        int began = line;
        Matcher string = STRING.matcher(text).region(at, text.length());
        if (string.lookingAt()) {
            String value = string.group(1) == null ? string.group(2) : string.group(1);
            advance(string.end());
            return new Token(Kind.STRING, unescaped(value), began);
        }
        String found = next(FLOAT);
        if (found != null) {
            return new Token(Kind.FLOAT, found.replace("_", ""), began);
        }
        found = next(INTEGER);
        if (found != null) {
            return new Token(Kind.INTEGER, found.replace("_", ""), began);
        }
        found = next(NAME);
        if (found != null) {
            return new Token(Kind.NAME, found, began);
        }
        found = next(OPERATOR);
        if (found != null) {
            return new Token(Kind.OPERATOR, found, began);
        }
        throw bad("\"" + Character.toString(text.codePointAt(at)) + "\" is unexpected");
    }

    private @Nullable String next(Pattern pattern) {
        Matcher m = pattern.matcher(text).region(at, text.length());
        if (!m.lookingAt()) {
            return null;
        }
        advance(m.end());
        return m.group();
    }

    /// The value of a string literal, as in Python.
    private String unescaped(String literal) {
        if (literal.indexOf('\\') < 0) {
            return literal;
        }
        StringBuilder value = new StringBuilder();
        for (int i = 0; i < literal.length(); i++) {
            char c = literal.charAt(i);
            if (c != '\\') {
                value.append(c);
                continue;
            }
            char escape = literal.charAt(++i);
            int digits = escape == 'x' ? 2 : escape == 'u' ? 4 : escape == 'U' ? 8 : 0;
            if (digits > 0) {
                value.appendCodePoint(codePoint(literal, i + 1, digits));
                i += digits;
                continue;
            }
            int plain = "ntrabfv0\\'\"\n".indexOf(escape);
            if (plain < 0) {
                value.append('\\').append(escape);
            } else if (escape != '\n') {
                value.append("\n\t\r\u0007\b\f\u000b\0\\'\"".charAt(plain));
            }
        }
        return value.toString();
    }

    private int codePoint(String literal, int from, int digits) {
        try {
            int point = Integer.parseInt(literal.substring(from, from + digits), 16);
            if (Character.isValidCodePoint(point)) {
                return point;
            }
        } catch (NumberFormatException | StringIndexOutOfBoundsException e) {
            // Reported below.
        }
        throw bad("a string has an escape that is no character");
    }

    private void data(String data) {
        if (!data.isEmpty()) {
            tokens.add(new Token(Kind.DATA, data, line));
        }
    }

    private void advance(int to) {
        lineStarts = text.charAt(to - 1) == '\n';
        line += (int) text.substring(at, to).chars().filter(c -> c == '\n').count();
        at = to;
    }

    private TemplateException bad(String problem) {
        return new TemplateException(name, line, problem);
    }
}
