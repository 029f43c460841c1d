package dev.loran.peft.tokenizer;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.OptionalInt;
import org.jspecify.annotations.Nullable;

/// A Hugging Face `tokenizer.json`: converts text to ids and back, with the same results as Hugging Face tokenizers.
///
/// The file's settings for truncation and padding are left to the caller. Nothing but caches changes after [#read], so
/// any number of threads may share a tokenizer.
public final class HfTokenizer {
    private final AddedTokens added;
    private final @Nullable Normalizer normalizer;
    private final @Nullable PreTokenizer preTokenizer;
    private final Model model;
    private final Vocabulary vocabulary;
    private final PostProcessor postProcessor;
    private final @Nullable Decoder decoder;
    private final int vocabSize;
    private final int unknownId;

    private HfTokenizer(Field file, ModelReader read) {
        Field version = file.optional("version");
        if (version != null && !version.text().equals("1.0")) {
            throw version.unsupported("1.0 is");
        }
        Field normalizer = file.optional("normalizer");
        Field preTokenizer = file.optional("pre_tokenizer");
        Field postProcessor = file.optional("post_processor");
        Field decoder = file.optional("decoder");
        this.vocabulary = read.vocabulary(file.at("model"));
        this.model = read.model(file.at("model"));
        this.unknownId = unknownId(file.at("model"), vocabulary);
        this.normalizer = normalizer == null ? null : Normalizer.read(normalizer);
        this.preTokenizer = preTokenizer == null ? null : PreTokenizer.read(preTokenizer);
        this.added = new AddedTokens(file.optional("added_tokens"), vocabulary, this.normalizer);
        int end = vocabulary.end();
        for (int id : added.ids().values()) {
            end = Math.max(end, id + 1);
        }
        this.vocabSize = end;
        this.postProcessor = postProcessor == null ? PostProcessor.NONE : PostProcessor.read(postProcessor, end);
        this.decoder = decoder == null ? null : Decoder.read(decoder);
    }

    /// Reads the bytes of a file.
    ///
    /// @throws IOException for bytes that are not JSON
    /// @throws TokenizerException for JSON that is not a tokenizer, or is not supported
    public static HfTokenizer read(byte[] json) throws IOException {
        ModelReader model = new ModelReader(json);
        return new HfTokenizer(new Field("", model.readFile()), model);
    }

    /// One more than the largest id that a text can contain.
    public int vocabSize() {
        return vocabSize;
    }

    /// The token with this id, added or from the model's vocabulary, as spelled in the file; null if there is none.
    public @Nullable String token(int id) {
        String content = added.content(id);
        return content == null ? vocabulary.token(id) : content;
    }

    /// The id of the unknown token, if the file names one.
    public OptionalInt unknownId() {
        return unknownId < 0 ? OptionalInt.empty() : OptionalInt.of(unknownId);
    }

    private static int unknownId(Field model, Vocabulary vocabulary) {
        Field place = model.optional("unk_id");
        Field token = model.optional("unk_token");
        return place != null ? place.number(vocabulary.end() - 1) : token == null ? -1 : vocabulary.find(token.text());
    }

    /// The id of a token, added or from the model's vocabulary, by its text.
    public OptionalInt id(String token) {
        Integer id = added.ids().get(token);
        int known = id == null ? vocabulary.find(token) : id;
        return known < 0 ? OptionalInt.empty() : OptionalInt.of(known);
    }

    /// The special tokens that the file puts before a text.
    public int[] before() {
        return postProcessor.before().clone();
    }

    /// The special tokens that the file puts after a text.
    public int[] after() {
        return postProcessor.after().clone();
    }

    /// The number of special tokens that the file puts around a pair of texts.
    ///
    /// @throws TokenizerException if its template does not contain each of the two texts once
    public int aroundPair() {
        for (int text : new int[] {0, 1}) {
            if (postProcessor.pair().stream().filter(p -> p.text() == text).count() != 1) {
                throw new TokenizerException(
                        "post_processor.pair: does not have each of two texts once; pairs of texts need that");
            }
        }
        return PostProcessor.ids(postProcessor.pair()).length;
    }

    /// The ids of a pair of texts, and the type of each, which in most files is the index of the text.
    public record Pair(int[] ids, int[] types) {}

    /// Adds the special tokens to the ids of two texts.
    public Pair pair(int[] first, int[] second) {
        int[] ids = new int[aroundPair() + first.length + second.length];
        int[] types = new int[ids.length];
        int at = 0;
        for (PostProcessor.Part part : postProcessor.pair()) {
            int[] own = part.text() < 0 ? part.ids() : part.text() == 0 ? first : second;
            System.arraycopy(own, 0, ids, at, own.length);
            Arrays.fill(types, at, at + own.length, part.type());
            at += own.length;
        }
        return new Pair(ids, types);
    }

