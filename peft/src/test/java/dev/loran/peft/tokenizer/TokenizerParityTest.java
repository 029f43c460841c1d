package dev.loran.peft.tokenizer;

import static org.assertj.core.api.Assertions.assertThat;

import dev.loran.peft.data.Tokenizer;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/// Checks for the same ids and texts as Hugging Face tokenizers, with files of every kind and texts in many scripts.
class TokenizerParityTest {
    private static final int FILES = Integer.getInteger("loran.tokenizerFiles", 20);
    private static final int TEXTS = 20;

    @ParameterizedTest
    @ValueSource(longs = {1, 2, 3, 4, 5})
    void drawnFilesGiveTheSameIdsAndTexts(long seed) throws IOException {
        for (int i = 0; i < FILES; i++) {
            TokenizerFiles files = new TokenizerFiles(1000 * seed + i);
            String json = files.file();
            HfTokenizer ours = HfTokenizer.read(json.getBytes(StandardCharsets.UTF_8));
            try (Oracle oracle = new Oracle(json)) {
                Random random = new Random(i);
                for (int j = 0; j < TEXTS; j++) {
                    compare(ours, oracle, files.text(), random, json);
                }
            }
        }
    }

    @ParameterizedTest
    @ValueSource(longs = {6, 7})
    void pairsGiveTheSameIdsAndTypes(long seed) throws IOException {
        for (int i = 0; i < FILES; i++) {
            TokenizerFiles files = new TokenizerFiles(1000 * seed + i);
            String json = files.file();
            HfTokenizer ours = HfTokenizer.read(json.getBytes(StandardCharsets.UTF_8));
            try (Tokenizer tokenizer = Tokenizer.of(json.getBytes(StandardCharsets.UTF_8), "drawn");
                    Oracle oracle = new Oracle(json);
                    Oracle cutting = new Oracle(json, 12)) {
                for (int j = 0; j < TEXTS; j++) {
                    String text = files.text();
                    String textPair = files.text();
                    HfTokenizer.Pair pair = ours.pair(ours.encode(text), ours.encode(textPair));
                    assertThat(List.of(pair.ids(), pair.types()))
                            .as("%s and %s by %s", text, textPair, json)
                            .containsExactlyElementsOf(oracle.encodePair(text, textPair));
                    Tokenizer.Encoded cut = tokenizer.encode(text, textPair, 12);
                    int[] types = cut.tokenTypes();
                    assertThat(List.of(cut.ids(), types == null ? new int[cut.ids().length] : types))
                            .as("%s and %s cut by %s", text, textPair, json)
                            .containsExactlyElementsOf(cutting.encodePair(text, textPair));
                    assertThat(cut.truncated()).isEqualTo(pair.ids().length > 12);
                }
            }
        }
    }

    private static void compare(HfTokenizer ours, Oracle oracle, String text, Random random, String json) {
        int[] ids = ours.encode(text);
        assertThat(ids).as("ids of %s by %s", text, json).containsExactly(oracle.encode(text));
        int[] whole = Stream.of(ours.before(), ids, ours.after())
                .flatMapToInt(Arrays::stream)
                .toArray();
        assertThat(whole).as("%s", json).containsExactly(oracle.encodeWhole(text));
        int[] drawn = IntStream.range(0, 1 + random.nextInt(8))
                .map(k -> random.nextInt(ours.vocabSize()))
                .toArray();
        for (int[] each : new int[][] {ids, drawn}) {
            // Some of the library's decoders abort the whole process on empty input.
            if (!ours.decode(each).isEmpty()) {
                assertThat(ours.decode(each))
                        .as("text of %s by %s", Arrays.toString(each), json)
                        .isEqualTo(oracle.decode(each));
            }
        }
    }
}
