package dev.loran.peft.data;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;

/// Tokenizers with a few tokens, created here so that tests need no model.
public final class TinyTokenizers {
    public static final List<String> WORDS = List.of(
            "[PAD]", "[UNK]", "[CLS]", "[SEP]", "buy", "cheap", "shoes", "run", "##ning", "online", "red", "query",
            ":");

    private TinyTokenizers() {}

    /// A WordPiece tokenizer like BERT's: ids are indices in [#WORDS], and texts are enclosed in `[CLS]` (2) and
    /// `[SEP]` (3). The file specifies truncation to 4 and padding to 16, as real files do.
    public static Tokenizer wordPiece() {
        return Tokenizer.of(wordPieceJson(), "tiny.json");
    }

    public static byte[] wordPieceJson() {
        ObjectNode vocab = new ObjectMapper().createObjectNode();
        for (int id = 0; id < WORDS.size(); id++) {
            vocab.put(WORDS.get(id), id);
        }
        return """
                {"version": "1.0",
                 "truncation": {"direction": "Left", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
                 "padding": {"strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": null,
                             "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
                 "added_tokens": [%s, %s, %s, %s],
                 "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                                "strip_accents": null, "lowercase": true},
                 "pre_tokenizer": {"type": "BertPreTokenizer"},
                 "post_processor": {"type": "TemplateProcessing",
                   "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                              {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
                   "pair": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                            {"SpecialToken": {"id": "[SEP]", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}},
                            {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
                   "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                                      "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}}},
                 "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
                 "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                           "max_input_chars_per_word": 100, "vocab": %s}}
                """.formatted(special(0, "[PAD]"), special(1, "[UNK]"), special(2, "[CLS]"), special(3, "[SEP]"), vocab)
                .getBytes(StandardCharsets.UTF_8);
    }

    /// A byte tokenizer like GPT-2's byte-level BPE without merges: the id of an ASCII letter is its code minus 33 (`a`
    /// is 64), a space is 220, a line feed 198; 256 is `<|endoftext|>`, the end token. No tokens are added before or
    /// after a text.
    ///
    /// @param folder the folder into which `tokenizer.json` and `tokenizer_config.json` are written
    public static Tokenizer bytes(Path folder) {
        try {
            Files.writeString(folder.resolve("tokenizer_config.json"), "{\"eos_token\": \"<|endoftext|>\"}");
            Files.write(folder.resolve("tokenizer.json"), bytesJson());
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
        return Tokenizer.load(folder);
    }

    private static byte[] bytesJson() {
        ObjectNode vocab = new ObjectMapper().createObjectNode();
        int unprintable = 0;
        int id = 0;
        // GPT-2 numbers the printable bytes first and assigns characters from U+0100 on to the others.
        for (int b = 0; b < 256; b++) {
            if (printable(b)) {
                vocab.put(Character.toString(b), id++);
            }
        }
        for (int b = 0; b < 256; b++) {
            if (!printable(b)) {
                vocab.put(Character.toString(256 + unprintable++), id++);
            }
        }
        return """
                {"version": "1.0", "truncation": null, "padding": null, "added_tokens": [%s],
                 "normalizer": null,
                 "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
                 "post_processor": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true},
                 "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
                 "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
                           "end_of_word_suffix": "", "fuse_unk": false, "vocab": %s, "merges": []}}
                """.formatted(special(256, "<|endoftext|>"), vocab).getBytes(StandardCharsets.UTF_8);
    }

    private static boolean printable(int b) {
        return (b >= '!' && b <= '~') || (b >= 0xa1 && b != 0xad);
    }

    private static String special(int id, String token) {
        return ("{\"id\": %d, \"content\": \"%s\", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, "
                        + "\"normalized\": false, \"special\": true}")
                .formatted(id, token);
    }
}
