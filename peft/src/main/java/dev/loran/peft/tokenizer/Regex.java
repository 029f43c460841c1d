package dev.loran.peft.tokenizer;

import java.util.Locale;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.regex.PatternSyntaxException;
import org.jspecify.annotations.Nullable;

/// A pattern of a `tokenizer.json`: a literal string, or an Oniguruma regular expression.
///
/// Oniguruma's syntax is translated to Java's where both mean the same, and rejected with an explanation otherwise. As
/// a pattern may come from an untrusted file, matching is bounded: a match that looks at each character of a text more
/// than a few hundred times, far more often than real patterns do, fails with a [TokenizerException].
final class Regex {
    private static final int FLAGS =
            Pattern.UNICODE_CHARACTER_CLASS | Pattern.UNICODE_CASE | Pattern.MULTILINE | Pattern.UNIX_LINES;

    private static final long LOOKS = 1 << 16;
    private static final long LOOKS_PER_CHARACTER = 512;

    private final String path;
    private final @Nullable String literal;
    private final Pattern pattern;

    private Regex(Field field, @Nullable String literal, String expression) {
        this.path = field.path();
        this.literal = literal;
        try {
            this.pattern = Pattern.compile(expression, FLAGS);
        } catch (PatternSyntaxException e) {
            throw field.problem("the regular expression is not supported (" + e.getDescription() + "): "
                    + Field.shown(field.text()));
        }
    }

    /// `{"String": …}` or `{"Regex": …}`.
    static Regex read(Field field) {
        Field only = field.only("an object with String or Regex");
        return switch (only.path().substring(field.path().length() + 1)) {
            case "String" -> literal(only);
            case "Regex" -> new Regex(only, null, new Translation(only).java());
            default -> throw field.problem("is neither String nor Regex");
        };
    }

    private static Regex literal(Field field) {
        if (field.text().isEmpty()) {
            throw field.problem("is empty, and would match everywhere");
        }
        return new Regex(field, field.text(), Pattern.quote(field.text()));
    }

    /// A built-in pattern.
    static Regex of(String expression) {
        return new Regex(
                new Field(expression, com.fasterxml.jackson.databind.node.NullNode.instance), null, expression);
    }

    /// Splits `text[from, to)`. The pattern sees nothing outside this range.
    Spans spans(String text, int from, int to) {
        Spans spans = new Spans(from);
        if (literal != null) {
            int length = literal.length();
            for (int at = text.indexOf(literal, from, to); at >= 0; at = text.indexOf(literal, at + length, to)) {
                spans.match(at, at + length);
            }
        } else {
            search(text, from, to, spans);
        }
        spans.rest(to);
        return spans;
    }

    private void search(String text, int from, int to, Spans spans) {
        Matcher matcher = pattern.matcher(new Watched(text, LOOKS + LOOKS_PER_CHARACTER * (to - from), path));
        matcher.region(from, to);
        int last = -1;
        try {
            while (matcher.find()) {
                int start = matcher.start();
                // An empty match directly after another match, or inside a surrogate pair, does not count.
                boolean inside = start > from
                        && start < to
                        && Character.isSurrogatePair(text.charAt(start - 1), text.charAt(start));
                if (matcher.end() > start || (start != last && !inside)) {
                    spans.match(start, matcher.end());
                    last = matcher.end();
                }
            }
        } catch (StackOverflowError e) {
            throw new TokenizerException(
                    path + ": the regular expression recurses too deeply for a text of " + (to - from) + " characters");
        }
    }

    /// The text with each match replaced.
    String replace(String text, String content) {
        Spans spans = spans(text, 0, text.length());
        if (spans.size() == 0 || (spans.size() == 1 && !spans.matched(0))) {
            return text;
        }
        StringBuilder out = new StringBuilder(text.length());
        for (int i = 0; i < spans.size(); i++) {
            if (spans.matched(i)) {
                out.append(content);
            } else {
                out.append(text, spans.from(i), spans.to(i));
            }
        }
        return out.toString();
    }

