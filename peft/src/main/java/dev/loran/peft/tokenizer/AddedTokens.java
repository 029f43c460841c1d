package dev.loran.peft.tokenizer;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/// The tokens that are found in a text before it reaches the model: special tokens, and others that were added after
/// the model's training.
final class AddedTokens {
    private record Token(
            int id, String content, boolean singleWord, boolean lstrip, boolean rstrip, boolean normalized) {}

    /// A stretch of a text: an added token, or the text between two of them.
    ///
    /// @param id the added token's id, or -1
    record Stretch(int from, int to, int id) {}

    private final List<Token> tokens = new ArrayList<>();
    private final Map<String, Integer> ids = new LinkedHashMap<>();
    private final Map<Integer, String> contents = new HashMap<>();
    private final Set<String> special = new HashSet<>();
    private final Trie raw = new Trie();
    private final Trie normalized = new Trie();
    private boolean hasRaw;
    private boolean hasNormalized;

    AddedTokens(@Nullable Field field, Vocabulary vocabulary, @Nullable Normalizer normalizer) {
        List<Token> later = new ArrayList<>();
        int next = vocabulary.size();
        for (Field each : field == null ? List.<Field>of() : field.list()) {
            Token token = read(each);
            if (token.content.isEmpty()) {
                continue;
            }
            int known = vocabulary.find(token.content);
            int expected = known >= 0 ? known : next;
            if (token.id != expected) {
                throw each.problem("has the id " + token.id + ", but "
                        + (known >= 0 ? "the model's vocabulary has it at " : "the next id that is free is ")
                        + expected + ": " + Field.shown("\"" + token.content + "\""));
            }
            if (ids.put(token.content, token.id) != null || contents.put(token.id, token.content) != null) {
                throw each.problem("comes a second time: " + Field.shown("\"" + token.content + "\""));
            }
            next = Math.max(next, token.id + 1);
            if (each.at("special").flag()) {
                special.add(token.content);
                index(each, token, normalizer);
            } else {
                later.add(token);
            }
        }
        // If two tokens normalize to the same text, the special one is found.
        later.forEach(token -> index(
                new Field("added_tokens", com.fasterxml.jackson.databind.node.NullNode.instance), token, normalizer));
    }

    private static Token read(Field field) {
        return new Token(
                field.at("id").number(Vocabulary.MAX_ID),
                field.at("content").text(),
                field.at("single_word").flag(),
                field.at("lstrip").flag(),
                field.at("rstrip").flag(),
                field.at("normalized").flag());
    }

    private void index(Field field, Token token, @Nullable Normalizer normalizer) {
        String pattern = token.content;
        if (token.normalized && normalizer != null) {
            Normalizer.Passage passage = new Normalizer.Passage(pattern, true);
            normalizer.apply(passage);
            pattern = passage.text;
            if (pattern.isEmpty()) {
                throw field.problem(
                        "nothing is left of a token by normalisation: " + Field.shown("\"" + token.content + "\""));
            }
        }
        Trie trie = token.normalized ? normalized : raw;
        int node = trie.walk(pattern);
        if (node == Trie.NONE || trie.value(node) == Trie.NONE) {
            trie.put(pattern, tokens.size());
        }
        hasRaw |= !token.normalized;
        hasNormalized |= token.normalized;
        tokens.add(token);
    }

    /// The id of each added token's content.
    Map<String, Integer> ids() {
        return ids;
    }

    /// The content of an added token, or null.
    @Nullable
    String content(int id) {
        return contents.get(id);
    }

    boolean isSpecial(String content) {
        return special.contains(content);
    }

    /// Splits a text into stretches, before or after normalization.
    List<Stretch> find(String text, boolean isNormalized) {
        if (!(isNormalized ? hasNormalized : hasRaw)) {
            return List.of(new Stretch(0, text.length(), -1));
        }
        Trie trie = isNormalized ? normalized : raw;
        List<Stretch> stretches = new ArrayList<>();
        int done = 0;
        for (int at = 0; at < text.length(); ) {
            int end = -1;
            int found = -1;
            int node = 0;
            for (int i = at; i < text.length(); ) {
                node = trie.child(node, text.charAt(i++));
                if (node == Trie.NONE) {
                    break;
                }
                if (trie.value(node) != Trie.NONE) {
                    found = trie.value(node);
                    end = i;
                }
            }
            if (found < 0) {
                at++;
                continue;
            }
            done = add(text, tokens.get(found), at, end, done, stretches);
            at = end;
        }
        if (done != text.length()) {
            stretches.add(new Stretch(done, text.length(), -1));
        }
        return stretches;
    }

    /// Adds the token found at `text[from, to)` and the text before it.
    ///
    /// @param done the end of the stretches so far
    /// @return the new end of the stretches
    private static int add(String text, Token token, int from, int to, int done, List<Stretch> stretches) {
        if (token.singleWord
                && ((from > 0 && Characters.isWord(text.codePointBefore(from)))
                        || (to < text.length() && Characters.isWord(text.codePointAt(to))))) {
            return done;
        }
        int start = from;
        while (token.lstrip && start > done && Characters.isWhitespace(text.charAt(start - 1))) {
            start--;
        }
        start = token.lstrip ? Math.max(start, done) : start;
        // Anything beyond this token that an earlier one consumed is whitespace.
        int end = token.rstrip ? Math.max(to, done) : to;
        while (token.rstrip && end < text.length() && Characters.isWhitespace(text.charAt(end))) {
            end++;
        }
        if (done < start) {
            stretches.add(new Stretch(done, start, -1));
        }
        // A token inside whitespace that an earlier token consumed is dropped.
        if (start < end) {
            stretches.add(new Stretch(start, end, token.id));
        }
        return start > end ? done : end;
    }
}
