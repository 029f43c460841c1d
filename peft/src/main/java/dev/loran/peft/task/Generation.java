package dev.loran.peft.task;

import dev.loran.engine.Scope;
import dev.loran.engine.backend.ShapeException;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.model.Guard;
import dev.loran.peft.model.KvCache;
import dev.loran.peft.model.Model;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.BitSet;
import java.util.List;
import java.util.SplittableRandom;
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
    private final GenerationConfig config;
    private final @Nullable Tokenizer tokenizer;
    private final List<Row> rows = new ArrayList<>();

    /// The answer to a prompt.
    ///
    /// @param ids the generated tokens, without an end token, but including those of a stop string
    /// @param text the text before the stop string, if there is one
    public record Answer(int[] ids, String text) {}

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
        return new Generation(config.withEosTokenIds(ends), tokenizer, prompts)
                .run(model, prompts).stream()
                        .map(ids -> new Answer(ids, cut(tokenizer.decode(ids), config.stopStrings())))
                        .toList();
    }

    /// As [#answers], without decoding.
    ///
    /// @throws IllegalArgumentException if the config has stop strings
    public static List<int[]> tokens(Model model, int[][] prompts, GenerationConfig config) {
        if (!config.stopStrings().isEmpty()) {
            throw new IllegalArgumentException("generation: stop strings " + config.stopStrings()
                    + " need a tokenizer; call answers(), or give the ids that end a text");
        }
        return new Generation(config, null, prompts).run(model, prompts);
    }

    private List<int[]> run(Model model, int[][] prompts) {
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
                if (rows.stream().allMatch(r -> r.ended)) {
                    break;
                }
            }
        }
        return rows.stream().map(r -> Arrays.copyOf(r.ids, r.length)).toList();
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
        private final BitSet seen = new BitSet();
        private final int[] ids;
        private final SplittableRandom random;
        private int length;
        private boolean ended;

        Row(int[] prompt, int[] ids, SplittableRandom random) {
            this.ids = ids;
            this.random = random;
            Arrays.stream(prompt).forEach(seen::set);
        }

        /// Chooses the next token from `logits` (V), which are overwritten; further tokens of a finished answer are
        /// discarded.
        int[] next(float[] logits) {
            int token = choose(logits, seen, config, random);
            seen.set(token);
            ended |= config.eosTokenIds().contains(token);
            if (!ended) {
                ids[length++] = token;
                ended = tokenizer != null && stops(tokenizer);
            }
            return new int[] {token};
        }

        private boolean stops(Tokenizer words) {
            if (config.stopStrings().isEmpty()) {
                return false;
            }
            String text = words.decode(Arrays.copyOf(ids, length));
            return config.stopStrings().stream().anyMatch(text::contains);
        }
    }

    // ---- one token

    /// The most likely token, or one sampled from [Candidates]. Overwrites `logits`.
    static int choose(float[] logits, BitSet seen, GenerationConfig config, SplittableRandom random) {
        penalise(logits, seen, config.repetitionPenalty());
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
