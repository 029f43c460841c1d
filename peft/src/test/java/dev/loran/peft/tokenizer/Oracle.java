package dev.loran.peft.tokenizer;

import ai.djl.huggingface.tokenizers.Encoding;
import ai.djl.huggingface.tokenizers.HuggingFaceTokenizer;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.List;
import java.util.Map;

/// The Hugging Face tokenizers library itself, through DJL.
final class Oracle implements AutoCloseable {
    private final HuggingFaceTokenizer tokenizer;

    static {
        // Unless set to offline, the library sends usage data to its makers.
        System.setProperty("ai.djl.offline", "true");
    }

    Oracle(String json) {
        this(json, Map.of("truncation", "false", "padding", "false"));
    }

    /// Truncates texts and pairs to `maxLength` ids, always from the longer text.
    Oracle(String json, int maxLength) {
        this(json, Map.of("truncation", "longest_first", "padding", "false", "maxLength", Integer.toString(maxLength)));
    }

    private Oracle(String json, Map<String, String> options) {
        try {
            tokenizer = HuggingFaceTokenizer.newInstance(
                    new ByteArrayInputStream(json.getBytes(StandardCharsets.UTF_8)), options);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    int[] encode(String text) {
        return ints(tokenizer.encode(text, false, false).getIds());
    }

    /// With the special tokens of the file's template.
    int[] encodeWhole(String text) {
        return ints(tokenizer.encode(text, true, false).getIds());
    }

    /// The ids of a pair, followed by their types.
    List<int[]> encodePair(String text, String textPair) {
        Encoding encoding = tokenizer.encode(text, textPair, true, false);
        return List.of(ints(encoding.getIds()), ints(encoding.getTypeIds()));
    }

    String decode(int[] ids) {
        return tokenizer.decode(Arrays.stream(ids).asLongStream().toArray(), true);
    }

    private static int[] ints(long[] ids) {
        return Arrays.stream(ids).mapToInt(Math::toIntExact).toArray();
    }

    @Override
    public void close() {
        tokenizer.close();
    }
}
