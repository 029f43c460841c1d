package dev.loran.peft.data;

import ai.djl.huggingface.tokenizers.Encoding;
import ai.djl.huggingface.tokenizers.HuggingFaceTokenizer;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import java.util.OptionalInt;

/// Text to token ids and back, by the rules of a Hugging Face `tokenizer.json`; the same ids as Hugging Face
/// tokenizers.
///
/// Padding and truncation that the file asks for are switched off: [DataLoader] pads a batch to its own longest
/// row, and the methods here cut to the length they are given, always from the end of the text, so that the
/// special tokens around it stay.
///
/// Needs no network. [#close()] frees native memory.
///
/// **Threads**: safe from any number of threads; closing must be the last call.
public final class Tokenizer implements AutoCloseable {
    /// What stands between a prompt and the text that answers it.
    public static final String SEPARATOR = "\n";

    private static final String OFFLINE = "ai.djl.offline";

    private final HuggingFaceTokenizer tokenizer;
    private final String name;
    private final int vocabSize;
    private final OptionalInt padId;
    private final OptionalInt eosId;
    /// The special tokens that the file's template puts before and after a text: `[CLS]` and `[SEP]` for BERT.
    private final int[] prefix;

    private final int[] suffix;
    private final int[] separator;

    /// Token ids of one row.
    ///
    /// @param ids the ids, special tokens included
    /// @param promptLength the leading ids that belong to the prompt; 0 where there is none
    /// @param truncated whether some of the text had to be left out
    public record Encoded(int[] ids, int promptLength, boolean truncated) {}

    private Tokenizer(byte[] tokenizerJson, String name, JsonNode config) {
        JsonNode file = parse(tokenizerJson, name);
        Map<String, Integer> added = new HashMap<>();
        for (JsonNode token : file.path("added_tokens")) {
            added.put(token.path("content").asText(), token.path("id").asInt());
        }
        this.name = name;
        this.tokenizer = open(tokenizerJson, name);
        this.vocabSize = 1 + Math.max(largestId(file.path("model").path("vocab")), largestId(added.values()));
        this.eosId = special(config, added, "eos_token");
        this.padId = special(config, added, "pad_token", "[PAD]", "<pad>");
        Encoding probe = tokenizer.encode("a", true, false);
        long[] special = probe.getSpecialTokenMask();
        int begin = 0;
        int end = special.length;
        while (begin < end && special[begin] == 1) {
            begin++;
        }
        while (end > begin && special[end - 1] == 1) {
            end--;
        }
        int[] ids = toInts(probe.getIds());
        this.prefix = Arrays.copyOf(ids, begin);
        this.suffix = Arrays.copyOfRange(ids, end, ids.length);
        this.separator = body(SEPARATOR);
    }

    /// The tokenizer of a Hugging Face model folder: `tokenizer.json`, and the names of the special tokens from
    /// `tokenizer_config.json` where there is one.
    ///
    /// @throws InputException for a missing file and for one that is no tokenizer
    public static Tokenizer load(Path folder) {
        Path file = folder.resolve("tokenizer.json");
        Path config = folder.resolve("tokenizer_config.json");
        try {
            byte[] configJson =
                    Files.exists(config) ? Files.readAllBytes(config) : "{}".getBytes(StandardCharsets.UTF_8);
            return new Tokenizer(Files.readAllBytes(file), file.toString(), parse(configJson, config.toString()));
        } catch (NoSuchFileException e) {
            throw new InputException(file + ": no such file; a model folder needs its tokenizer.json", e);
        } catch (IOException e) {
            throw InputException.io(file, "cannot be read", e);
        }
    }

    /// A tokenizer from the bytes of a `tokenizer.json`.
    ///
    /// @param name what error messages call it
    /// @throws InputException for bytes that are no tokenizer
    public static Tokenizer of(byte[] tokenizerJson, String name) {
        return new Tokenizer(tokenizerJson, name, new ObjectMapper().createObjectNode());
    }

    /// One more than the largest id that a text can give: the rows that an embedding needs at least.
    public int vocabSize() {
        return vocabSize;
    }

    /// The padding token, where the files name one.
    public OptionalInt padId() {
        return padId;
    }

    /// The token that ends a generated text, where the files name one.
    public OptionalInt eosId() {
        return eosId;
    }

    /// The ids of a text between the special tokens of the tokenizer's template, as an encoder takes them.
    ///
    /// @param maxLength the most ids to return, special tokens included
    /// @throws InputException where `maxLength` leaves no room for the text
    public Encoded encode(String text, int maxLength) {
        return assemble(body(text), suffix, maxLength);
    }

    /// The ids of a whole text with its end, as a language model learns it: like [#encode], closed by the end
    /// token where the template closes with none. A truncated text is not closed: it does not end there.
    ///
    /// @param maxLength the most ids to return, special tokens included
    /// @throws InputException where `maxLength` leaves no room for the text
    public Encoded encodeDocument(String text, int maxLength) {
        int[] body = body(text);
        int[] end = end();
        boolean fits = prefix.length + body.length + end.length <= maxLength;
        return assemble(body, fits ? end : new int[0], maxLength);
    }

    /// The ids of a text that a language model is to go on with: like [#encodeDocument] without the end.
    ///
    /// @param maxLength the most ids to return, special tokens included
    /// @throws InputException where `maxLength` leaves no room for the text
    public Encoded encodeStart(String text, int maxLength) {
        return assemble(body(text), new int[0], maxLength);
    }

