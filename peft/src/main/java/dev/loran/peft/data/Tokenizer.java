package dev.loran.peft.data;

import com.fasterxml.jackson.core.JsonProcessingException;
import dev.loran.peft.chat.ChatFormat;
import dev.loran.peft.io.InputException;
import dev.loran.peft.io.JsonFile;
import dev.loran.peft.tokenizer.HfTokenizer;
import dev.loran.peft.tokenizer.TokenizerException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.OptionalInt;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;

/// Converts text to token ids and back, as a Hugging Face `tokenizer.json` specifies; gives the same ids as Hugging
/// Face tokenizers.
///
/// Padding and truncation settings in the file are ignored: [DataLoader] pads a batch to its longest row, and the
/// methods here truncate to a given length, always at the end of the text, so that the special tokens around it are
/// kept.
///
/// [#close()] does nothing: a tokenizer holds no native memory.
///
/// **Threads**: safe from any number of threads.
public final class Tokenizer implements AutoCloseable {
    /// The separator between a prompt and its answer.
    public static final String SEPARATOR = "\n";

    private final HfTokenizer tokenizer;
    private final String name;
    private final SpecialTokens special;
    private final OptionalInt padId;
    /// The special tokens that the file's template puts before and after a text: `[CLS]` and `[SEP]` for BERT.
    private final int[] prefix;

    private final int[] suffix;
    /// The tokens that training appends to a text.
    private final int[] end;

    private final int[] separator;
    private final @Nullable ChatFormat chatFormat;

    /// The token ids of a row.
    ///
    /// @param ids the ids, including special tokens
    /// @param promptLength the number of leading ids that belong to the prompt; 0 if there is none
    /// @param truncated whether a part of the text was cut
    /// @param tokenTypes the type of each id, by which a model distinguishes the texts of a pair; null if all are 0
    public record Encoded(int[] ids, int promptLength, boolean truncated, int @Nullable [] tokenTypes) {
        Encoded(int[] ids, int promptLength, boolean truncated) {
            this(ids, promptLength, truncated, null);
        }
    }

    private Tokenizer(
            byte[] tokenizerJson,
            String name,
            @Nullable Path tokenizerFolder,
            @Nullable Path modelFolder,
            @Nullable String eosToken) {
        this.name = name;
        this.tokenizer = open(tokenizerJson, name);
        this.special = new SpecialTokens(tokenizer, name, tokenizerFolder, modelFolder, eosToken);
        this.padId = special.pad();
        this.prefix = tokenizer.before();
        this.suffix = tokenizer.after();
        this.end = special.after(suffix);
        this.separator = body(SEPARATOR);
        this.chatFormat = tokenizerFolder == null ? null : ChatFormat.read(tokenizerFolder);
    }

    private Tokenizer(Tokenizer other, @Nullable ChatFormat format) {
        this.tokenizer = other.tokenizer;
        this.name = other.name;
        this.special = other.special;
        this.padId = other.padId;
        this.prefix = other.prefix;
        this.suffix = other.suffix;
        this.end = other.end;
        this.separator = other.separator;
        this.chatFormat = format;
    }

    /// The tokenizer of a Hugging Face model folder: `tokenizer.json`, and the special tokens that
    /// `tokenizer_config.json`, `special_tokens_map.json`, `generation_config.json` and `config.json` name.
    ///
    /// @throws InputException for a missing file, or one that is not a tokenizer
    public static Tokenizer load(Path folder) {
        return load(folder, folder, null);
    }

    /// A tokenizer for a model whose files are elsewhere.
    ///
    /// @param tokenizer a folder with `tokenizer.json`, or that file
    /// @param model the folder that says which token ids end a generated text
    /// @param eosToken the token that ends a text, overriding the files; null to take it from them
    /// @throws InputException for a missing file, for one that is not a tokenizer, and for an end token that is not in
    ///     the vocabulary
    public static Tokenizer load(Path tokenizer, Path model, @Nullable String eosToken) {
        boolean isFolder = Files.isDirectory(tokenizer);
        Path file = isFolder ? tokenizer.resolve("tokenizer.json") : tokenizer;
        InputException.requireWhole(file);
        try {
            byte[] json = Files.readAllBytes(file);
            return new Tokenizer(json, file.toString(), isFolder ? tokenizer : null, model, eosToken);
        } catch (IOException e) {
            throw isFolder && e instanceof NoSuchFileException
                    ? new InputException(file + ": no such file; a model folder needs its tokenizer.json", e)
                    : InputException.io(file, "cannot be read", e);
        }
    }

    /// A tokenizer from the bytes of a `tokenizer.json`.
    ///
    /// @param name the name in error messages
    /// @throws InputException if the bytes are not a tokenizer
    public static Tokenizer of(byte[] tokenizerJson, String name) {
        return new Tokenizer(tokenizerJson, name, null, null, null);
    }

