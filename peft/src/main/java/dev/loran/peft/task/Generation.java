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

/// Text from a causal model, token by token, for several prompts at a time. Each token costs its own forward alone: see
/// [KvCache].
///
/// An answer does not depend on the prompts beside its own but for rounding; tokens of answer i are drawn from the i-th
/// stream of the seed.
///
/// **Threads**: both methods are safe from any number of threads on one model, each call with a cache of its own; what
/// changes the model fails meanwhile. [dev.loran.peft.tuner.PeftModel#withAdapter] gives a call an adapter of its own.
public final class Generation {
    private final GenerationConfig config;
    private final @Nullable Tokenizer tokenizer;
    private final List<Row> rows = new ArrayList<>();

    /// What follows a prompt.
    ///
    /// @param ids of the tokens, without one that ends a text; with those of a stop string
    /// @param text without the stop string and what is after it
    public record Answer(int[] ids, String text) {}

    private Generation(GenerationConfig config, @Nullable Tokenizer tokenizer, int[][] prompts) {
        this.config = config;
        this.tokenizer = tokenizer;
        SplittableRandom seeds = new SplittableRandom(config.seed());
        for (int[] prompt : prompts) {
            rows.add(new Row(prompt, new int[config.maxNewTokens()], seeds.split()));
        }
    }

    /// The answers to some prompts of different lengths, each up to one of the tokenizer's end tokens or of the
    /// config's, or up to a stop string.
    ///
    /// @param model causal, in evaluation mode
    /// @throws ShapeException if a prompt is empty, or the longest has no room for `maxNewTokens` behind it
    /// @throws IllegalStateException if the model is not causal, or in training mode
    public static List<Answer> answers(Model model, Tokenizer tokenizer, int[][] prompts, GenerationConfig config) {
        List<Integer> ends = new ArrayList<>(config.eosTokenIds());
        ends.addAll(tokenizer.eosIds());
        return new Generation(config.withEosTokenIds(ends), tokenizer, prompts)
                .run(model, prompts).stream()
                        .map(ids -> new Answer(ids, cut(tokenizer.decode(ids), config.stopStrings())))
                        .toList();
    }

    /// As [#answers], without text.
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

    /// One prompt with what follows it.
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

        /// Takes the next token, by `logits` (V), which are overwritten; an answer that has ended goes on unheard.
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

    /// The likeliest token, or one drawn from [Candidates]. Overwrites `logits`.
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
