package dev.loran.peft.data;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.loran.peft.io.InputException;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class TokenizerTest {
    @TempDir
    Path folder;

    @Test
    void idsStandBetweenTheTemplatesTokensWhateverTheFileSaysOfPaddingAndTruncation() {
        try (Tokenizer tokenizer = TinyTokenizers.wordPiece()) {
            assertThat(tokenizer
                            .encode("Buy cheap running shoes online zzz", 512)
                            .ids())
                    .containsExactly(2, 4, 5, 7, 8, 6, 9, 1, 3);
            assertThat(tokenizer.vocabSize()).isEqualTo(TinyTokenizers.WORDS.size());
            assertThat(tokenizer.padId()).hasValue(0);
            // The token that training appends to a text ends a text in generation.
            assertThat(tokenizer.eosId()).hasValue(3);
            assertThat(tokenizer.eosIds()).containsExactly(3);
        }
    }

    @Test
    void aLongTextIsCutAtItsEndAndKeepsTheSpecialTokens() {
        try (Tokenizer tokenizer = TinyTokenizers.wordPiece()) {
            Tokenizer.Encoded whole = tokenizer.encode("buy cheap shoes", 5);
            assertThat(whole.ids()).containsExactly(2, 4, 5, 6, 3);
            assertThat(whole.truncated()).isFalse();
            Tokenizer.Encoded cut = tokenizer.encode("buy cheap shoes", 4);
            assertThat(cut.ids()).containsExactly(2, 4, 5, 3);
            assertThat(cut.truncated()).isTrue();
            assertThatThrownBy(() -> tokenizer.encode("buy", 2))
                    .isInstanceOf(InputException.class)
                    .hasMessage(
                            "max length 2 leaves no room for text beside the special tokens of tiny.json; use 3 or more");
        }
    }

    @Test
    void decodingLeavesSpecialTokensOut() {
        try (Tokenizer tokenizer = TinyTokenizers.wordPiece();
                Tokenizer bytes = TinyTokenizers.bytes(folder)) {
            assertThat(tokenizer.decode(new int[] {2, 4, 7, 8, 6, 3, 0})).isEqualTo("buy running shoes");
            for (String text : new String[] {"a b", "naïve café", "日本", "😀 end\n", "nul \0."}) {
                assertThat(bytes.decode(bytes.encode(text, 99).ids())).isEqualTo(text);
            }
        }
    }

    @Test
    void aDocumentIsClosedByTheEndTokenUnlessItIsCut() {
        try (Tokenizer tokenizer = TinyTokenizers.bytes(folder)) {
            assertThat(tokenizer.eosId()).hasValue(256);
            assertThat(tokenizer.padId()).isEmpty();
            assertThat(tokenizer.vocabSize()).isEqualTo(257);
            assertThat(tokenizer.encode("ab", 9).ids()).containsExactly(64, 65);
            assertThat(tokenizer.encodeDocument("ab", 3).ids()).containsExactly(64, 65, 256);
            Tokenizer.Encoded cut = tokenizer.encodeDocument("abc", 3);
            assertThat(cut.ids()).containsExactly(64, 65, 66);
            assertThat(cut.truncated()).isFalse();
            assertThat(tokenizer.encodeDocument("abcd", 3).truncated()).isTrue();
            assertThat(tokenizer.encodeStart("abc", 9).ids()).containsExactly(64, 65, 66);
        }
        try (Tokenizer tokenizer = TinyTokenizers.wordPiece()) {
            assertThat(tokenizer.encodeStart("buy shoes", 9).ids()).containsExactly(2, 4, 6);
            assertThat(tokenizer.encodeStart("buy shoes", 2).truncated()).isTrue();
        }
    }

    @Test
    void twoTextsStandInTheTemplateForPairsAndTheLongerIsCutFirst() {
        try (Tokenizer tokenizer = TinyTokenizers.wordPiece()) {
            Tokenizer.Encoded pair = tokenizer.encode("buy shoes", "red", 9);
            assertThat(pair.ids()).containsExactly(2, 4, 6, 3, 10, 3);
            assertThat(pair.tokenTypes()).containsExactly(0, 0, 0, 0, 1, 1);
            assertThat(pair.truncated()).isFalse();
            assertThat(tokenizer.encode("buy shoes", 9).tokenTypes()).isNull();
            Tokenizer.Encoded first = tokenizer.encode("buy shoes shoes shoes", "buy", 7);
            assertThat(first.ids()).containsExactly(2, 4, 6, 6, 3, 4, 3);
            assertThat(first.truncated()).isTrue();
            Tokenizer.Encoded both = tokenizer.encode("buy shoes shoes shoes", "buy buy buy buy buy", 8);
            assertThat(both.ids()).containsExactly(2, 4, 6, 3, 4, 4, 4, 3);
            assertThat(both.tokenTypes()).containsExactly(0, 0, 0, 0, 1, 1, 1, 1);
            assertThatThrownBy(() -> tokenizer.encode("buy", "shoes", 4))
                    .isInstanceOf(InputException.class)
                    .hasMessage("max length 4 leaves no room for text beside the special tokens of tiny.json;"
                            + " use 5 or more");
        }
        byte[] single = new String(TinyTokenizers.wordPieceJson(), StandardCharsets.UTF_8)
                .replace("\"id\": \"B\"", "\"id\": \"A\"")
                .getBytes(StandardCharsets.UTF_8);
        try (Tokenizer tokenizer = Tokenizer.of(single, "single.json")) {
            assertThat(tokenizer.encode("buy", 9).ids()).containsExactly(2, 4, 3);
            assertThatThrownBy(() -> tokenizer.encode("buy", "shoes", 9))
                    .isInstanceOf(InputException.class)
                    .hasMessage("single.json: post_processor.pair: does not have each of two texts once; pairs of texts"
                            + " need that");
        }
    }

    @Test
    void aPairIsThePromptAsGenerationSeesItThenTheTargetAndTheEnd() {
        try (Tokenizer tokenizer = TinyTokenizers.bytes(folder)) {
            Tokenizer.Encoded pair = tokenizer.encodePair("ab", "cd", 20, 6);
            assertThat(pair.ids()).containsExactly(64, 65, 198, 66, 67, 256);
            assertThat(pair.promptLength()).isEqualTo(3);
            assertThat(pair.truncated()).isFalse();
            assertThat(tokenizer.encodePrompt("ab", 20, 6).ids()).containsExactly(64, 65, 198);
            assertThat(tokenizer.encodePrompt("abc", 9, 6).ids()).containsExactly(64, 65, 198);
        }
    }

    @Test
    void aPromptIsCutTheSameWhateverFollowsItAndAnyTargetIsClosed() {
        try (Tokenizer tokenizer = TinyTokenizers.bytes(folder)) {
            Tokenizer.Encoded longPrompt = tokenizer.encodePair("aaaaaaaaaa", "c", 8, 3);
            assertThat(longPrompt.ids()).containsExactly(64, 64, 64, 64, 198, 66, 256);
            assertThat(longPrompt.truncated()).isTrue();
            assertThat(tokenizer.encodePrompt("aaaaaaaaaa", 8, 3).ids()).containsExactly(64, 64, 64, 64, 198);
            Tokenizer.Encoded longTarget = tokenizer.encodePair("ab", "cccccccccc", 8, 3);
            assertThat(longTarget.ids()).containsExactly(64, 65, 198, 66, 66, 66, 66, 256);
            assertThat(longTarget.truncated()).isTrue();
            Tokenizer.Encoded both = tokenizer.encodePair("aaaaaaaaaa", "cccccccccc", 8, 3);
            assertThat(both.ids()).containsExactly(64, 64, 64, 64, 198, 66, 66, 256);
            assertThatThrownBy(() -> tokenizer.encodePair("a", "b", 2, 1))
                    .isInstanceOf(InputException.class)
                    .hasMessageContaining("use 3 or more");
        }
    }

    @Test
    void theEndIsLookedForInAllFilesThatNameIt() throws IOException {
        TinyTokenizers.bytes(folder).close();
        Files.writeString(folder.resolve("tokenizer_config.json"), "{\"model_max_length\": 1024}");
        try (Tokenizer none = Tokenizer.load(folder)) {
            assertThat(none.eosId()).isEmpty();
            assertThat(none.encodeDocument("ab", 9).ids()).containsExactly(64, 65);
            assertThatThrownBy(() -> none.encodePair("a", "b", 9, 3))
                    .isInstanceOf(InputException.class)
                    .hasMessage(folder.resolve("tokenizer.json")
                            + ": nothing says which token ends a text, so an answer would never end; name one by"
                            + " --eos-token TOKEN, or as eos_token in tokenizer_config.json");
            assertThatThrownBy(() -> none.encodePrompt("a", 9, 3)).isInstanceOf(InputException.class);
        }
        // The message names an id that is not in the vocabulary.
        assertEnds("{\"eos_token_id\": 999}", null, null, null);
        assertEnds("{\"eos_token_id\": 256}", null, null, 256, 256);
        assertEnds("{\"eos_token_id\": 5}", "{\"eos_token_id\": [256, 198]}", null, 256, 256, 198);
        assertEnds("{\"eos_token_id\": 5}", "{\"eos_token_id\": null}", null, 5, 5);
        // What training appends and what the model stops at may differ: generation stops at both.
        assertEnds("{}", "{\"eos_token_id\": 198}", "{\"eos_token\": {\"content\": \"<|endoftext|>\"}}", 256, 256, 198);
        try (Tokenizer said = Tokenizer.load(folder, folder, "z")) {
            assertThat(said.eosIds()).containsExactly(89, 198);
            assertThat(said.eosToken()).isEqualTo("z");
            assertThat(said.encodePair("a", "b", 9, 3).ids()).containsExactly(64, 198, 65, 89);
        }
        assertThatThrownBy(() -> Tokenizer.load(folder, folder, "</s>"))
                .isInstanceOf(InputException.class)
                .hasMessage("end token \"</s>\" is no token of " + folder.resolve("tokenizer.json")
                        + "; name one of its vocabulary (--eos-token)");
    }

    private void assertEnds(
            String config,
            @Nullable String generation,
            @Nullable String map,
            @Nullable Integer trained,
            Integer... ends)
            throws IOException {
        write("config.json", config);
        write("generation_config.json", generation);
        write("special_tokens_map.json", map);
        try (Tokenizer tokenizer = Tokenizer.load(folder)) {
            assertThat(tokenizer.eosIds()).containsExactly(ends);
            if (trained == null) {
                assertThatThrownBy(() -> tokenizer.encodePrompt("a", 9, 3))
                        .isInstanceOf(InputException.class)
                        .hasMessageContaining("(eos_token_id 999 of config.json is not in the vocabulary)");
            } else {
                assertThat(tokenizer.eosId()).hasValue(trained);
            }
        }
    }

    private void write(String file, @Nullable String json) throws IOException {
        Files.deleteIfExists(folder.resolve(file));
        if (json != null) {
            Files.writeString(folder.resolve(file), json);
        }
    }

    @Test
    void filesThatAreNoTokenizerAreRefusedByName() throws IOException {
        assertThatThrownBy(() -> Tokenizer.load(folder))
                .isInstanceOf(InputException.class)
                .hasMessage(
                        folder.resolve("tokenizer.json") + ": no such file; a model folder needs its tokenizer.json");
        Files.writeString(folder.resolve("tokenizer.json"), "{\"model\": {}}");
        assertThatThrownBy(() -> Tokenizer.load(folder))
                .isInstanceOf(InputException.class)
                .hasMessage(folder.resolve("tokenizer.json") + ": model.vocab: is missing or empty");
        Files.writeString(folder.resolve("tokenizer.json"), "{\"model\"");
        assertThatThrownBy(() -> Tokenizer.load(folder))
                .isInstanceOf(InputException.class)
                .hasMessageStartingWith(folder.resolve("tokenizer.json") + ": not JSON (")
                .message()
                .hasLineCount(1);
        assertThatThrownBy(() -> Tokenizer.of("[]".getBytes(StandardCharsets.UTF_8), "list.json"))
                .isInstanceOf(InputException.class)
                .hasMessage("list.json: not a JSON object");
    }
}