    /// The ids of a prompt, ready for a model to answer: special tokens, prompt, [#SEPARATOR].
    ///
    /// @param maxLength the most ids to return
    /// @throws InputException where `maxLength` leaves no room for the prompt
    public Encoded encodePrompt(String prompt, int maxLength) {
        Encoded encoded = assemble(body(prompt), separator, maxLength);
        return new Encoded(encoded.ids, encoded.ids.length, encoded.truncated);
    }

    /// The ids of a prompt as [#encodePrompt] gives them, of the target after it, and of the end token. Where
    /// both together are too long the longer one is cut first, down to the length of the other; a cut target is
    /// not closed by the end token.
    ///
    /// @param maxLength the most ids to return
    /// @throws InputException where `maxLength` leaves no room for a token of each
    public Encoded encodePair(String prompt, String target, int maxLength) {
        int[] promptBody = body(prompt);
        int[] targetBody = concat(body(target), end());
        int room = maxLength - prefix.length - separator.length;
        requireRoom(room, 2, maxLength);
        int half = room / 2;
        int targetLength = Math.min(targetBody.length, Math.max(room - half, room - promptBody.length));
        int promptLength = Math.min(promptBody.length, room - targetLength);
        int[] head = concat(concat(prefix, Arrays.copyOf(promptBody, promptLength)), separator);
        return new Encoded(
                concat(head, Arrays.copyOf(targetBody, targetLength)),
                head.length,
                promptLength + targetLength < promptBody.length + targetBody.length);
    }

    /// The text of some ids, special tokens left out.
    public String decode(int[] ids) {
        return tokenizer.decode(Arrays.stream(ids).asLongStream().toArray(), true);
    }

    @Override
    public void close() {
        tokenizer.close();
    }

    private Encoded assemble(int[] body, int[] after, int maxLength) {
        int room = maxLength - prefix.length - after.length;
        requireRoom(room, 1, maxLength);
        int kept = Math.min(body.length, room);
        return new Encoded(concat(concat(prefix, Arrays.copyOf(body, kept)), after), 0, kept < body.length);
    }

    private void requireRoom(int room, int needed, int maxLength) {
        if (room < needed) {
            throw new InputException(
                    "max length " + maxLength + " leaves no room for text beside the special tokens of " + name
                            + "; use " + (maxLength - room + needed) + " or more");
        }
    }

    private int[] end() {
        return suffix.length > 0 || eosId.isEmpty() ? suffix : new int[] {eosId.getAsInt()};
    }

    /// The ids of a text alone, without special tokens around it.
    private int[] body(String text) {
        return toInts(tokenizer.encode(text, false, false).getIds());
    }

    /// The library asks the network for leave unless told that it is offline: it reports its use to its makers,
    /// and where it sees a GPU it downloads another native library. It knows one switch, a system property that
    /// it reads while a tokenizer is opened; set for that long, and only where the user has not decided.
    private static synchronized HuggingFaceTokenizer open(byte[] tokenizerJson, String name) {
        boolean decided = System.getProperty(OFFLINE) != null;
        if (!decided) {
            System.setProperty(OFFLINE, "true");
        }
        try {
            return HuggingFaceTokenizer.newInstance(
                    new ByteArrayInputStream(tokenizerJson), Map.of("truncation", "false", "padding", "false"));
        } catch (IOException | RuntimeException e) {
            throw new InputException(name + ": not a tokenizer that can be used (" + firstLine(e) + ")", e);
        } finally {
            if (!decided) {
                System.clearProperty(OFFLINE);
            }
        }
    }

    private static JsonNode parse(byte[] json, String name) {
        try {
            JsonNode node = new ObjectMapper().readTree(json);
            if (!node.isObject()) {
                throw new InputException(name + ": not a JSON object");
            }
            return node;
        } catch (JsonProcessingException e) {
            throw new InputException(name + ": not JSON (" + JsonFile.problem(e) + ")", e);
        } catch (IOException e) {
            throw new InputException(name + ": cannot be read (" + firstLine(e) + ")", e);
        }
    }

    private static String firstLine(Exception e) {
        return String.valueOf(e.getMessage())
                .lines()
                .findFirst()
                .orElse(e.getClass().getSimpleName());
    }

    /// The id of a special token: the one `tokenizer_config.json` names, a string or an object with `content`;
    /// failing that the first of the usual names that the tokenizer holds.
    private static OptionalInt special(JsonNode config, Map<String, Integer> added, String key, String... usual) {
        JsonNode named = config.path(key);
        Integer id = added.get(named.isObject() ? named.path("content").asText() : named.asText());
        for (int i = 0; id == null && i < usual.length; i++) {
            id = added.get(usual[i]);
        }
        return id == null ? OptionalInt.empty() : OptionalInt.of(id);
    }

    /// The largest id of a vocabulary: an object from token to id (WordPiece, BPE) or an array in id order
    /// (Unigram).
    private static int largestId(JsonNode vocab) {
        if (vocab.isArray()) {
            return vocab.size() - 1;
        }
        int largest = -1;
        for (JsonNode id : vocab) {
            largest = Math.max(largest, id.asInt());
        }
        return largest;
    }

    private static int largestId(Iterable<Integer> ids) {
        int largest = -1;
        for (int id : ids) {
            largest = Math.max(largest, id);
        }
        return largest;
    }

    private static int[] toInts(long[] ids) {
        return Arrays.stream(ids).mapToInt(Math::toIntExact).toArray();
    }

    private static int[] concat(int[] a, int[] b) {
        int[] both = Arrays.copyOf(a, a.length + b.length);
        System.arraycopy(b, 0, both, a.length, b.length);
        return both;
    }
}
