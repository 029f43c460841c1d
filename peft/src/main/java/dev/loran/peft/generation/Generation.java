package dev.loran.peft.generation;

import dev.loran.engine.Scope;
import dev.loran.engine.backend.ShapeException;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.model.Guard;
import dev.loran.peft.model.KvCache;
import dev.loran.peft.model.Model;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.BitSet;
import java.util.Comparator;
import java.util.List;
import java.util.SplittableRandom;
import java.util.regex.Pattern;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;

/// Generates text with a causal model, token by token, for several prompts at a time. Each token costs only its own
/// forward pass: see [KvCache].
///
/// Except for rounding, an answer does not depend on the other prompts in its batch. The tokens of answer i are drawn
/// from the i-th stream of the seed.
///
/// **Threads**: both methods are safe from any number of threads on one model, as each call has its own cache; changing
/// the model fails meanwhile. [dev.loran.peft.tuner.PeftModel#withAdapter] runs a call with an adapter of its own.
public final class Generation {
    private static final Pattern INCOMPLETE = Pattern.compile("\ufffd+$");

    private final GenerationConfig config;
    private final @Nullable Tokenizer tokenizer;
    private final List<Row> rows = new ArrayList<>();

    /// The answer to a prompt.
    ///
    /// @param ids the generated tokens, without an end token, but including those of a stop string, and the one with
    ///     which the text became too long
    /// @param text the text before the stop string, if there is one; with a limit of characters, without white space
    ///     around it
    /// @param end what ended it
    public record Answer(int[] ids, String text, End end) {}

    /// What ended an answer.
    public enum End {
        /// An end token or a stop string: the model itself.
        TOKEN,
        /// The most characters: the text was cut.
        CHARACTERS,
        /// The most new tokens.
        TOKENS
    }

    private Generation(GenerationConfig config, @Nullable Tokenizer tokenizer, int[][] prompts) {
        this.config = config;
        this.tokenizer = tokenizer;
        SplittableRandom seeds = new SplittableRandom(config.seed());
        for (int[] prompt : prompts) {
            rows.add(new Row(prompt, new int[config.maxNewTokens()], seeds.split()));
        }
    }

    /// Generates the answers to prompts, which may differ in length, each up to an end token of the tokenizer or of the
    /// config, or up to a stop string.
    ///
    /// @param model causal, in evaluation mode
    /// @throws ShapeException if a prompt is empty, or the longest leaves no room for `maxNewTokens`
    /// @throws IllegalStateException if the model is not causal, or in training mode
    public static List<Answer> answers(Model model, Tokenizer tokenizer, int[][] prompts, GenerationConfig config) {
        List<Integer> ends = new ArrayList<>(config.eosTokenIds());
        ends.addAll(tokenizer.eosIds());
        Generation generation = new Generation(config.withEosTokenIds(ends), tokenizer, prompts);
        generation.run(model, prompts);
        return generation.rows.stream().map(row -> row.answer(tokenizer)).toList();
    }

    /// As [#answers], for any number of prompts: those of similar length are batched together, for otherwise the
    /// longest would leave too little room for the answers to others. An answer has as many new tokens as the config
    /// says, or as there is room for.
    ///
    /// @param prompts each leaves room for a token, at least
    /// @param positions the number of positions of the model that are available for text
    /// @param batchSize prompts per batch
    /// @return the answers in the order of the prompts
    public static List<Answer> answers(
            Model model,
            Tokenizer tokenizer,
            List<int[]> prompts,
            GenerationConfig config,
            int positions,
            int batchSize) {
        List<Integer> order = IntStream.range(0, prompts.size())
                .boxed()
                .sorted(Comparator.comparingInt(i -> prompts.get(i).length))
                .toList();
        Answer[] answers = new Answer[prompts.size()];
        for (int from = 0, to; from < order.size(); from = to) {
            int most = Math.min(config.maxNewTokens(), positions - prompts.get(order.get(from)).length);
            for (to = from + 1; to < Math.min(order.size(), from + batchSize); to++) {
                if (prompts.get(order.get(to)).length + most > positions) {
                    break;
                }
            }
            List<Integer> batch = order.subList(from, to);
            int[][] together = batch.stream().map(prompts::get).toArray(int[][]::new);
            List<Answer> found = answers(model, tokenizer, together, config.withMaxNewTokens(most));
            for (int i = 0; i < found.size(); i++) {
                answers[batch.get(i)] = found.get(i);
            }
        }
        return List.of(answers);
    }

