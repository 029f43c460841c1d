package dev.loran.peft.tokenizer;

import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.function.UnaryOperator;

/// Converts the texts of tokens to texts whose concatenation is the decoded text.
interface Decoder {
    List<String> apply(List<String> tokens);

    static Decoder read(Field field) {
        return switch (field.type()) {
            case "Sequence" -> {
                List<Decoder> steps = new ArrayList<>();
                field.steps("decoders").forEach(step -> steps.add(read(step)));
                yield tokens -> {
                    List<String> texts = tokens;
                    for (Decoder step : steps) {
                        texts = step.apply(texts);
                    }
                    return texts;
                };
            }
            case "ByteLevel" -> tokens -> List.of(ByteLevel.read(tokens));
            case "ByteFallback" -> Decoder::joinBytes;
            case "Fuse" -> tokens -> List.of(String.join("", tokens));
            case "WordPiece" ->
                wordPiece(field.at("prefix").text(), field.at("cleanup").flag());
            case "Metaspace" -> metaspace(PreTokenizer.Metaspace.read(field));
            case "BPEDecoder" -> bpe(field.at("suffix").text());
            case "Strip" ->
                strip(
                        Character.toString(field.at("content").character()),
                        field.at("start").number(Integer.MAX_VALUE),
                        field.at("stop").number(Integer.MAX_VALUE));
            case "Replace" -> {
                Regex pattern = Regex.read(field.at("pattern"));
                String content = field.at("content").text();
                yield each(token -> pattern.replace(token, content));
            }
            default ->
                throw field.at("type")
                        .unsupported("decoders are Sequence, ByteLevel, ByteFallback, Fuse, WordPiece, Metaspace,"
                                + " BPEDecoder, Strip and Replace");
        };
    }

    private static Decoder each(UnaryOperator<String> change) {
        return tokens -> tokens.stream().map(change).toList();
    }

    private static Decoder wordPiece(String prefix, boolean cleanup) {
        return tokens -> {
            List<String> texts = new ArrayList<>(tokens.size());
            for (String token : tokens) {
                boolean continues = !texts.isEmpty() && token.startsWith(prefix);
                String text = texts.isEmpty() ? token : continues ? token.substring(prefix.length()) : " " + token;
                texts.add(cleanup ? cleanUp(text) : text);
            }
            return texts;
        };
    }

    /// Removes spaces that English does not use.
    private static String cleanUp(String text) {
        if (text.indexOf(' ') < 0) {
            return text;
        }
        return text.replace(" .", ".")
                .replace(" ?", "?")
                .replace(" !", "!")
                .replace(" ,", ",")
                .replace(" ' ", "'")
                .replace(" n't", "n't")
                .replace(" 'm", "'m")
                .replace(" do not", " don't")
                .replace(" 's", "'s")
                .replace(" 've", "'ve")
                .replace(" 're", "'re");
    }

    private static Decoder metaspace(PreTokenizer.Metaspace metaspace) {
        return tokens -> {
            List<String> texts = new ArrayList<>(tokens.size());
            for (String token : tokens) {
                boolean dropped = texts.isEmpty() && !metaspace.prependScheme().equals("never");
                texts.add(token.replace(metaspace.sign(), dropped ? "" : " "));
            }
            return texts;
        };
    }

    private static Decoder bpe(String suffix) {
        return tokens -> {
            List<String> texts = new ArrayList<>(tokens.size());
            for (String token : tokens) {
                texts.add(token.replace(suffix, texts.size() == tokens.size() - 1 ? "" : " "));
            }
            return texts;
        };
    }

    /// Removes up to `start` and `stop` occurrences of one character from the two ends of a token.
    private static Decoder strip(String character, int start, int stop) {
        int width = character.length();
        return each(token -> {
            int from = 0;
            int to = token.length();
            for (int i = 0; i < start && token.startsWith(character, from); i++) {
                from += width;
            }
            for (int i = 0; i < stop && to - width >= from && token.startsWith(character, to - width); i++) {
                to -= width;
            }
            return token.substring(from, to);
        });
    }

    /// Joins runs of byte tokens like `<0x0A>`: the text of their bytes, or a replacement character for each byte.
    private static List<String> joinBytes(List<String> tokens) {
        List<String> texts = new ArrayList<>(tokens.size());
        byte[] run = new byte[tokens.size()];
        int length = 0;
        for (String token : tokens) {
            int value = byteOf(token);
            if (value >= 0) {
                run[length++] = (byte) value;
                continue;
            }
            addRun(run, length, texts);
            length = 0;
            texts.add(token);
        }
        addRun(run, length, texts);
        return texts;
    }

    private static int byteOf(String token) {
        boolean named = token.length() == 6 && token.startsWith("<0x") && token.endsWith(">");
        if (!named || token.charAt(3) > 'f' || token.charAt(4) > 'f') {
            return -1;
        }
        int high = Character.digit(token.charAt(3), 16);
        int low = Character.digit(token.charAt(4), 16);
        if (token.charAt(3) == '+') {
            high = 0;
        }
        return high < 0 || low < 0 ? -1 : 16 * high + low;
    }

    private static void addRun(byte[] run, int length, List<String> texts) {
        if (length == 0) {
            return;
        }
        try {
            texts.add(StandardCharsets.UTF_8
                    .newDecoder()
                    .decode(ByteBuffer.wrap(Arrays.copyOf(run, length)))
                    .toString());
        } catch (CharacterCodingException e) {
            for (int i = 0; i < length; i++) {
                texts.add("\ufffd");
            }
        }
    }
}
