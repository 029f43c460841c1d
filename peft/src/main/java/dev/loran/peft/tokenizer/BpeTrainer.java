package dev.loran.peft.tokenizer;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.PriorityQueue;
import java.util.Set;
import java.util.stream.IntStream;

/// Learns a byte-level BPE vocabulary from texts and writes it as a Hugging Face `tokenizer.json`.
///
/// Texts are split into words by GPT-2's pattern. The vocabulary consists of the special tokens, then all 256 bytes,
/// then a token for each merge: as long as the vocabulary has room, the most frequent pair of neighboring tokens, of
/// pairs that are equally frequent the one with the smaller ids, becomes a token. A pair that occurs only once is not
/// merged. This is what the trainer of Hugging Face tokenizers does with `initial_alphabet=ByteLevel.alphabet()` and
/// `min_frequency=2`: the same texts give the same file, except that the order of texts is irrelevant here, too.
///
/// **Paper**: Sennrich, Haddow and Birch, "Neural Machine Translation of Rare Words with Subword Units", 2016; over
/// bytes: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019.
public final class BpeTrainer {
    private static final int BYTES = 256;
    private static final int LEAST_FREQUENCY = 2;

    /// How often each word occurs, by its bytes as [ByteLevel] writes them.
    private final Map<String, long[]> words = new HashMap<>();

    /// Counts the words of a text.
    public void add(String text) {
        Piece whole = new Piece(text, true);
        List<Piece> pieces = new ArrayList<>();
        PreTokenizer.GPT2.spans(text, 0, text.length()).cut(whole, Spans.Behavior.ISOLATED, false, pieces);
        for (Piece piece : pieces) {
            words.computeIfAbsent(ByteLevel.write(text, piece.from(), piece.to()), word -> new long[1])[0]++;
        }
    }

    /// Learns the merges.
    ///
    /// @param vocabSize the number of tokens; there are fewer if the texts have no more pairs to merge
    /// @param specialTokens get the first ids, in this order; they are recognized in texts, and not decoded
    /// @return the bytes of a `tokenizer.json`
    /// @throws IllegalArgumentException if `vocabSize` has no room for the special tokens and the bytes
    public byte[] train(int vocabSize, List<String> specialTokens) {
        if (vocabSize < specialTokens.size() + BYTES) {
            throw new IllegalArgumentException("a vocabulary of " + vocabSize + " has no room for "
                    + specialTokens.size() + " special tokens and " + BYTES + " bytes");
        }
        Learning learning = new Learning(specialTokens);
        words.forEach((word, count) -> learning.add(word, count[0]));
        learning.merge(vocabSize);
        return json(learning, specialTokens);
    }

    /// Two tokens next to each other.
    private record Pair(int left, int right) {}

    /// A pair in the queue, with the frequency that it had when it was put there.
    private record Candidate(Pair pair, long frequency) implements Comparable<Candidate> {
        @Override
        public int compareTo(Candidate other) {
            int byFrequency = Long.compare(other.frequency, frequency);
            int byLeft = byFrequency != 0 ? byFrequency : Integer.compare(pair.left, other.pair.left);
            return byLeft != 0 ? byLeft : Integer.compare(pair.right, other.pair.right);
        }
    }

    /// A word as tokens.
    private static final class Word {
        private int[] tokens;
        private final long count;

        Word(int[] tokens, long count) {
            this.tokens = tokens;
            this.count = count;
        }
    }

    /// What is known of a pair.
    private static final class Uses {
        private long frequency;
        /// The words in which it occurs, or did.
        private final Set<Word> words = new HashSet<>();
    }

    /// The vocabulary as it grows.
    private static final class Learning {
        /// Ids by token, in the order of the ids.
        private final Map<String, Integer> ids = new LinkedHashMap<>();

        private final List<String> tokens = new ArrayList<>();
        private final List<Pair> merges = new ArrayList<>();
        private final Map<Pair, Uses> pairs = new HashMap<>();

        Learning(List<String> specialTokens) {
            specialTokens.forEach(this::token);
            IntStream.range(0, BYTES).map(ByteLevel::character).sorted().forEach(c -> token(Character.toString(c)));
        }

        private int token(String text) {
            Integer known = ids.putIfAbsent(text, tokens.size());
            if (known == null) {
                tokens.add(text);
                return tokens.size() - 1;
            }
            return known;
        }

