package dev.loran.peft.tokenizer;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.io.InputException;
import java.io.IOException;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/// Any file is either read or rejected with a one-line message; any text is either encoded or rejected.
class TokenizerRefusalsTest {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final int CASES = 300;

    @ParameterizedTest
    @ValueSource(longs = {1, 2, 3, 4})
    void damagedBytesAreReadOrRefused(long seed) {
        Random random = new Random(seed);
        byte[] json = new byte[0];
        for (int i = 0; i < CASES; i++) {
            if (i % 30 == 0) {
                json = new TokenizerFiles(100 * seed + i).file().getBytes(StandardCharsets.UTF_8);
            }
            byte[] damaged = json.clone();
            for (int flips = random.nextInt(4); flips >= 0; flips--) {
                damaged[random.nextInt(damaged.length)] = (byte)
                        (random.nextInt(4) == 0 ? random.nextInt(256) : "0{}[],:\"\\-9e".charAt(random.nextInt(12)));
            }
            use(damaged, random);
        }
    }

    @ParameterizedTest
    @ValueSource(longs = {5, 6, 7, 8})
    void damagedValuesAreReadOrRefused(long seed) throws IOException {
        Random random = new Random(seed);
        JsonNode file = JSON.createObjectNode();
        for (int i = 0; i < CASES; i++) {
            if (i % 30 == 0) {
                file = JSON.readTree(new TokenizerFiles(100 * seed + i).file());
            }
            JsonNode damaged = file.deepCopy();
            for (int changes = random.nextInt(2); changes >= 0; changes--) {
                damage(damaged, random);
            }
            use(JSON.writeValueAsBytes(damaged), random);
        }
    }

    /// No exception other than [InputException] may be thrown.
    private static void use(byte[] json, Random random) {
        try {
            Tokenizer tokenizer = Tokenizer.of(json, "damaged.json");
            tokenizer.encode(new TokenizerFiles(random.nextLong()).text(), 512);
            tokenizer.decode(new int[] {});
            tokenizer.decode(random.ints(8, -1, tokenizer.vocabSize() + 1).toArray());
        } catch (InputException e) {
            assertThat(e.getMessage()).hasLineCount(1).contains("damaged.json");
        }
    }

    /// Removes a value, or replaces it by one of another kind, of another size, or from another place.
    private static void damage(JsonNode file, Random random) {
        List<JsonNode> containers = new ArrayList<>();
        collect(file, containers, random);
        JsonNode container = containers.get(random.nextInt(containers.size()));
        int place = random.nextInt(container.size());
        JsonNode value = switch (random.nextInt(9)) {
            case 0 -> JSON.createObjectNode();
            case 1 -> JSON.createArrayNode();
            case 2 -> JSON.getNodeFactory().nullNode();
            case 3 -> JSON.getNodeFactory().numberNode(random.nextInt(-2, 400));
            case 4 -> JSON.getNodeFactory().numberNode(new BigInteger("9".repeat(1 + random.nextInt(30))));
            case 5 -> JSON.getNodeFactory().numberNode(random.nextInt(9) * 0.5);
            case 6 -> JSON.getNodeFactory().textNode(new TokenizerFiles(random.nextLong()).text());
            case 7 -> JSON.getNodeFactory().booleanNode(random.nextBoolean());
            default -> containers.get(random.nextInt(containers.size())).deepCopy();
        };
        if (container instanceof ArrayNode array) {
            if (random.nextInt(4) == 0) {
                array.remove(place);
            } else {
                array.set(place, value);
            }
        } else if (container instanceof ObjectNode object) {
            List<String> names = new ArrayList<>();
            object.fieldNames().forEachRemaining(names::add);
            if (random.nextInt(4) == 0) {
                object.remove(names.get(place));
            } else {
                object.set(names.get(place), value);
            }
        }
    }

    /// The lists and objects that are not empty; only some members of long ones.
    private static void collect(JsonNode node, List<JsonNode> out, Random random) {
        if (node.isContainerNode() && !node.isEmpty()) {
            out.add(node);
            for (JsonNode each : node) {
                if (node.size() < 20 || random.nextInt(20) == 0) {
                    collect(each, out, random);
                }
            }
        }
    }

