package dev.loran.peft.tokenizer;

import java.util.Arrays;
import org.jspecify.annotations.Nullable;

/// SentencePiece's unigram language model (Kudo 2018): of all segmentations of a text into tokens, it chooses the one
/// with the largest sum of scores, which are log probabilities.
final class Unigram implements Model {
    /// The score of an unknown character is this much lower than that of the least likely token.
    private static final double UNKNOWN_PENALTY = 10;

    private final Vocabulary vocabulary;
    private final double[] scores;
    private final double unknownScore;
    private final int unknownId;
    private final int @Nullable [] byteIds;
    private final Trie tokens = new Trie();
    private final WordCache cache = new WordCache();

    Unigram(Field model, Vocabulary vocabulary, double[] scores) {
        this.vocabulary = vocabulary;
        this.scores = scores;
        double least = Double.POSITIVE_INFINITY;
        for (int id = 0; id < vocabulary.end(); id++) {
            String token = vocabulary.token(id);
            if (token != null && !token.isEmpty()) {
                tokens.put(token, vocabulary.find(token));
            }
            least = Math.min(least, scores[id]);
        }
        this.unknownScore = least - UNKNOWN_PENALTY;
        Field unknown = model.optional("unk_id");
        this.unknownId = unknown == null ? -1 : unknown.number(vocabulary.end() - 1);
        this.byteIds = Model.byteIds(model, vocabulary);
    }

    @Override
    public void encode(String text, int from, int to, Ids out) {
        int[] ids = cache.get(text, from, to);
        if (ids == null) {
            Ids found = new Ids();
            addBest(text, from, to, found);
            ids = found.from(0);
            cache.put(text, from, to, ids);
        }
        out.addAll(ids);
    }

    /// Viterbi: the best path to each position extends one of the best paths to earlier positions.
    private void addBest(String text, int from, int to, Ids out) {
        int length = to - from;
        Ways ways = new Ways(length);
        int[] starts = ways.starts;
        int[] ids = ways.ids;
        for (int start = 0, next; start < length; start = next) {
            next = start + Character.charCount(text.codePointAt(from + start));
            boolean known = false;
            int node = 0;
            for (int end = start; end < length; ) {
                node = tokens.child(node, text.charAt(from + end++));
                if (node == Trie.NONE) {
                    break;
                }
                int id = tokens.value(node);
                if (id != Trie.NONE) {
                    ways.offer(start, end, id, scores[id]);
                    known |= end == next;
                }
            }
            if (!known && ways.offer(start, next, unknownId, unknownScore)) {
                requireUnknown();
            }
        }
        // The path is found backwards.
        int[] path = new int[length + 1];
        int steps = 0;
        for (int end = length; end > 0; end = starts[end]) {
            path[steps++] = end;
        }
        for (int i = steps - 1; i >= 0; i--) {
            int end = path[i];
            if (ids[end] != unknownId) {
                out.add(ids[end]);
                continue;
            }
            // A run of unknown characters becomes one token, or its bytes.
            int start = starts[end];
            while (i > 0 && ids[path[i - 1]] == unknownId) {
                end = path[--i];
            }
            addUnknown(text, from + start, from + end, out);
        }
    }

    /// The best path to each position of a text: its score, and the start and id of its last token.
    private static final class Ways {
        final double[] best;
        final int[] starts;
        final int[] ids;

        Ways(int length) {
            best = new double[length + 1];
            starts = new int[length + 1];
            ids = new int[length + 1];
            Arrays.fill(starts, -1);
        }

        /// Records the path to `end` through `start` if it is better than the previous ones.
        boolean offer(int start, int end, int id, double score) {
            double sum = score + best[start];
            if (starts[end] >= 0 && sum <= best[end]) {
                return false;
            }
            best[end] = sum;
            starts[end] = start;
            ids[end] = id;
            return true;
        }
    }

    private void addUnknown(String text, int from, int to, Ids out) {
        int id = vocabulary.find(text, from, to);
        if (id >= 0) {
            out.add(id);
        } else if (byteIds == null || !Model.addBytes(byteIds, text, from, to, out)) {
            out.add(unknownId);
        }
    }

    private void requireUnknown() {
        if (unknownId < 0) {
            throw new TokenizerException("model.unk_id: is missing, and a text has unknown characters");
        }
    }
}