    /// The ids of a text, without surrounding special tokens; special tokens spelled out in the text are recognized.
    ///
    /// @throws TokenizerException for a text that the file's rules cannot be applied to
    public int[] encode(String text) {
        Ids out = new Ids();
        String whole = wellFormed(text);
        for (AddedTokens.Stretch stretch : added.find(whole, false)) {
            if (stretch.id() >= 0) {
                out.add(stretch.id());
            } else if (stretch.from() < stretch.to()) {
                encode(whole.substring(stretch.from(), stretch.to()), stretch.from() == 0, out);
            }
        }
        return out.from(0);
    }

    private void encode(String text, boolean first, Ids out) {
        Normalizer.Passage passage = new Normalizer.Passage(text, first);
        if (normalizer != null) {
            normalizer.apply(passage);
        }
        List<Piece> pieces = new ArrayList<>();
        for (AddedTokens.Stretch stretch : added.find(passage.text, true)) {
            if (stretch.id() >= 0) {
                out.add(stretch.id());
                continue;
            }
            if (stretch.from() == stretch.to()) {
                continue;
            }
            Piece piece = new Piece(passage.text, stretch.from(), stretch.to(), passage.first && stretch.from() == 0);
            pieces.clear();
            if (preTokenizer == null) {
                pieces.add(piece);
            } else {
                preTokenizer.split(piece, pieces);
            }
            for (Piece each : pieces) {
                model.encode(each.text(), each.from(), each.to(), out);
            }
        }
    }

    /// The text with each unpaired surrogate replaced by a replacement character.
    private static String wellFormed(String text) {
        for (int i = 0; i < text.length(); i++) {
            if (Character.isSurrogate(text.charAt(i))) {
                int[] points = text.codePoints()
                        .map(c -> c >= Character.MIN_SURROGATE && c <= Character.MAX_SURROGATE ? 0xfffd : c)
                        .toArray();
                return new String(points, 0, points.length);
            }
        }
        return text;
    }

    /// The text of some ids, without special tokens; ids without a token are ignored.
    public String decode(int[] ids) {
        List<String> tokens = new ArrayList<>(ids.length);
        for (int id : ids) {
            String token = token(id);
            if (token != null && !added.isSpecial(token)) {
                tokens.add(token);
            }
        }
        return decoder == null ? String.join(" ", tokens) : String.join("", decoder.apply(tokens));
    }

    /// Reads a file's vocabulary and merges, which may hold a million strings, directly into their tables, and
    /// everything else into a tree.
    private static final class ModelReader {
        private static final ObjectMapper JSON = new ObjectMapper(JsonFactory.builder()
                .disable(JsonFactory.Feature.CANONICALIZE_FIELD_NAMES)
                .disable(JsonFactory.Feature.INTERN_FIELD_NAMES)
                .build());

        private final byte[] json;
        private @Nullable Vocabulary vocabulary;
        private double @Nullable [] scores;
        private Bpe.@Nullable Merges merges;
        private boolean mergesFirst;

        ModelReader(byte[] json) {
            this.json = json;
        }

        /// The file without the model's vocabulary and merges.
        ObjectNode readFile() throws IOException {
            ObjectNode file = readObject();
            if (mergesFirst) {
                merges = null;
                mergesFirst = false;
                readObject();
            }
            return file;
        }

        private ObjectNode readObject() throws IOException {
            ObjectNode file = JSON.createObjectNode();
            try (JsonParser parser = JSON.createParser(json)) {
                if (parser.nextToken() != JsonToken.START_OBJECT) {
                    throw new TokenizerException("not a JSON object");
                }
                while (parser.nextToken() == JsonToken.FIELD_NAME) {
                    String name = parser.currentName();
                    boolean model = parser.nextToken() == JsonToken.START_OBJECT && name.equals("model");
                    file.set(name, model ? readModel(parser) : JSON.readTree(parser));
                }
                if (parser.nextToken() != null) {
                    throw new TokenizerException("the file: goes on behind its end");
                }
            }
            return file;
        }

        private ObjectNode readModel(JsonParser parser) throws IOException {
            ObjectNode model = JSON.createObjectNode();
            while (parser.nextToken() == JsonToken.FIELD_NAME) {
                String name = parser.currentName();
                JsonToken value = parser.nextToken();
                if (name.equals("vocab") && value == JsonToken.START_OBJECT && vocabulary == null) {
                    vocabulary = readIds(parser);
                } else if (name.equals("vocab") && value == JsonToken.START_ARRAY && vocabulary == null) {
                    vocabulary = readScores(parser);
                } else if (name.equals("merges") && value == JsonToken.START_ARRAY) {
                    if (vocabulary == null || vocabulary.size() == 0) {
                        mergesFirst = vocabulary == null;
                        parser.skipChildren();
                    } else {
                        merges = readMerges(parser, vocabulary);
                    }
                } else if (name.equals("vocab") || name.equals("merges")) {
                    // Either of the wrong kind, or this is the second pass, which needs only the merges.
                    parser.skipChildren();
                } else {
                    model.set(name, JSON.readTree(parser));
                }
            }
            return model;
        }

