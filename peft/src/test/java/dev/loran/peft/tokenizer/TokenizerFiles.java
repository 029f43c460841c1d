package dev.loran.peft.tokenizer;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Random;
import java.util.Set;

/// Randomly generated tokenizer files and texts of all kinds, from a seed.
final class TokenizerFiles {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final String[] SNIPPETS = {
        "the",
        "of",
        "running",
        "shoes",
        "Tokenizer",
        "don't",
        "we'll",
        "I'VE",
        "HTTP",
        "naïve",
        "café",
        "Ångström",
        "ﬁne",
        "straße",
        "İstanbul",
        "ΣΊΣΥΦΟΣ",
        "Привет",
        "мир",
        "日本語",
        "こんにちは",
        "カタカナ",
        "안녕하세요",
        "ประเทศไทย",
        "हिन्दी",
        "שלום",
        "مرحبا",
        "😀",
        "👩‍👩‍👧",
        "🇩🇪🇫🇷",
        "👍🏽",
        "1",
        "23",
        "4567",
        "³½",
        "Ⅷ",
        "٣٤",
        "e\u0301",
        "o\u0308u",
        "\u1112\u1161\u11ab",
        ".",
        ",",
        "!",
        "?!",
        "...",
        "—",
        "«",
        "'",
        "\"",
        "$",
        "+",
        "€",
        "©",
        "_",
        "#",
        "##ing",
        "<unk>",
        "</s>",
        "[MASK]",
        "<extra>",
        "<x>",
        "\u0000",
        "\u0007",
        "\u00ad",
        "\u200b",
        "\u200d",
        "\ufeff",
        "\ufffd",
        "▁",
        "▁▁a",
        "Ġ",
        "<0x0A>",
        "\ue000",
        "𝔾𝕠",
        "𠀋",
        "ｆｕｌｌ",
        "㍿",
        "a1b2",
        "x=y;",
        "{\"k\": [1]}"
    };
    private static final String[] BLANKS = {
        " ", " ", " ", " ", "", "", "  ", "   ", "\n", "\r\n", "\t", "\n\n", " \n ", "\u00a0", "\u3000", "\u2028",
        "\u0085"
    };

    private final Random random;

    TokenizerFiles(long seed) {
        random = new Random(seed);
    }

    private String one(String... choices) {
        return choices[random.nextInt(choices.length)];
    }

    private boolean coin() {
        return random.nextBoolean();
    }

    String text() {
        StringBuilder text = new StringBuilder(one(BLANKS));
        for (int i = random.nextInt(12); i >= 0; i--) {
            text.append(random.nextInt(20) == 0 ? character() : one(SNIPPETS)).append(one(BLANKS));
        }
        return text.toString();
    }

    /// A character whose properties are the same in every Unicode version in use.
    private String character() {
        int[][] ranges = {
            {0x20, 0x2ff},
            {0x370, 0x377},
            {0x400, 0x4ff},
            {0x900, 0x939},
            {0x1e00, 0x1eff},
            {0x2000, 0x206f},
            {0x2100, 0x218b},
            {0x2190, 0x23ff},
            {0x3041, 0x30ff},
            {0x4e00, 0x9fa5},
            {0xac00, 0xd7a3},
            {0xff01, 0xffdc},
            {0x1d400, 0x1d7ff},
            {0x1f300, 0x1f5ff},
            {0x20000, 0x2a6d6}
        };
        int[] range = ranges[random.nextInt(ranges.length)];
        return Character.toString(range[0] + random.nextInt(range[1] - range[0] + 1));
    }