    /// A text that counts the accesses to its characters.
    private static final class Watched implements CharSequence {
        private final String text;
        private final String path;
        private long looks;

        Watched(String text, long looks, String path) {
            this.text = text;
            this.looks = looks;
            this.path = path;
        }

        @Override
        public char charAt(int index) {
            if (--looks < 0) {
                throw new TokenizerException(path + ": the regular expression takes too many steps on a text of "
                        + text.length() + " characters");
            }
            return text.charAt(index);
        }

        @Override
        public int length() {
            return text.length();
        }

        @Override
        public CharSequence subSequence(int start, int end) {
            return text.substring(start, end);
        }

        @Override
        public String toString() {
            return text;
        }
    }

    /// Translates Oniguruma's syntax to Java's in a single pass.
    private static final class Translation {
        private static final int MAX_LENGTH = 10_000;
        private static final int MAX_DEPTH = 100;
        private static final String WORD = "\\p{IsAlphabetic}\\p{M}\\p{Nd}\\p{Pc}";
        private static final String LATIN_NUMBERS = "\\u00b2\\u00b3\\u00b9\\u00bc-\\u00be";

        private final Field field;
        private final String source;
        private final StringBuilder out = new StringBuilder();
        private int at;
        private int depth;

        Translation(Field field) {
            this.field = field;
            this.source = field.text();
            if (source.length() > MAX_LENGTH) {
                throw field.problem("has " + source.length() + " characters; " + MAX_LENGTH + " are supported");
            }
        }

        String java() {
            while (at < source.length()) {
                char c = source.charAt(at);
                switch (c) {
                    case '\\' -> escape(false);
                    case '[' -> characterClass();
                    case '(' -> group();
                    case ')' -> {
                        depth--;
                        copy(1);
                    }
                    case '{' -> repetition();
                    // Java's `$` also matches after a line break that ends the text.
                    case '$' -> replace("(?:(?=\\n)|(?<!\\n)\\z)", 1);
                    default -> copy(1);
                }
            }
            return out.toString();
        }

        private void copy(int length) {
            out.append(source, at, at + length);
            at += length;
        }

        private boolean follows(String text) {
            return source.startsWith(text, at);
        }

        private TokenizerException refused(String what) {
            return field.problem(
                    "the regular expression has " + what + ", which is not supported: " + Field.shown(source));
        }

        private void deeper() {
            if (++depth > MAX_DEPTH) {
                throw refused("more than " + MAX_DEPTH + " groups inside each other");
            }
        }