    /// How chats become text for this tokenizer; null if its files do not say.
    public @Nullable ChatFormat chatFormat() {
        return chatFormat;
    }

    /// This tokenizer with another format for chats.
    public Tokenizer withChatFormat(@Nullable ChatFormat format) {
        return new Tokenizer(this, format);
    }

    /// One more than the largest id that a text can produce: the minimum number of rows of an embedding.
    public int vocabSize() {
        return tokenizer.vocabSize();
    }

    /// The padding token, if the files name one.
    public OptionalInt padId() {
        return padId;
    }

    /// The token that training appends to a text, if the files or the template name one.
    public OptionalInt eosId() {
        return end.length == 0 ? OptionalInt.empty() : OptionalInt.of(end[0]);
    }

    /// The token of [#eosId] as the vocabulary spells it; null for none. Suitable for [#load(Path, Path, String)].
    public @Nullable String eosToken() {
        return end.length == 0 ? null : tokenizer.token(end[0]);
    }

    /// The tokens that end a generated text: that of [#eosId], and the others that the model's files name.
    public List<Integer> eosIds() {
        return special.ends(suffix);
    }

    /// The ids of a text with the special tokens of the tokenizer's template around it, as input for an encoder.
    ///
    /// @param maxLength the most ids to return, including special tokens
    /// @throws InputException if `maxLength` leaves no room for the text
    public Encoded encode(String text, int maxLength) {
        return assemble(body(text), suffix, maxLength);
    }

    /// The ids of a text whose words are given, with the special tokens of the template around it.
    ///
    /// @param encoded the ids
    /// @param starts for each word the index of its first id; −1 for a word that was cut
    public record Words(Encoded encoded, int[] starts) {}

    /// The ids of words, each encoded for itself, as [#encode] puts them into a text. A word without any ids of its own
    /// gets the unknown token, if there is one. Excess ids are cut from the end.
    ///
    /// @param maxLength the most ids to return, including special tokens
    /// @throws InputException if `maxLength` leaves no room for the words
    public Words encodeWords(List<String> words, int maxLength) {
        int room = maxLength - aroundText();
        requireRoom(room, 1, maxLength);
        boolean blanks = hasBlanks();
        int[] starts = new int[words.size()];
        int[] ids = prefix;
        boolean cut = false;
        for (int w = 0; w < starts.length; w++) {
            int[] pieces = body(blanks && w > 0 ? " " + words.get(w) : words.get(w));
            if (pieces.length == 0 && unknownId().isPresent()) {
                pieces = new int[] {unknownId().getAsInt()};
            }
            int kept = Math.min(pieces.length, room - (ids.length - prefix.length));
            starts[w] = kept > 0 ? ids.length : -1;
            cut |= kept < pieces.length;
            ids = concat(ids, Arrays.copyOf(pieces, kept));
        }
        return new Words(new Encoded(concat(ids, suffix), 0, cut), starts);
    }

    /// Whether a blank before a word is a part of the word's first token in a text, but is not put there if the word is
    /// encoded alone: in byte-level tokenizers, except those that add the blank themselves.
    private boolean hasBlanks() {
        int[] alone = body("a");
        int[] text = body("a a");
        return !Arrays.equals(text, concat(alone, alone)) && Arrays.equals(text, concat(alone, body(" a")));
    }

    /// The ids of a pair of texts, arranged by the tokenizer's template for pairs, `[CLS] A [SEP] B [SEP]` for BERT.
    /// Excess ids are cut from the end of the longer text, or from both if neither fits in half of the room: Hugging
    /// Face's `longest_first`.
    ///
    /// @param maxLength the most ids to return, including special tokens
    /// @throws InputException if `maxLength` leaves no room for the texts, or the template does not support pairs
    public Encoded encode(String text, String textPair, int maxLength) {
        int[] first = body(text);
        int[] second = body(textPair);
        int room = maxLength - aroundPair();
        requireRoom(room, 2, maxLength);
        int shorter = Math.min(first.length, second.length);
        int longer = Math.min(Math.max(first.length, second.length), Math.max(shorter, room - shorter));
        if (shorter + longer > room) {
            shorter = room / 2;
            longer = room - shorter;
        }
        boolean firstIsShorter = first.length <= second.length;
        HfTokenizer.Pair pair = tokenizer.pair(
                Arrays.copyOf(first, firstIsShorter ? shorter : longer),
                Arrays.copyOf(second, firstIsShorter ? longer : shorter));
        boolean typed = Arrays.stream(pair.types()).anyMatch(type -> type != 0);
        boolean cut = shorter + longer < first.length + second.length;
        return new Encoded(pair.ids(), 0, cut, typed ? pair.types() : null);
    }