    /// A complete file.
    String file() {
        String kind = one("BPE", "BPE", "Unigram", "WordPiece", "WordLevel");
        String normalizer = random.nextInt(4) == 0 ? "null" : normalizer(2);
        boolean bytes = kind.equals("BPE") && coin();
        String preTokenizer = bytes ? byteLevel(coin()) : random.nextInt(5) == 0 ? "null" : preTokenizer(2);
        Map<String, Integer> ids = new HashMap<>();
        String model = switch (kind) {
            case "BPE" -> bpe(bytes, ids);
            case "Unigram" -> unigram(ids);
            case "WordPiece" -> wordPiece(ids);
            default -> words(ids);
        };
        return """
                {"version": "1.0", "truncation": null, "padding": null, "added_tokens": %s, "normalizer": %s,
                 "pre_tokenizer": %s, "post_processor": %s, "decoder": %s, "model": %s}""".formatted(
                        added(ids),
                        normalizer,
                        preTokenizer,
                        postProcessor(ids),
                        random.nextInt(6) == 0 ? "null" : decoder(bytes, 2),
                        model);
    }

    private String normalizer(int depth) {
        return switch (random.nextInt(depth > 0 ? 13 : 12)) {
            case 0, 1 ->
                "{\"type\": \"BertNormalizer\", \"clean_text\": %s, \"handle_chinese_chars\": %s, \"strip_accents\": %s, \"lowercase\": %s}"
                        .formatted(coin(), coin(), one("null", "true", "false"), coin());
            case 2 -> "{\"type\": \"Lowercase\"}";
            case 3, 4 -> "{\"type\": \"%s\"}".formatted(one("NFC", "NFD", "NFKC", "NFKD"));
            case 5 -> "{\"type\": \"StripAccents\"}";
            case 6 -> "{\"type\": \"Nmt\"}";
            case 7 -> "{\"type\": \"Replace\", \"pattern\": %s, \"content\": \"%s\"}".formatted(solid(), one("▁", "-"));
            case 8 -> "{\"type\": \"Prepend\", \"prepend\": \"▁\"}";
            case 9 -> "{\"type\": \"Strip\", \"strip_left\": %s, \"strip_right\": %s}".formatted(coin(), coin());
            case 10 -> "{\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": \"▁\"}";
            case 11 -> random.nextInt(4) == 0 ? "{\"type\": \"ByteLevel\"}" : "{\"type\": \"NFC\"}";
            default ->
                "{\"type\": \"Sequence\", \"normalizers\": [%s, %s]}"
                        .formatted(normalizer(depth - 1), normalizer(depth - 1));
        };
    }

    private String pattern() {
        return coin()
                ? solid()
                : one(
                        "{\"Regex\": \"(?=\\\\p{Lu})\"}",
                        "{\"Regex\": \"a*\"}",
                        "{\"Regex\": \"^.|$\"}",
                        "{\"Regex\": \"\\\\bthe\\\\b|\\\\p{Han}++|(?<=o)f\"}");
    }

    /// A pattern that never matches the empty string: the library's normalizers abort when they replace an empty match.
    private String solid() {
        return one(
                "{\"String\": \" \"}",
                "{\"String\": \"in\"}",
                "{\"Regex\": \" {2,}\"}",
                "{\"Regex\": \"\\\\s+\"}",
                "{\"Regex\": \"[^\\\\p{L}\\\\p{N}]\"}",
                "{\"Regex\": \"\\\\p{N}{1,3}\"}",
                "{\"Regex\": \"\\\\w+|[^\\\\w\\\\s]+\"}",
                "{\"Regex\": \"[一-龥぀-ゟ゠-ヿ]+\"}",
                words());
    }

    /// The patterns of GPT-2, Llama 3, Qwen 2, o200k and DeepSeek.
    private String words() {
        String pattern = one(
                "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
                "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
                "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
                "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
                "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+");
        return JSON.createObjectNode().put("Regex", pattern).toString();
    }

    private String behavior() {
        return one("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous");
    }

