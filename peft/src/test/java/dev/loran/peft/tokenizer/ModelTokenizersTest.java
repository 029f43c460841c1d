package dev.loran.peft.tokenizer;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.io.InputStream;
import java.util.Arrays;
import java.util.stream.Stream;
import java.util.stream.StreamSupport;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/// The rules of well-known models on small vocabularies, compared with results of Hugging Face tokenizers; see the
/// README next to the files.
class ModelTokenizersTest {
    private static final ObjectMapper JSON = new ObjectMapper();

    private static byte[] fixture(String name) throws IOException {
        String path = "/fixtures/tokenizers/" + name + ".json";
        try (InputStream file = ModelTokenizersTest.class.getResourceAsStream(path)) {
            return java.util.Objects.requireNonNull(file, path).readAllBytes();
        }
    }

    @ParameterizedTest
    @ValueSource(
            strings = {
                "gpt2",
                "roberta",
                "llama3",
                "qwen2",
                "modernbert",
                "llama2",
                "mistral",
                "gemma",
                "xlmr",
                "t5",
                "deberta3"
            })
    void theSameIdsAndTexts(String model) throws IOException {
        HfTokenizer tokenizer = HfTokenizer.read(fixture(model));
        JsonNode expected = JSON.readTree(fixture("expected")).get(model);
        assertThat(expected).hasSizeGreaterThan(15);
        for (JsonNode each : expected) {
            String text = each.get("text").textValue();
            int[] ids = tokenizer.encode(text);
            assertThat(ids).as(text).containsExactly(ints(each.get("ids")));
            int[] whole = Stream.of(tokenizer.before(), ids, tokenizer.after())
                    .flatMapToInt(Arrays::stream)
                    .toArray();
            assertThat(whole).as(text).containsExactly(ints(each.get("whole")));
            assertThat(tokenizer.decode(whole)).isEqualTo(each.get("decoded").textValue());
        }
    }

    private static int[] ints(JsonNode ids) {
        return StreamSupport.stream(ids.spliterator(), false)
                .mapToInt(JsonNode::intValue)
                .toArray();
    }
}