        private void group() {
            deeper();
            if (!follows("(?")) {
                copy(1);
                return;
            }
            if (follows("(?i)")) {
                // Inside a pattern its scope would be the rest of the alternative in one dialect, the rest of the group
                // in the other.
                if (at > 0) {
                    throw refused("(?i) behind its start");
                }
                depth--;
                copy(4);
                return;
            }
            for (String open : new String[] {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?-i:"}) {
                if (follows(open)) {
                    copy(open.length());
                    return;
                }
            }
            throw refused(Field.shown(source.substring(at, Math.min(at + 4, source.length()))));
        }

        /// `{n,m}`; Oniguruma also has `{,m}`, and takes any other brace literally.
        private void repetition() {
            int close = source.indexOf('}', at);
            String inside = close < 0 ? "" : source.substring(at + 1, close);
            if (!inside.matches("[0-9]{1,5}(,[0-9]{0,5})?|,[0-9]{1,5}")) {
                out.append("\\{");
                at++;
                return;
            }
            out.append('{')
                    .append(inside.startsWith(",") ? "0" : "")
                    .append(inside)
                    .append('}');
            at = close + 1;
            if (follows("+") || (follows("?") && !inside.contains(","))) {
                throw refused("{" + inside + "}" + source.charAt(at));
            }
        }

        private void characterClass() {
            deeper();
            copy(1);
            if (follows("^")) {
                copy(1);
            }
            if (follows("]")) {
                throw refused("an empty character class");
            }
            while (at < source.length() && source.charAt(at) != ']') {
                switch (source.charAt(at)) {
                    case '\\' -> escape(true);
                    case '[' -> {
                        if (follows("[:")) {
                            throw refused("a POSIX bracket");
                        }
                        characterClass();
                    }
                    default -> copy(1);
                }
            }
            if (at == source.length()) {
                throw refused("a character class without its end");
            }
            copy(1);
            depth--;
        }

        private void escape(boolean inClass) {
            if (at + 1 == source.length()) {
                throw refused("a backslash at its end");
            }
            char c = source.charAt(at + 1);
            switch (c) {
                case 'p', 'P' -> property();
                case 'd', 'D', 's', 'S', 'n', 'r', 't', 'f', 'a', 'e' -> copy(2);
                case 'w', 'W' -> word(c == 'W', inClass);
                case 'h', 'H' -> replace(c == 'h' ? "[0-9a-fA-F]" : "[^0-9a-fA-F]", 2);
                case 'v' -> replace("\\x0B", 2);
                case 'b', 'B', 'A', 'z', 'Z', 'G' -> {
                    if (inClass) {
                        throw refused("\\" + c + " in a character class");
                    }
                    copy(2);
                }
                case 'x', 'u' -> codePoint();
                default -> {
                    boolean reference = c >= '1' && c <= '9' && !inClass;
                    if (Character.isLetterOrDigit(c) && !reference) {
                        throw refused("\\" + c);
                    }
                    copy(Character.isHighSurrogate(c) && at + 2 < source.length() ? 3 : 2);
                }
            }
        }

        private void replace(String java, int length) {
            out.append(java);
            at += length;
        }

        /// Java includes the joiners among word characters; Oniguruma includes the fractions and superscripts of Latin
        /// 1, except in character classes.
        private void word(boolean not, boolean inClass) {
            String letters = inClass ? WORD : WORD + LATIN_NUMBERS;
            replace(not ? "[^" + letters + "]" : "[" + letters + "]", 2);
        }

        private void codePoint() {
            int end = at + 2;
            if (follows("\\x{")) {
                end = source.indexOf('}', at) + 1;
            } else {
                end += source.charAt(at + 1) == 'u' ? 4 : 2;
            }
            String code = end > source.length() || end <= at ? "" : source.substring(at, end);
            boolean whole = code.matches("\\\\x\\{[0-9a-fA-F]{1,6}\\}|\\\\u[0-9a-fA-F]{4}|\\\\x[0-7][0-9a-fA-F]");
            if (!whole) {
                throw refused(Field.shown(source.substring(at, Math.min(at + 6, source.length()))));
            }
            copy(code.length());
        }

        /// `\p{L}` and `\p{Lu}` are the same in both; a script is `\p{Han}` in Oniguruma and `\p{IsHan}` in Java.
        private void property() {
            int close = source.indexOf('}', at);
            if (!source.startsWith("{", at + 2) || close < 0) {
                throw refused("\\p without its braces");
            }
            String name = source.substring(at + 3, close);
            boolean negated = name.startsWith("^");
            String plain = negated ? name.substring(1) : name;
            boolean not = negated != (source.charAt(at + 1) == 'P');
            String java = plain;
            if (!plain.matches("[CLMNPSZ]|C[cfos]|L[ulmot]|M[nce]|N[dlo]|P[cdseifo]|S[mcko]|Z[slp]")) {
                try {
                    Character.UnicodeScript.forName(plain.toUpperCase(Locale.ROOT));
                } catch (IllegalArgumentException e) {
                    throw refused(Field.shown("\\p{" + name + "}"));
                }
                java = "Is" + plain;
            }
            replace((not ? "\\P{" : "\\p{") + java + "}", close + 1 - at);
        }
    }
}