    private String preTokenizer(int depth) {
        return switch (random.nextInt(depth > 0 ? 11 : 10)) {
            case 0 -> "{\"type\": \"BertPreTokenizer\"}";
            case 1 -> "{\"type\": \"Whitespace\"}";
            case 2 -> "{\"type\": \"WhitespaceSplit\"}";
            case 3 -> "{\"type\": \"Punctuation\", \"behavior\": \"%s\"}".formatted(behavior());
            case 4 -> "{\"type\": \"Digits\", \"individual_digits\": %s}".formatted(coin());
            case 5 -> "{\"type\": \"CharDelimiterSplit\", \"delimiter\": \"%s\"}".formatted(one(" ", "e", "▁"));
            case 6, 7 ->
                "{\"type\": \"Split\", \"pattern\": %s, \"behavior\": \"%s\", \"invert\": %s}"
                        .formatted(pattern(), behavior(), coin());
            case 8 -> byteLevel(coin());
            case 9 ->
                "{\"type\": \"Metaspace\", \"replacement\": \"▁\", \"prepend_scheme\": \"%s\", \"split\": %s}"
                        .formatted(one("always", "never", "first"), coin());
            default ->
                "{\"type\": \"Sequence\", \"pretokenizers\": [%s, %s]}"
                        .formatted(preTokenizer(depth - 1), preTokenizer(depth - 1));
        };
    }

    private String byteLevel(boolean own) {
        String bytes = "{\"type\": \"ByteLevel\", \"add_prefix_space\": %s, \"trim_offsets\": true, \"use_regex\": %s}"
                .formatted(coin(), !own);
        if (!own) {
            return bytes;
        }
        String split = "{\"type\": \"Split\", \"pattern\": %s, \"behavior\": \"Isolated\", \"invert\": false}"
                .formatted(words());
        return "{\"type\": \"Sequence\", \"pretokenizers\": [%s, %s]}".formatted(split, bytes);
    }

    private String decoder(boolean bytes, int depth) {
        return switch (bytes ? 0 : random.nextInt(depth > 0 ? 9 : 7)) {
            case 0 ->
                "{\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, \"use_regex\": true}";
            case 1 -> "{\"type\": \"WordPiece\", \"prefix\": \"##\", \"cleanup\": %s}".formatted(coin());
            case 2 ->
                "{\"type\": \"Metaspace\", \"replacement\": \"▁\", \"prepend_scheme\": \"%s\", \"split\": true}"
                        .formatted(one("always", "never", "first"));
            case 3 -> "{\"type\": \"BPEDecoder\", \"suffix\": \"%s\"}".formatted(one("</w>", "e"));
            case 4 -> "{\"type\": \"ByteFallback\"}";
            case 5 -> "{\"type\": \"Strip\", \"content\": \"%s\", \"start\": 2, \"stop\": 0}".formatted(one(" ", "t"));
            case 6 ->
                "{\"type\": \"Replace\", \"pattern\": %s, \"content\": \" \"}"
                        .formatted(one("{\"String\": \"▁\"}", pattern()));
            case 7 ->
                "{\"type\": \"Sequence\", \"decoders\": [%s, %s]}"
                        .formatted(decoder(false, depth - 1), decoder(false, depth - 1));
            default -> """
                {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                 {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}""";
        };
    }

