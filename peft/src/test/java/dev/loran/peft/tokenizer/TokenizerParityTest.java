package dev.loran.peft.tokenizer;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Random;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/// The same ids and the same texts as Hugging Face tokenizers, over files of every kind and texts of many scripts.
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
            // On nothing some decoders of the other side abort the whole process.
            if (!ours.decode(each).isEmpty()) {
                assertThat(ours.decode(each))
                        .as("text of %s by %s", Arrays.toString(each), json)
                        .isEqualTo(oracle.decode(each));
            }
        }
    }
}
