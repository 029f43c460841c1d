package dev.loran.peft.data;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
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
            assertThat(tokenizer.eosId()).isEmpty();
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
    void aPairIsThePromptAsGenerationSeesItThenTheTargetAndTheEnd() {
        try (Tokenizer tokenizer = TinyTokenizers.bytes(folder)) {
            Tokenizer.Encoded pair = tokenizer.encodePair("ab", "cd", 20);
            assertThat(pair.ids()).containsExactly(64, 65, 198, 66, 67, 256);
            assertThat(pair.promptLength()).isEqualTo(3);
            assertThat(pair.truncated()).isFalse();
            assertThat(tokenizer.encodePrompt("ab", 20).ids()).containsExactly(64, 65, 198);
            assertThat(tokenizer.encodePrompt("abc", 3).ids()).containsExactly(64, 65, 198);
        }
    }

    @Test
    void theLongerSideOfAPairIsCutFirst() {
        try (Tokenizer tokenizer = TinyTokenizers.bytes(folder)) {
            Tokenizer.Encoded longPrompt = tokenizer.encodePair("aaaaaaaaaa", "cd", 8);
            assertThat(longPrompt.ids()).containsExactly(64, 64, 64, 64, 198, 66, 67, 256);
            assertThat(longPrompt.truncated()).isTrue();
            Tokenizer.Encoded longTarget = tokenizer.encodePair("ab", "cccccccccc", 8);
            assertThat(longTarget.ids()).containsExactly(64, 65, 198, 66, 66, 66, 66, 66);
            assertThat(longTarget.truncated()).isTrue();
            Tokenizer.Encoded both = tokenizer.encodePair("aaaaaaaaaa", "cccccccccc", 8);
            assertThat(both.ids()).containsExactly(64, 64, 64, 198, 66, 66, 66, 66);
            assertThatThrownBy(() -> tokenizer.encodePair("a", "b", 2))
                    .isInstanceOf(InputException.class)
                    .hasMessageContaining("use 3 or more");
        }
    }

    @Test
    void theSystemPropertyThatKeepsTheLibraryOfflineDoesNotOutliveTheCall() {
        String before = System.getProperty("ai.djl.offline");
        TinyTokenizers.wordPiece().close();
        assertThat(System.getProperty("ai.djl.offline")).isEqualTo(before);
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
                .hasMessageStartingWith(folder.resolve("tokenizer.json") + ": not a tokenizer that can be used (");
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