    private String postProcessor(Map<String, Integer> ids) {
        int cls = Objects.requireNonNull(ids.get("<x>"));
        int sep = Objects.requireNonNull(ids.get("</s>"));
        String pair = switch (cls % 3) {
            case 0 ->
                "{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}, {\"Sequence\": {\"id\": \"B\", \"type_id\": 1}}";
            case 1 -> """
                {"SpecialToken": {"id": "<x>", "type_id": 2}}, {"Sequence": {"id": "B", "type_id": 1}},
                {"SpecialToken": {"id": "<x>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}""";
            default -> """
                {"SpecialToken": {"id": "<x>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "</s>", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}},
                {"SpecialToken": {"id": "</s>", "type_id": 1}}""";
        };
        String template = """
                {"type": "TemplateProcessing",
                 "single": [{"SpecialToken": {"id": "<x>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                            {"SpecialToken": {"id": "</s>", "type_id": 0}}],
                 "pair": [%s],
                 "special_tokens": {"<x>": {"id": "<x>", "ids": [%d, %d], "tokens": ["<x>", "<x>"]},
                                    "</s>": {"id": "</s>", "ids": [%d], "tokens": ["</s>"]}}}""".formatted(pair, cls, sep, sep);
        String bytes =
                "{\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, \"use_regex\": true}";
        return switch (random.nextInt(6)) {
            case 0 -> "null";
            case 1 -> bytes;
            case 2 ->
                "{\"type\": \"BertProcessing\", \"sep\": [\"</s>\", %d], \"cls\": [\"<x>\", %d]}".formatted(sep, cls);
            case 3 ->
                "{\"type\": \"RobertaProcessing\", \"sep\": [\"</s>\", %d], \"cls\": [\"<x>\", %d], \"trim_offsets\": true, \"add_prefix_space\": false}"
                        .formatted(sep, cls);
            case 4 -> "{\"type\": \"Sequence\", \"processors\": [%s, %s]}".formatted(bytes, template);
            default -> template;
        };
    }

    private String added(Map<String, Integer> ids) {
        ArrayNode tokens = JSON.createArrayNode();
        int next = ids.size();
        for (String content : List.of("<unk>", "</s>", "<x>", "[MASK]", "<extra>", "Привет", "of", "  ", "'ll")) {
            if (content.startsWith("<") ? !ids.containsKey(content) : coin()) {
                continue;
            }
            boolean special = !content.equals("of") && coin();
            tokens.addObject()
                    .put("id", ids.containsKey(content) ? ids.get(content) : next++)
                    .put("content", content)
                    .put("single_word", random.nextInt(3) == 0)
                    .put("lstrip", !content.isBlank() && random.nextInt(3) == 0)
                    .put("rstrip", random.nextInt(3) == 0)
                    .put("normalized", !content.isBlank() && random.nextInt(3) == 0)
                    .put("special", special);
        }
        return tokens.toString();
    }

    /// Words as a model receives them: snippets with the characters that normalizers and pre-tokenizers add.
    private List<String> words(boolean bytes) {
        List<String> words = new ArrayList<>();
        for (String snippet : SNIPPETS) {
            for (String word : List.of(snippet, " " + snippet, "▁" + snippet.toLowerCase(java.util.Locale.ROOT))) {
                words.add(bytes ? ByteLevel.write(word, 0, word.length()) : word);
            }
        }
        return words;
    }

    private String substring(String word) {
        int from = word.offsetByCodePoints(0, random.nextInt(word.codePointCount(0, word.length())));
        int to = word.offsetByCodePoints(from, 1 + random.nextInt(word.codePointCount(from, word.length())));
        return word.substring(from, to);
    }

    /// Some characters stay unknown.
    private void characters(List<String> words, Set<String> vocab, int spare) {
        for (String word : words) {
            word.codePoints().filter(c -> random.nextInt(spare) > 0).forEach(c -> vocab.add(Character.toString(c)));
        }
    }

    private void bytes(Set<String> vocab) {
        for (int b = random.nextInt(2); b < 256; b++) {
            vocab.add("<0x%02X>".formatted(b));
        }
    }

    private static ObjectNode ids(Set<String> vocab, Map<String, Integer> ids) {
        ObjectNode node = JSON.createObjectNode();
        for (String token : vocab) {
            ids.put(token, ids.size());
            node.put(token, ids.get(token));
        }
        return node;
    }