    /// The ids of a whole text with its end token, for training a language model: as [#encode], with the end token
    /// appended if the template does not end with one. A truncated text gets no end token, because it does not end
    /// there.
    ///
    /// @param maxLength the most ids to return, including special tokens
    /// @throws InputException if `maxLength` leaves no room for the text
    public Encoded encodeDocument(String text, int maxLength) {
        int[] body = body(text);
        boolean fits = prefix.length + body.length + end.length <= maxLength;
        return assemble(body, fits ? end : new int[0], maxLength);
    }

    /// The ids of a text that a language model is to continue: as [#encodeDocument] without the end token.
    ///
    /// @param maxLength the most ids to return, including special tokens
    /// @throws InputException if `maxLength` leaves no room for the text
    public Encoded encodeStart(String text, int maxLength) {
        return assemble(body(text), new int[0], maxLength);
    }

    /// The ids of a prompt for a model to answer: special tokens, prompt, [#SEPARATOR]. They are the first ids that
    /// [#encodePair] returns for the prompt with any target. A prompt longer than `maxLength - answerRoom` is cut at
    /// its end: the length of the answer is not known in advance.
    ///
    /// @param maxLength the most ids of prompt and answer together
    /// @param answerRoom how many of them are reserved for the answer, at least
    /// @throws InputException if that leaves no room for the prompt, or no token ends an answer
    public Encoded encodePrompt(String prompt, int maxLength, int answerRoom) {
        requireEnd();
        return prompt(body(prompt), maxLength, answerRoom);
    }

    /// The ids of a prompt as [#encodePrompt] returns them, followed by those of the target and the end token. A target
    /// longer than the remaining room is cut at its end, and is followed by the end token like any other.
    ///
    /// @param maxLength the most ids to return
    /// @param answerRoom as in [#encodePrompt]
    /// @throws InputException as in [#encodePrompt]
    public Encoded encodePair(String prompt, String target, int maxLength, int answerRoom) {
        return pair(body(prompt), targetBody(target), maxLength, answerRoom);
    }

    /// The ids of a target alone, without the end token.
    ///
    /// @throws InputException if there is no end token
    public int[] targetBody(String target) {
        requireEnd();
        return body(target);
    }

    /// The number of ids that a target takes, including the end token.
    public int targetLength(int[] target) {
        return target.length + end.length;
    }

    /// As [#encodePair], given ids.
    public Encoded pair(int[] prompt, int[] target, int maxLength, int answerRoom) {
        Encoded head = prompt(prompt, maxLength, answerRoom);
        int room = maxLength - head.ids.length - end.length;
        requireRoom(room, 1, maxLength);
        int kept = Math.min(target.length, room);
        int[] all = concat(concat(head.ids, Arrays.copyOf(target, kept)), end);
        return new Encoded(all, head.ids.length, head.truncated || kept < target.length);
    }

    private Encoded prompt(int[] body, int maxLength, int answerRoom) {
        int room = maxLength - answerRoom - prefix.length - separator.length;
        requireRoom(room, 1, maxLength);
        int kept = Math.min(body.length, room);
        int[] ids = concat(concat(prefix, Arrays.copyOf(body, kept)), separator);
        return new Encoded(ids, ids.length, kept < body.length);
    }

    private void requireEnd() {
        if (end.length == 0) {
            throw special.noEnd();
        }
    }

    /// The text of some ids, without special tokens.
    public String decode(int[] ids) {
        return applied(() -> tokenizer.decode(ids));
    }

    @Override
    public void close() {}

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

    /// The token for everything that is not in the vocabulary, if there is one.
    public OptionalInt unknownId() {
        return tokenizer.unknownId();
    }

    /// The number of special tokens that [#encode] puts around a text.
    public int aroundText() {
        return prefix.length + suffix.length;
    }

    /// The number of special tokens around a pair of texts.
    public int aroundPair() {
        return applied(tokenizer::aroundPair);
    }

    /// The ids of a text alone, without special tokens around it.
    public int[] body(String text) {
        return applied(() -> tokenizer.encode(text));
    }

    private <T> T applied(Supplier<T> use) {
        try {
            return use.get();
        } catch (TokenizerException e) {
            throw new InputException(name + ": " + e.getMessage(), e);
        }
    }

    private static HfTokenizer open(byte[] tokenizerJson, String name) {
        try {
            return HfTokenizer.read(tokenizerJson);
        } catch (TokenizerException e) {
            throw new InputException(name + ": " + e.getMessage(), e);
        } catch (JsonProcessingException e) {
            throw new InputException(name + ": not JSON (" + JsonFile.problem(e) + ")", e);
        } catch (IOException e) {
            throw new InputException(name + ": not JSON (" + e + ")", e);
        }
    }

    private static int[] concat(int[] a, int[] b) {
        int[] both = Arrays.copyOf(a, a.length + b.length);
        System.arraycopy(b, 0, both, a.length, b.length);
        return both;
    }
}