    @ParameterizedTest
    @CsvSource(delimiter = '|', quoteCharacter = '`', textBlock = """
                    model/type|"RNN"|model.type: "RNN" is not supported; models are BPE, Unigram, WordPiece and WordLevel
                    model/vocab|{}|model.vocab: is missing or empty
                    model/vocab|{"a": -1}|model.vocab: "a" has an id that is not from 0 to 4194303
                    model/vocab|{"a": 99999999999}|model.vocab: "a" has an id that is not from 0 to 4194303
                    model/vocab|{"a": 1.5}|model.vocab: "a" has no whole number for its id
                    model/vocab|{"a": 1, "b": 1}|model.vocab: "a" and "b" have the same id, 1
                    model/vocab|[["a", 1], ["b", 1], ["ab", 1]]|model: BPE needs merges, and a vocabulary of ids
                    model/merges|["a"]|model.merges[0]: "a" is not two tokens with a blank between them
                    model/merges|["a b", "a q"]|model.merges[1]: "q" is not in the vocabulary
                    model/merges|["b a"]|model.merges[0]: "ba" is not in the vocabulary
                    model/merges|[["a"]]|model.merges[0]: is not two tokens
                    model/dropout|0.1|model.dropout: 0.1 is not supported; a tokenizer that draws its tokens gives other ids each time; set it to null
                    model/unk_token|5|model.unk_token: is 5, not a text
                    added_tokens/0/id|2|added_tokens[0]: has the id 2, but the next id that is free is 3: "<s>"
                    added_tokens/0/content|"a"|added_tokens[0]: has the id 3, but the model's vocabulary has it at 0: "a"
                    added_tokens/0/special|null|added_tokens[0].special: is null, not true or false
                    normalizer|{"type": "Append"}|normalizer.type: "Append" is not supported; normalizers are Sequence, BertNormalizer, Lowercase, NFC, NFD, NFKC, NFKD, StripAccents, Nmt, Replace, Prepend, Strip, ByteLevel and Precompiled
                    normalizer|{"type": "Precompiled", "precompiled_charsmap": "AAAA"}|normalizer.precompiled_charsmap: is not a map of 3 bytes
                    pre_tokenizer|{"type": "Split", "pattern": {"Regex": "(?<n>a)\\\\k<n>"}, "behavior": "Isolated", "invert": false}|pre_tokenizer.pattern.Regex: the regular expression has (?<n, which is not supported: (?<n>a)\\k<n>
                    pre_tokenizer|{"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Merged", "invert": false}|pre_tokenizer.behavior: "Merged" is not supported; Removed, Isolated, MergedWithPrevious, MergedWithNext and Contiguous are
                    decoder|{"type": "CTC"}|decoder.type: "CTC" is not supported; decoders are Sequence, ByteLevel, ByteFallback, Fuse, WordPiece, Metaspace, BPEDecoder, Strip and Replace
                    post_processor/special_tokens|{}|post_processor.single[0].SpecialToken.id: "<s>" is not among special_tokens
                    post_processor/special_tokens/<s>/ids|[4]|post_processor.special_tokens.<s>.ids[0]: is 4, not a whole number from 0 to 3
                    post_processor/single|[]|post_processor.single: has the text 0 times, not once
                    version|"2.0"|version: "2.0" is not supported; 1.0 is
                    """)
    void aRefusalNamesThePlace(String place, String value, String message) throws IOException {
        ObjectNode file = (ObjectNode) JSON.readTree(SMALL);
        int last = place.lastIndexOf('/');
        ObjectNode parent = (ObjectNode) (last < 0 ? file : file.at("/" + place.substring(0, last)));
        parent.set(place.substring(last + 1), JSON.readTree(value));
        assertThatThrownBy(() -> HfTokenizer.read(JSON.writeValueAsBytes(file)))
                .isInstanceOf(TokenizerException.class)
                .hasMessage(message);
    }

    private static final String SMALL = """
            {"version": "1.0", "added_tokens": [{"id": 3, "content": "<s>", "single_word": false, "lstrip": false,
              "rstrip": false, "normalized": false, "special": true}],
             "post_processor": {"type": "TemplateProcessing",
               "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
               "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [3], "tokens": ["<s>"]}}},
             "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}}""";

    @Test
    void mergesMayStandBeforeTheVocabulary() throws IOException {
        HfTokenizer tokenizer =
                HfTokenizer.read("{\"model\": {\"merges\": [\"a b\"], \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2}}}"
                        .getBytes(StandardCharsets.UTF_8));
        assertThat(tokenizer.encode("abba")).containsExactly(2, 1, 0);
    }

    @Test
    void deepNestingIsRefused() {
        String deep = "{\"normalizer\": " + "{\"type\": \"Sequence\", \"normalizers\": [".repeat(5000);
        assertThatThrownBy(() -> Tokenizer.of(deep.getBytes(StandardCharsets.UTF_8), "deep.json"))
                .isInstanceOf(InputException.class)
                .hasMessageStartingWith("deep.json: not JSON (");
    }

    @ParameterizedTest
    @ValueSource(strings = {"(a+)+b", "(a|aa)+$", "(?:a|a)*b", "(a*)*b"})
    void aPatternThatNeverEndsIsStopped(String pattern) throws IOException {
        ObjectNode file = (ObjectNode) JSON.readTree(SMALL);
        file.putObject("pre_tokenizer")
                .put("type", "Split")
                .put("behavior", "Isolated")
                .put("invert", false)
                .putObject("pattern")
                .put("Regex", pattern);
        Tokenizer tokenizer = Tokenizer.of(JSON.writeValueAsBytes(file), "slow.json");
        assertThatThrownBy(() -> tokenizer.encode("a".repeat(20_000) + "c", 99))
                .isInstanceOf(InputException.class)
                .hasMessageMatching(
                        "slow.json: pre_tokenizer.pattern.Regex: the regular expression (takes too many steps"
                                + "|recurses too deeply).*");
    }

    /// A million characters without a space, endless marks, unpaired surrogates: they may take some time, but cause no
    /// error.
    @Test
    void oddTextsEndInTime() throws IOException {
        List<String> texts = List.of(
                "a".repeat(1_000_000),
                "ab".repeat(500_000),
                " ".repeat(1_000_000),
                "x" + "\u0316\u0301".repeat(200_000),
                "\u0000".repeat(100_000),
                "👩‍👩‍👧".repeat(50_000),
                "🇩".repeat(100_000),
                "\ud800".repeat(1000) + "\udc00\ud83d");
        for (int i = 0; i < 12; i++) {
            HfTokenizer tokenizer =
                    HfTokenizer.read(new TokenizerFiles(i).file().getBytes(StandardCharsets.UTF_8));
            for (String text : texts) {
                tokenizer.decode(tokenizer.encode(text));
            }
        }
    }
}