    /// As [#answers], without decoding.
    ///
    /// @throws IllegalArgumentException if the config has stop strings or a limit of characters
    public static List<int[]> tokens(Model model, int[][] prompts, GenerationConfig config) {
        if (!config.stopStrings().isEmpty()) {
            throw new IllegalArgumentException("generation: stop strings " + config.stopStrings()
                    + " need a tokenizer; call answers(), or give the ids that end a text");
        }
        if (config.maxChars() > 0) {
            throw new IllegalArgumentException("generation: maxChars " + config.maxChars()
                    + " needs a tokenizer; call answers(), or limit the tokens");
        }
        Generation generation = new Generation(config, null, prompts);
        generation.run(model, prompts);
        return generation.rows.stream().map(Row::ids).toList();
    }

    private void run(Model model, int[][] prompts) {
        try (Guard.Use use = model.reading("generate");
                KvCache cache = new KvCache(model)) {
            int[][] next = prompts;
            for (int step = 0; step < config.maxNewTokens(); step++) {
                float[] logits;
                try (Scope scope = Scope.open()) {
                    logits = cache.append(next).toFloats();
                }
                if (step == 0 && cache.room() < config.maxNewTokens()) {
                    throw tooLong(model, cache.room());
                }
                int vocabulary = logits.length / rows.size();
                next = new int[rows.size()][];
                for (int i = 0; i < next.length; i++) {
                    next[i] = rows.get(i).next(Arrays.copyOfRange(logits, i * vocabulary, (i + 1) * vocabulary));
                }
                if (rows.stream().allMatch(r -> r.end != End.TOKENS)) {
                    break;
                }
            }
        }
    }

    private ShapeException tooLong(Model model, int room) {
        int max = model.facts().maxPositions();
        return new ShapeException("generation: " + config.maxNewTokens() + " new tokens behind a prompt of "
                + (max - room) + " positions, prefix and virtual tokens among them, but "
                + model.facts().modelType() + " has " + max + "; shorten the prompt, or ask for fewer");
    }

    private static String cut(String text, List<String> stops) {
        int end = stops.stream()
                .mapToInt(text::indexOf)
                .filter(at -> at >= 0)
                .min()
                .orElse(text.length());
        return text.substring(0, end);
    }

    /// A prompt and the tokens that follow it.
    private final class Row {
        private final BitSet prompt = new BitSet();
        private final BitSet seen = new BitSet();
        private final int[] ids;
        private final SplittableRandom random;
        private int length;
        /// The limit of tokens, until something else ends the answer.
        private End end = End.TOKENS;

        Row(int[] text, int[] ids, SplittableRandom random) {
            this.ids = ids;
            this.random = random;
            Arrays.stream(text).forEach(prompt::set);
            seen.or(prompt);
        }

        /// Chooses the next token from `logits` (V), which are overwritten; further tokens of a finished answer are
        /// discarded.
        int[] next(float[] logits) {
            penalise(logits, prompt, 1 / config.encoderRepetitionPenalty());
            penalise(logits, seen, config.repetitionPenalty());
            for (int i = 0; i < length; i++) {
                logits[ids[i]] -= (float) config.frequencyPenalty();
            }
            int token = choose(logits, config, random);
            seen.set(token);
            if (end != End.TOKENS) {
                return new int[] {token};
            }
            if (config.eosTokenIds().contains(token)) {
                end = End.TOKEN;
            } else {
                ids[length++] = token;
                if (tokenizer != null
                        && (config.maxChars() > 0 || !config.stopStrings().isEmpty())) {
                    end = end(tokenizer.decode(ids()));
                }
            }
            return new int[] {token};
        }

        /// What ends an answer with this text.
        private End end(String text) {
            // A character of several bytes may still lack some.
            String whole = INCOMPLETE.matcher(before(text)).replaceFirst("").strip();
            if (config.maxChars() > 0 && TextLimit.length(whole) > config.maxChars()) {
                return End.CHARACTERS;
            }
            return config.stopStrings().stream().anyMatch(text::contains) ? End.TOKEN : End.TOKENS;
        }

        /// The text before the first stop string.
        private String before(String text) {
            return cut(text, config.stopStrings());
        }

        int[] ids() {
            return Arrays.copyOf(ids, length);
        }

        Answer answer(Tokenizer words) {
            String text = before(words.decode(ids()));
            return new Answer(
                    ids(), config.maxChars() > 0 ? TextLimit.cut(text.strip(), config.maxChars()) : text, end);
        }
    }

    // ---- one token

    /// The most likely token, or one sampled from [Candidates].
    static int choose(float[] logits, GenerationConfig config, SplittableRandom random) {
        if (!config.doSample()) {
            int best = 0;
            for (int i = 1; i < logits.length; i++) {
                best = logits[i] > logits[best] ? i : best;
            }
            return best;
        }
        return new Candidates(logits, config).draw(random);
    }

    static void penalise(float[] logits, BitSet seen, double penalty) {
        seen.stream()
                .forEach(id -> logits[id] = (float) (logits[id] < 0 ? logits[id] * penalty : logits[id] / penalty));
    }
}