        private static Vocabulary readIds(JsonParser parser) throws IOException {
            Vocabulary vocabulary = new Vocabulary();
            while (parser.nextToken() == JsonToken.FIELD_NAME) {
                String token = parser.currentName();
                if (parser.nextToken() != JsonToken.VALUE_NUMBER_INT) {
                    throw problem("model.vocab", token, "has no whole number for its id");
                }
                boolean small = parser.getNumberType() == JsonParser.NumberType.INT;
                if (!small || parser.getIntValue() < 0 || parser.getIntValue() > Vocabulary.MAX_ID) {
                    throw problem("model.vocab", token, "has an id that is not from 0 to " + Vocabulary.MAX_ID);
                }
                vocabulary.put(token, parser.getIntValue());
            }
            return vocabulary;
        }

        private Vocabulary readScores(JsonParser parser) throws IOException {
            Vocabulary vocabulary = new Vocabulary();
            double[] found = new double[1024];
            int id = 0;
            while (parser.nextToken() != JsonToken.END_ARRAY) {
                String place = "model.vocab[" + id + "]";
                boolean pair =
                        parser.currentToken() == JsonToken.START_ARRAY && parser.nextToken() == JsonToken.VALUE_STRING;
                String token = pair ? parser.getText() : "";
                if (!pair || !parser.nextToken().isNumeric()) {
                    throw new TokenizerException(place + ": is not a token and its score");
                }
                found = id == found.length ? Arrays.copyOf(found, 2 * id) : found;
                found[id] = parser.getDoubleValue();
                if (!Double.isFinite(found[id]) || parser.nextToken() != JsonToken.END_ARRAY) {
                    throw problem(place, token, "has no score that is a number");
                }
                if (id > Vocabulary.MAX_ID) {
                    throw new TokenizerException("model.vocab: has more than " + id + " tokens");
                }
                vocabulary.put(token, id++);
            }
            scores = Arrays.copyOf(found, id);
            return vocabulary;
        }

        private static Bpe.Merges readMerges(JsonParser parser, Vocabulary vocabulary) throws IOException {
            Bpe.Merges merges = new Bpe.Merges();
            while (parser.nextToken() != JsonToken.END_ARRAY) {
                int rank = merges.count();
                String left;
                String right;
                if (parser.currentToken() == JsonToken.VALUE_STRING) {
                    String both = parser.getText();
                    if (both.startsWith("#version")) {
                        continue;
                    }
                    int blank = both.indexOf(' ');
                    if (blank < 0 || both.indexOf(' ', blank + 1) >= 0) {
                        throw Bpe.Merges.problem(rank, both, "is not two tokens with a blank between them");
                    }
                    left = both.substring(0, blank);
                    right = both.substring(blank + 1);
                } else {
                    boolean pair = parser.currentToken() == JsonToken.START_ARRAY
                            && parser.nextToken() == JsonToken.VALUE_STRING;
                    left = pair ? parser.getText() : "";
                    pair = pair && parser.nextToken() == JsonToken.VALUE_STRING;
                    right = pair ? parser.getText() : "";
                    if (!pair || parser.nextToken() != JsonToken.END_ARRAY) {
                        throw new TokenizerException("model.merges[" + rank + "]: is not two tokens");
                    }
                }
                merges.add(find(vocabulary, left, rank), find(vocabulary, right, rank));
            }
            return merges;
        }

        private static int find(Vocabulary vocabulary, String token, int rank) {
            int id = vocabulary.find(token);
            if (id < 0) {
                throw Bpe.Merges.problem(rank, token, "is not in the vocabulary");
            }
            return id;
        }

        private static TokenizerException problem(String place, String token, String what) {
            return new TokenizerException(place + ": " + Field.shown("\"" + token + "\"") + " " + what);
        }

        Vocabulary vocabulary(Field model) {
            if (!model.json().isObject()) {
                throw model.problem("is missing or not an object");
            }
            if (vocabulary == null || vocabulary.size() == 0) {
                throw model.at("vocab").problem("is missing or empty");
            }
            return vocabulary;
        }

        Model model(Field model) {
            Vocabulary tokens = vocabulary(model);
            Field type = model.optional("type");
            return switch (type == null ? guess(model) : type.text()) {
                case "BPE" -> {
                    if (merges == null || scores != null) {
                        throw model.problem("BPE needs merges, and a vocabulary of ids");
                    }
                    yield new Bpe(model, tokens, merges);
                }
                case "Unigram" -> {
                    if (scores == null) {
                        throw model.at("vocab").problem("is not a list of tokens with their scores");
                    }
                    yield new Unigram(model, tokens, scores);
                }
                case "WordPiece" -> new Model.WordPiece(model, ids(model, tokens));
                case "WordLevel" -> Model.WordLevel.read(model, ids(model, tokens));
                default -> throw model.at("type").unsupported("models are BPE, Unigram, WordPiece and WordLevel");
            };
        }

        private Vocabulary ids(Field model, Vocabulary tokens) {
            if (scores != null) {
                throw model.at("vocab").problem("is not an object of tokens and their ids");
            }
            return tokens;
        }

        /// The first files did not contain the model's type.
        private String guess(Field model) {
            if (merges != null || scores != null) {
                return merges != null ? "BPE" : "Unigram";
            }
            return model.optional("continuing_subword_prefix") == null ? "WordLevel" : "WordPiece";
        }
    }
}