    private String bpe(boolean bytes, Map<String, Integer> ids) {
        List<String> words = words(bytes);
        Set<String> vocab = new LinkedHashSet<>(List.of("<unk>", "</s>", "<x>"));
        characters(words, vocab, bytes ? 1000 : 12);
        boolean fallback = !bytes && coin();
        if (fallback) {
            bytes(vocab);
        }
        String prefix = !bytes && random.nextInt(4) == 0 ? "##" : "";
        String suffix = !bytes && random.nextInt(4) == 0 ? "</w>" : "";
        List<String> alphabet =
                vocab.stream().filter(t -> t.codePointCount(0, t.length()) == 1).toList();
        if (!prefix.isEmpty()) {
            alphabet.forEach(c -> vocab.add(prefix + c));
        }
        if (!suffix.isEmpty()) {
            alphabet.forEach(c -> vocab.add(prefix + c + suffix));
        }
        ArrayNode merges = JSON.createArrayNode();
        boolean pairs = coin();
        for (int i = 0; i < 150; i++) {
            // Splitting one token in several ways gives it several merges.
            String token = substring(words.get(random.nextInt(words.size())));
            int length = token.codePointCount(0, token.length());
            if (length < 2 || token.indexOf(' ') >= 0) {
                continue;
            }
            int cut = token.offsetByCodePoints(0, 1 + random.nextInt(length - 1));
            String left = token.substring(0, cut);
            String right = prefix + token.substring(cut) + (coin() ? suffix : "");
            if (vocab.contains(left) && vocab.contains(right)) {
                vocab.add(left + right.substring(prefix.length()));
                if (pairs) {
                    merges.addArray().add(left).add(right);
                } else {
                    merges.add(left + " " + right);
                }
            }
        }
        ObjectNode model = JSON.createObjectNode().put("type", "BPE").putNull("dropout");
        model.put("unk_token", bytes || random.nextInt(4) == 0 ? null : "<unk>")
                .put("continuing_subword_prefix", prefix.isEmpty() && coin() ? null : prefix)
                .put("end_of_word_suffix", suffix.isEmpty() && coin() ? null : suffix)
                .put("fuse_unk", coin())
                .put("byte_fallback", fallback)
                .put("ignore_merges", coin());
        model.set("vocab", ids(vocab, ids));
        model.set("merges", merges);
        return model.toString();
    }

    private String unigram(Map<String, Integer> ids) {
        List<String> words = words(false);
        Set<String> vocab = new LinkedHashSet<>(List.of("<unk>", "</s>", "<x>"));
        characters(words, vocab, 12);
        boolean fallback = coin();
        if (fallback) {
            bytes(vocab);
        }
        for (int i = 0; i < 200; i++) {
            vocab.add(substring(words.get(random.nextInt(words.size()))));
        }
        ArrayNode scores = JSON.createArrayNode();
        for (String token : vocab) {
            ids.put(token, ids.size());
            // Few distinct scores, so that some segmentations are equally good.
            scores.addArray().add(token).add(-random.nextInt(8) * (coin() ? 1.0 : 1.5));
        }
        ObjectNode model =
                JSON.createObjectNode().put("type", "Unigram").put("unk_id", 0).put("byte_fallback", fallback);
        model.set("vocab", scores);
        return model.toString();
    }

    private String wordPiece(Map<String, Integer> ids) {
        List<String> words = words(false);
        Set<String> vocab = new LinkedHashSet<>(List.of("<unk>", "</s>", "<x>"));
        characters(words, vocab, 12);
        for (int i = 0; i < 300; i++) {
            vocab.add((coin() ? "##" : "") + substring(words.get(random.nextInt(words.size()))));
        }
        ObjectNode model = JSON.createObjectNode()
                .put("type", "WordPiece")
                .put("unk_token", "<unk>")
                .put("continuing_subword_prefix", random.nextInt(6) == 0 ? "" : "##")
                .put("max_input_chars_per_word", coin() ? 100 : 6);
        model.set("vocab", ids(vocab, ids));
        return model.toString();
    }

    private String words(Map<String, Integer> ids) {
        Set<String> vocab = new LinkedHashSet<>(List.of("<unk>", "</s>", "<x>"));
        vocab.addAll(words(coin()));
        ObjectNode model = JSON.createObjectNode().put("type", "WordLevel").put("unk_token", "<unk>");
        model.set("vocab", ids(vocab, ids));
        return model.toString();
    }
}