        void add(String text, long count) {
            Word word =
                    new Word(text.chars().map(c -> token(Character.toString(c))).toArray(), count);
            for (int i = 1; i < word.tokens.length; i++) {
                count(word.tokens[i - 1], word.tokens[i], count, word);
            }
        }

        private Uses count(int left, int right, long change, Word word) {
            Uses uses = pairs.computeIfAbsent(new Pair(left, right), pair -> new Uses());
            uses.frequency += change;
            if (change > 0) {
                uses.words.add(word);
            }
            return uses;
        }

        void merge(int vocabSize) {
            PriorityQueue<Candidate> queue = new PriorityQueue<>();
            pairs.forEach((pair, uses) -> queue.add(new Candidate(pair, uses.frequency)));
            while (tokens.size() < vocabSize && !queue.isEmpty()) {
                Candidate next = queue.remove();
                Uses uses = pairs.get(next.pair);
                if (uses == null || uses.frequency < LEAST_FREQUENCY) {
                    continue;
                }
                if (uses.frequency != next.frequency) {
                    queue.add(new Candidate(next.pair, uses.frequency));
                    continue;
                }
                pairs.remove(next.pair);
                Map<Pair, Uses> changed = new HashMap<>();
                int merged = token(tokens.get(next.pair.left) + tokens.get(next.pair.right));
                merges.add(next.pair);
                for (Word word : uses.words) {
                    replace(word, next.pair, merged, changed);
                }
                changed.forEach((pair, more) -> queue.add(new Candidate(pair, more.frequency)));
            }
        }

        /// Merges a pair wherever it occurs in a word, from left to right.
        ///
        /// @param changed receives the pairs that occur more often now
        private void replace(Word word, Pair pair, int merged, Map<Pair, Uses> changed) {
            int[] old = word.tokens;
            int[] out = new int[old.length];
            int length = 0;
            int i = 0;
            while (i < old.length) {
                if (i + 1 == old.length || old[i] != pair.left || old[i + 1] != pair.right) {
                    out[length++] = old[i++];
                    continue;
                }
                if (length > 0) {
                    exchange(out[length - 1], pair.left, out[length - 1], merged, word, changed);
                }
                out[length++] = merged;
                i += 2;
                if (i < old.length) {
                    exchange(pair.right, old[i], merged, old[i], word, changed);
                }
            }
            word.tokens = Arrays.copyOf(out, length);
        }

        private void exchange(int left, int right, int newLeft, int newRight, Word word, Map<Pair, Uses> changed) {
            count(left, right, -word.count, word);
            changed.put(new Pair(newLeft, newRight), count(newLeft, newRight, word.count, word));
        }
    }

    private static byte[] json(Learning learning, List<String> specialTokens) {
        ObjectMapper mapper = new ObjectMapper();
        ObjectNode file = mapper.createObjectNode().put("version", "1.0");
        file.putNull("truncation");
        file.putNull("padding");
        ArrayNode added = file.putArray("added_tokens");
        for (String token : specialTokens) {
            added.addObject()
                    .put("id", learning.ids.get(token))
                    .put("content", token)
                    .put("single_word", false)
                    .put("lstrip", false)
                    .put("rstrip", false)
                    .put("normalized", false)
                    .put("special", true);
        }
        file.putNull("normalizer");
        byteLevel(file.putObject("pre_tokenizer"));
        byteLevel(file.putObject("post_processor"));
        byteLevel(file.putObject("decoder"));
        ObjectNode model = file.putObject("model").put("type", "BPE");
        model.putNull("dropout");
        model.putNull("unk_token");
        model.putNull("continuing_subword_prefix");
        model.putNull("end_of_word_suffix");
        model.put("fuse_unk", false).put("byte_fallback", false).put("ignore_merges", false);
        ObjectNode vocabulary = model.putObject("vocab");
        learning.ids.forEach(vocabulary::put);
        ArrayNode merges = model.putArray("merges");
        learning.merges.forEach(
                pair -> merges.add(learning.tokens.get(pair.left) + " " + learning.tokens.get(pair.right)));
        try {
            return mapper.writerWithDefaultPrettyPrinter().writeValueAsBytes(file);
        } catch (JsonProcessingException e) {
            throw new IllegalStateException("a tree of nodes can always be written", e);
        }
    }

    private static void byteLevel(ObjectNode step) {
        step.put("type", "ByteLevel")
                .put("add_prefix_space", false)
                .put("trim_offsets", true)
                .put("use_regex", true);
    }
}
