package dev.loran.peft.generation;

import java.text.BreakIterator;
import java.util.Locale;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/// Shortens texts to a number of characters, as a title or a meta description requires.
///
/// A character is a Unicode code point: `ü` is one, or two if it is decomposed into `u` and a combining mark; an emoji
/// is one or more. What a reader sees as one character is never divided.
public final class TextLimit {
    /// Punctuation that ends a sentence, with the quotes and brackets that close after it: before a space and anything
    /// but a lower-case letter; or at the end; or, in Chinese and Japanese, anywhere.
    private static final Pattern SENTENCE_END =
            Pattern.compile("[.!?…]+[\"')\\]»”’]*(?=\\s+[^\\s\\p{Ll}]|\\s*$)|[。！？]+[」』）”’]*");

    /// What does not stay at the end of a shortened text.
    private static final Pattern DANGLING = Pattern.compile("[\\s,;:(\\[{«“‘„\\p{Pd}]+$");

    private TextLimit() {}

    /// The number of characters of a text.
    public static int length(String text) {
        return text.codePointCount(0, text.length());
    }

    /// `text` if it has at most `maxChars` characters. Otherwise its beginning, up to the last end of a sentence that
    /// the limit allows; or, if that would leave at most half of the limit, up to the last word that fits, without a
    /// comma or dash behind it; or, if that would leave at most a third, as in a text without spaces, as much as fits.
    ///
    /// Sentences are told by their punctuation; that of an abbreviation before a capital letter is taken for the end of
    /// one.
    ///
    /// @param maxChars at least 1
    public static String cut(String text, int maxChars) {
        if (length(text) <= maxChars) {
            return text;
        }
        int limit = text.offsetByCodePoints(0, maxChars);
        int sentence = sentenceEnd(text, limit);
        if (sentence > text.offsetByCodePoints(0, maxChars / 2)) {
            return text.substring(0, sentence);
        }
        int word = wordEnd(text, limit);
        int end = word > text.offsetByCodePoints(0, maxChars / 3) ? word : characterEnd(text, limit);
        return text.substring(0, end).stripTrailing();
    }

    /// The first sentence of a text; all of it if it has no end.
    public static String firstSentence(String text) {
        Matcher end = SENTENCE_END.matcher(text);
        return end.find() ? text.substring(0, end.end()) : text;
    }

    /// The last end of a sentence up to `limit`; 0 if there is none.
    private static int sentenceEnd(String text, int limit) {
        int last = 0;
        for (Matcher end = SENTENCE_END.matcher(text); end.find() && end.end() <= limit; ) {
            last = end.end();
        }
        return last;
    }

    /// The last place up to `limit` where a line could be broken behind a word, not inside one at a hyphen or slash.
    private static int wordEnd(String text, int limit) {
        BreakIterator lines = BreakIterator.getLineInstance(Locale.ROOT);
        lines.setText(text);
        int last = 0;
        for (int next = lines.next(); next != BreakIterator.DONE; next = lines.next()) {
            int end = DANGLING.matcher(text.substring(0, next)).replaceFirst("").length();
            if (end > limit) {
                break;
            }
            int before = text.codePointBefore(next);
            if (before != '/' && Character.getType(before) != Character.DASH_PUNCTUATION) {
                last = end;
            }
        }
        return last;
    }

    /// The last place up to `limit` between two characters as a reader sees them.
    private static int characterEnd(String text, int limit) {
        BreakIterator characters = BreakIterator.getCharacterInstance(Locale.ROOT);
        characters.setText(text);
        return characters.isBoundary(limit) ? limit : characters.preceding(limit);
    }
}
