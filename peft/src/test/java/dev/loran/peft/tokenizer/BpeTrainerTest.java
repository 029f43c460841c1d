package dev.loran.peft.tokenizer;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import dev.loran.peft.data.ShippedData;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.Test;

class BpeTrainerTest {
    private static final String END = "<|endoftext|>";

    private static List<String> merges(byte[] file) throws IOException {
        List<String> merges = new ArrayList<>();
        new ObjectMapper().readTree(file).at("/model/merges").forEach(m -> merges.add(m.textValue()));
        return merges;
    }

    private static byte[] train(int vocabSize, List<String> texts) {
        BpeTrainer trainer = new BpeTrainer();
        texts.forEach(trainer::add);
        return trainer.train(vocabSize, List.of(END));
    }

    @Test
    void theMostFrequentPairIsMergedFirst() throws IOException {
        // The paper's example.
        List<String> texts = new ArrayList<>();
        texts.addAll(Collections.nCopies(5, "low"));
        texts.addAll(Collections.nCopies(2, "lower"));
        texts.addAll(Collections.nCopies(6, "newest"));
        texts.addAll(Collections.nCopies(3, "widest"));
        assertThat(merges(train(257 + 10, texts)))
                .containsExactly("e s", "es t", "l o", "lo w", "e w", "n ew", "new est", "d est", "i dest", "w idest");
    }

    @Test
    void overlappingPairsAreMergedFromTheLeft() throws IOException {
        assertThat(merges(train(300, List.of("aaaaa", "aaaaa")))).containsExactly("a a", "aa a", "aa aaa");
    }

    @Test
    void idsAreSpecialTokensThenBytesThenMerges() throws IOException {
        byte[] file = train(258, List.of("abab", "ab"));
        JsonNode vocabulary = new ObjectMapper().readTree(file).at("/model/vocab");
        assertThat(vocabulary.get(END).asInt()).isZero();
        assertThat(vocabulary.get("!").asInt()).isEqualTo(1);
        assertThat(vocabulary.get("ab").asInt()).isEqualTo(257);
        assertThat(vocabulary.size()).isEqualTo(258);
        HfTokenizer tokenizer = HfTokenizer.read(file);
        assertThat(tokenizer.encode("abab" + END + "c"))
                .containsExactly(257, 257, 0, vocabulary.get("c").asInt());
        assertThat(tokenizer.decode(new int[] {257, 0})).isEqualTo("ab");
    }

    @Test
    void aPairThatOccursOnceIsNotMerged() throws IOException {
        assertThat(merges(train(10_000, List.of("abcdefg", "xy xy")))).containsExactly("x y");
    }

    @Test
    void theOrderOfTheTextsIsIrrelevant() {
        List<String> texts = new ArrayList<>(ShippedData.load().train().subList(0, 500).stream()
                .map(ShippedData.Noun::text)
                .toList());
        byte[] file = train(700, texts);
        Collections.shuffle(texts, new Random(1));
        assertThat(train(700, texts)).isEqualTo(file);
    }

    /// The merges of Hugging Face tokenizers 0.23 for the same texts (`BpeTrainer(vocab_size=700, min_frequency=2,
    /// special_tokens=["<|endoftext|>"], initial_alphabet=ByteLevel.alphabet())`), the first and the last of them.
    @Test
    void mergesAreThoseOfHuggingFace() throws IOException {
        List<String> merges = merges(train(
                700,
                ShippedData.load().train().subList(0, 500).stream()
                        .map(ShippedData.Noun::text)
                        .toList()));
        assertThat(merges)
                .hasSize(700 - 257)
                .startsWith(
                        "i n",
                        "t h",
                        "\u0120 o",
                        "\u0120 a",
                        "e r",
                        "\u0120o f",
                        "th e",
                        "\u0120 s",
                        "a t",
                        "o n",
                        "a n",
                        "e n")
                .endsWith(
                        "ing s",
                        "\u0120b o",
                        "\u0120an y",
                        "is m",
                        "ar r",
                        "\u0120t e",
                        "\u0120t r",
                        "\u0120t w",
                        "\u0120t rans",
                        "\u0120m ost",
                        "\u0120d i",
                        "\u0120d iv");
    }

    @Test
    void theLibraryReadsTheFileToTheSameIds() throws IOException {
        List<ShippedData.Noun> nouns = ShippedData.load().train();
        byte[] file = train(
                1000,
                nouns.subList(0, 1000).stream().map(ShippedData.Noun::text).toList());
        HfTokenizer own = HfTokenizer.read(file);
        List<String> probes = new ArrayList<>(
                nouns.subList(1000, 1200).stream().map(ShippedData.Noun::text).toList());
        probes.addAll(List.of(
                "",
                " ",
                "  two  spaces\n\n",
                "na\u00efve caf\u00e9 \u65e5\u672c \ud83d\ude00",
                "don't 123,456 ... \t" + END));
        try (Oracle library = new Oracle(new String(file, StandardCharsets.UTF_8))) {
            for (String text : probes) {
                assertThat(own.encode(text)).as(text).isEqualTo(library.encode(text));
                assertThat(own.decode(own.encode(text))).isEqualTo(library.decode(own.encode(text)));
            }
        }
    }

    @Test
    void aVocabularyWithoutRoomForTheBytesIsRefused() {
        assertThatThrownBy(() -> train(256, List.of("a")))
                .isInstanceOf(IllegalArgumentException.class)
                .hasMessageContaining("256")
                .hasMessageContaining("bytes");
    }
}
