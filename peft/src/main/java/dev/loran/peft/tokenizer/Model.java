package dev.loran.peft.tokenizer;

import org.jspecify.annotations.Nullable;

/// Converts a piece of text to token ids.
interface Model {
    /// Adds the ids of `text[from, to)`, which is not empty.
    ///
    /// @throws TokenizerException if an unknown token is needed and there is none
    void encode(String text, int from, int to, Ids out);

    private static int unknown(Vocabulary vocabulary, String token) {
        int id = vocabulary.find(token);
        if (id < 0) {
            throw new TokenizerException("model.unk_token: is not in the vocabulary, and a text has unknown words: "
                    + Field.shown("\"" + token + "\""));
        }
        return id;
    }

    /// Each piece is one token, or unknown.
    record WordLevel(Vocabulary vocabulary, String unknownToken) implements Model {
        static WordLevel read(Field model, Vocabulary vocabulary) {
            return new WordLevel(vocabulary, model.at("unk_token").text());
        }

        @Override
        public void encode(String text, int from, int to, Ids out) {
            int id = vocabulary.find(text, from, to);
            out.add(id < 0 ? unknown(vocabulary, unknownToken) : id);
        }
    }

    /// Takes the longest token at the start of a word, then the longest continuation, up to the word's end; a word that
    /// cannot be split this way, or is too long, is unknown as a whole.
    final class WordPiece implements Model {
        private final Vocabulary vocabulary;
        private final String unknownToken;
        private final int maxCharacters;
        private final Trie tokens = new Trie();
        /// The trie node at which continuations start.
        private final int continuing;

        WordPiece(Field model, Vocabulary vocabulary) {
            this.vocabulary = vocabulary;
            this.unknownToken = model.at("unk_token").text();
            this.maxCharacters = model.at("max_input_chars_per_word").number(Integer.MAX_VALUE);
            for (int id = 0; id < vocabulary.end(); id++) {
                String token = vocabulary.token(id);
                if (token != null) {
                    tokens.put(token, id);
                }
            }
            this.continuing = tokens.walk(model.at("continuing_subword_prefix").text());
        }

        @Override
        public void encode(String text, int from, int to, Ids out) {
            int start = out.size();
            int at = to - from > maxCharacters && text.codePointCount(from, to) > maxCharacters ? -1 : from;
            while (at >= 0 && at < to) {
                int node = at == from ? 0 : continuing;
                int end = -1;
                int id = -1;
                for (int i = at; i < to && node != Trie.NONE; ) {
                    node = tokens.child(node, text.charAt(i++));
                    if (node != Trie.NONE && tokens.value(node) != Trie.NONE) {
                        id = tokens.value(node);
                        end = i;
                    }
                }
                out.add(id);
                at = end;
            }
            if (at < 0) {
                out.cut(start);
                out.add(unknown(vocabulary, unknownToken));
            }
        }
    }

    /// Adds the ids of the bytes of `text[from, to)`, under SentencePiece's names, such as `<0x0A>`.
    ///
    /// @param ids the ids of the 256 byte tokens, or -1
    /// @return false if one of the bytes has no token; nothing is added then
    static boolean addBytes(int[] ids, String text, int from, int to, Ids out) {
        byte[] bytes = text.substring(from, to).getBytes(java.nio.charset.StandardCharsets.UTF_8);
        for (byte b : bytes) {
            if (ids[b & 0xff] < 0) {
                return false;
            }
        }
        for (byte b : bytes) {
            out.add(ids[b & 0xff]);
        }
        return true;
    }

    /// The ids for [#addBytes]; null if the model does not use byte fallback.
    static int @Nullable [] byteIds(Field model, Vocabulary vocabulary) {
        if (!model.flag("byte_fallback", false)) {
            return null;
        }
        int[] ids = new int[256];
        for (int b = 0; b < 256; b++) {
            ids[b] = vocabulary.find("<0x%02X>".formatted(b));
        }
        return ids;
    }
}
