package dev.loran.peft.tokenizer;

import java.text.Normalizer.Form;
import java.util.ArrayList;
import java.util.List;
import java.util.function.IntPredicate;
import java.util.function.IntUnaryOperator;

/// A transformation of the text before it is split.
interface Normalizer {
    void apply(Passage passage);

    /// A stretch of the user's text between added tokens, which normalizers modify.
    final class Passage {
        String text;
        /// Whether the text still starts with what the user's first character became.
        boolean first;

        Passage(String text, boolean first) {
            this.text = text;
            this.first = first;
        }
    }

    static Normalizer read(Field field) {
        return switch (field.type()) {
            case "Sequence" -> {
                List<Normalizer> steps = new ArrayList<>();
                field.steps("normalizers").forEach(step -> steps.add(read(step)));
                yield passage -> steps.forEach(step -> step.apply(passage));
            }
            case "BertNormalizer" -> Bert.read(field);
            case "Lowercase" -> passage -> passage.text = lowerCase(passage.text);
            case "NFC" -> form(Form.NFC);
            case "NFD" -> form(Form.NFD);
            case "NFKC" -> form(Form.NFKC);
            case "NFKD" -> form(Form.NFKD);
            case "StripAccents" -> passage -> change(passage, Characters::isMark, c -> c);
            case "Nmt" -> passage -> change(passage, Normalizer::isNmtControl, c -> isNmtBlank(c) ? ' ' : c);
            case "Replace" -> replace(field);
            case "Prepend" -> prepend(field.at("prepend").text());
            case "Strip" ->
                strip(field.at("strip_left").flag(), field.at("strip_right").flag());
            case "ByteLevel" -> passage -> passage.text = ByteLevel.write(passage.text, 0, passage.text.length());
            case "Precompiled" -> new Charsmap(field.at("precompiled_charsmap"));
            default ->
                throw field.at("type")
                        .unsupported("normalizers are Sequence, BertNormalizer, Lowercase, NFC, NFD, NFKC, NFKD,"
                                + " StripAccents, Nmt, Replace, Prepend, Strip, ByteLevel and Precompiled");
        };
    }

    private static Normalizer form(Form form) {
        return passage -> passage.text = unicode(passage.text, form);
    }

    /// Limits the work for a text with an endless run of combining marks, as sorting them takes quadratic time.
    /// Unicode's stream-safe format (UAX 15, section 13) allows 30 in a row; here runs of more than 1,024 are
    /// normalized in parts.
    static String unicode(String text, Form form) {
        if (isLatin1(text) && (form == Form.NFC || isAscii(text))) {
            return text;
        }
        int run = 0;
        int done = 0;
        StringBuilder parts = null;
        for (int i = 0; i < text.length(); i += Character.charCount(text.codePointAt(i))) {
            run = Characters.isMark(text.codePointAt(i)) ? run + 1 : 0;
            if (run > 1024) {
                parts = parts == null ? new StringBuilder() : parts;
                parts.append(java.text.Normalizer.normalize(text.substring(done, i), form));
                done = i;
                run = 0;
            }
        }
        String rest = java.text.Normalizer.normalize(text.substring(done), form);
        return parts == null ? rest : parts.append(rest).toString();
    }

    private static boolean isLatin1(String text) {
        return text.chars().allMatch(c -> c < 0x100);
    }

    private static boolean isAscii(String text) {
        return text.chars().allMatch(c -> c < 0x80);
    }

    private static String lowerCase(String text) {
        StringBuilder out = new StringBuilder(text.length());
        text.codePoints().forEach(c -> Characters.appendLowerCase(out, c));
        return out.toString();
    }

    /// Removes one kind of character and replaces others.
    private static void change(Passage passage, IntPredicate out, IntUnaryOperator exchange) {
        StringBuilder kept = new StringBuilder(passage.text.length());
        passage.text.codePoints().filter(out.negate()).map(exchange).forEach(kept::appendCodePoint);
        passage.first &= passage.text.isEmpty() || !out.test(passage.text.codePointAt(0));
        passage.text = kept.toString();
    }

    private static boolean isNmtControl(int c) {
        return (c >= 1 && c <= 8) || c == 0xb || (c >= 0xe && c <= 0x1f) || c == 0x7f || c == 0x8f || c == 0x9f;
    }

    private static boolean isNmtBlank(int c) {
        return c == '\t'
                || c == '\n'
                || c == '\f'
                || c == '\r'
                || c == 0x1680
                || (c >= 0x200b && c <= 0x200f)
                || c == 0x2028
                || c == 0x2029
                || c == 0x2581
                || c == 0xfeff
                || c == 0xfffd;
    }

    private static Normalizer replace(Field field) {
        Regex pattern = Regex.read(field.at("pattern"));
        String content = field.at("content").text();
        return passage -> {
            if (passage.first) {
                // A replacement for several characters counts as derived from the last of them.
                Spans spans = pattern.spans(passage.text, 0, passage.text.length());
                if (spans.size() > 0 && spans.matched(0)) {
                    passage.first = passage.text.codePointCount(0, spans.to(0)) <= 1 && !content.isEmpty();
                }
            }
            passage.text = pattern.replace(passage.text, content);
        };
    }

    private static Normalizer prepend(String prefix) {
        return passage -> {
            if (!passage.text.isEmpty()) {
                passage.text = prefix + passage.text;
            }
        };
    }

    private static Normalizer strip(boolean left, boolean right) {
        return passage -> {
            String text = passage.text;
            int from = 0;
            int to = text.length();
            // All Unicode white space is in the Basic Multilingual Plane.
            while (left && from < to && Characters.isWhitespace(text.charAt(from))) {
                from++;
            }
            while (right && to > from && Characters.isWhitespace(text.charAt(to - 1))) {
                to--;
            }
            passage.first &= from == 0;
            passage.text = text.substring(from, to);
        };
    }

    /// BERT's normalizer.
    record Bert(boolean cleanText, boolean handleChineseChars, boolean stripAccents, boolean lowercase)
            implements Normalizer {
        static Bert read(Field field) {
            boolean lowercase = field.at("lowercase").flag();
            return new Bert(
                    field.at("clean_text").flag(),
                    field.at("handle_chinese_chars").flag(),
                    field.flag("strip_accents", lowercase),
                    lowercase);
        }

        @Override
        public void apply(Passage passage) {
            String text = passage.text;
            StringBuilder out = new StringBuilder(text.length() + 16);
            boolean ascii = true;
            for (int i = 0, c; i < text.length(); i += Character.charCount(c)) {
                c = text.codePointAt(i);
                ascii &= c < 0x80;
                if (cleanText && isDropped(c)) {
                    passage.first &= i > 0;
                    continue;
                }
                if (cleanText && Characters.isWhitespace(c)) {
                    out.append(' ');
                } else if (handleChineseChars && Characters.isChinese(c)) {
                    out.append(' ').appendCodePoint(c).append(' ');
                } else if (lowercase && c < 0x80) {
                    out.append((char) (c >= 'A' && c <= 'Z' ? c + 32 : c));
                } else {
                    out.appendCodePoint(c);
                }
            }
            passage.text = out.toString();
            if (stripAccents && !ascii) {
                passage.text = unicode(passage.text, Form.NFD);
                change(passage, Characters::isNonspacingMark, c -> c);
            }
            if (lowercase && !ascii) {
                passage.text = lowerCase(passage.text);
            }
        }

        private static boolean isDropped(int c) {
            return c == 0 || c == 0xfffd || (Characters.isOther(c) && c != '\t' && c != '\n' && c != '\r');
        }
    }
}
