package dev.loran.peft.generation;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.backend.ShapeException;
import dev.loran.kernels.Backends;
import dev.loran.peft.data.TinyTokenizers;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.generation.Generation.Answer;
import dev.loran.peft.hf.HfModels;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import dev.loran.peft.train.Tiny;
import dev.loran.peft.tuner.PeftModel;
import java.io.IOException;
import java.net.URISyntaxException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.BitSet;
import java.util.Comparator;
import java.util.List;
import java.util.Objects;
import java.util.SplittableRandom;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestFactory;

/// Generation compared with Hugging Face's (`fixtures/generation.json`, written by `benchmarks/peers/generation.py`),
/// and what ends an answer.
class GenerationTest {
    private static final int[][] PROMPTS = {{2, 4, 5}, {9}, {6, 10, 4, 8, 11}};

    // ---- compared with Hugging Face

    @TestFactory
    Stream<DynamicTest> answersAreThoseOfHuggingFace() throws IOException, URISyntaxException {
        List<DynamicTest> tests = new ArrayList<>();
        for (JsonNode c : golden().get("cases")) {
            String name =
                    "%s/%s, penalty %s".formatted(text(c, "family"), text(c, "method"), c.get("repetition_penalty"));
            tests.add(DynamicTest.dynamicTest(name + " on the reference", () -> check(c, new ReferenceBackend())));
            tests.add(DynamicTest.dynamicTest(name + " on the best backend", () -> check(c, Backends.best())));
        }
        assertThat(tests).isNotEmpty();
        return tests.stream();
    }

    private static void check(JsonNode c, Backend backend) throws URISyntaxException {
        Path family = fixtures().resolve("hf").resolve(text(c, "family"));
        int[][] expected = ints(c.get("answers"));
        try (backend;
                Model model = HfModels.load(family.resolve("base"), backend);
                PeftModel peft = new PeftModel(model, 7)) {
            if (!text(c, "method").equals("base")) {
                peft.loadAdapter("default", family.resolve(text(c, "method")).resolve("adapter_final"));
            }
            model.train(false);
            GenerationConfig config = GenerationConfig.greedy(expected[0].length)
                    .withRepetitionPenalty(c.get("repetition_penalty").doubleValue());
            assertThat(Generation.tokens(model, ints(c.get("prompts")), config).toArray(int[][]::new))
                    .isDeepEqualTo(expected);
        }
    }

    @Test
    void distributionsAreThoseOfHuggingFace() throws IOException, URISyntaxException {
        int cases = 0;
        for (JsonNode d : golden().get("distributions")) {
            float[] logits = new float[d.get("logits").size()];
            for (int i = 0; i < logits.length; i++) {
                logits[i] = d.get("logits").get(i).floatValue();
            }
            BitSet seen = new BitSet();
            d.get("seen").forEach(id -> seen.set(id.intValue()));
            BitSet prompt = new BitSet();
            d.get("prompt").forEach(id -> prompt.set(id.intValue()));
            Generation.penalise(
                    logits, prompt, 1 / d.get("encoder_repetition_penalty").doubleValue());
            Generation.penalise(logits, seen, d.get("repetition_penalty").doubleValue());
            GenerationConfig config = GenerationConfig.greedy(1)
                    .withSampling(
                            d.get("temperature").doubleValue(),
                            d.get("top_k").intValue(),
                            d.get("top_p").doubleValue(),
                            1);
            Candidates drawn = new Candidates(logits, config);
            double[] p = new double[logits.length];
            for (int i = 0; i < drawn.ids().length; i++) {
                p[drawn.ids()[i]] = drawn.probabilities()[i];
            }
            for (int i = 0; i < p.length; i++) {
                double expected = d.get("probabilities").get(i).doubleValue();
                assertThat(p[i]).as("probability of %d in %s", i, config).isCloseTo(expected, within(1e-6));
                assertThat(p[i] > 0).as("%d may be drawn in %s", i, config).isEqualTo(expected > 0);
            }
            cases++;
        }
        assertThat(cases).isPositive();
    }

    private static JsonNode golden() throws IOException, URISyntaxException {
        return new ObjectMapper().readTree(fixtures().resolve("generation.json").toFile());
    }

    private static Path fixtures() throws URISyntaxException {
        return Path.of(Objects.requireNonNull(GenerationTest.class.getResource("/fixtures"))
                .toURI());
    }

    private static String text(JsonNode node, String field) {
        return node.get(field).textValue();
    }

    private static int[][] ints(JsonNode lists) {
        int[][] all = new int[lists.size()][];
        Arrays.setAll(
                all,
                i -> IntStream.range(0, lists.get(i).size())
                        .map(j -> lists.get(i).get(j).intValue())
                        .toArray());
        return all;
    }

    @Test
    void encoderRepetitionPenaltyKeepsToThePrompt() throws URISyntaxException {
        try (Backend backend = Backends.best();
                Model model = HfModels.load(fixtures().resolve("hf/llama/base"), backend)) {
            model.train(false);
            int[][] prompts = {{5, 17, 40, 61, 77, 93}, {12, 13, 31, 32, 55, 56, 90, 91}};
            GenerationConfig config = GenerationConfig.greedy(12);
            assertThat(ofPrompts(prompts, Generation.tokens(model, prompts, config)))
                    .isLessThan(12);
            // A factor so high that any logit of the prompts' tokens that is positive exceeds all others.
            assertThat(ofPrompts(prompts, Generation.tokens(model, prompts, config.withEncoderRepetitionPenalty(1e5))))
                    .isEqualTo(24);
        }
    }

    @Test
    void frequencyPenaltyStopsRepetition() throws URISyntaxException {
        try (Backend backend = Backends.best();
                Model model = HfModels.load(fixtures().resolve("hf/llama/base"), backend)) {
            model.train(false);
            int[][] prompts = {{5, 17, 40}, {61, 61, 61, 61}};
            GenerationConfig config = GenerationConfig.greedy(30);
            for (int[] answer : Generation.tokens(model, prompts, config)) {
                assertThat(Arrays.stream(answer).distinct().count()).isLessThan(30);
            }
            for (int[] answer : Generation.tokens(model, prompts, config.withFrequencyPenalty(1000))) {
                assertThat(answer).doesNotHaveDuplicates();
            }
            // A token of the prompt has not been answered yet.
            GenerationConfig kept = config.withEncoderRepetitionPenalty(1e5).withMaxNewTokens(1);
            assertThat(Generation.tokens(model, prompts, kept.withFrequencyPenalty(1000))
                            .getLast())
                    .isEqualTo(Generation.tokens(model, prompts, kept).getLast());
        }
    }

    /// The number of tokens of the answers that are in their prompts.
    private static long ofPrompts(int[][] prompts, List<int[]> answers) {
        return IntStream.range(0, prompts.length)
                .mapToLong(i -> Arrays.stream(answers.get(i))
                        .filter(id -> Arrays.stream(prompts[i]).anyMatch(p -> p == id))
                        .count())
                .sum();
    }

    // ---- sampling

    @Test
    void tokensAreDrawnAsOftenAsTheirProbabilitiesSay() {
        float[] logits = {0.5f, -1, 2, 1.5f, -3, 0, 1};
        GenerationConfig config = GenerationConfig.greedy(1).withSampling(1.3, 6, 0.9, 1);
        Candidates allowed = new Candidates(logits, config);
        int draws = 20_000;
        int[] count = new int[logits.length];
        SplittableRandom random = new SplittableRandom(11);
        for (int i = 0; i < draws; i++) {
            count[Generation.choose(logits.clone(), config, random)]++;
        }
        double chiSquare = 0;
        for (int i = 0; i < allowed.ids().length; i++) {
            double expected = draws * allowed.probabilities()[i];
            chiSquare += Math.pow(count[allowed.ids()[i]] - expected, 2) / expected;
            count[allowed.ids()[i]] = 0;
        }
        assertThat(allowed.ids()).containsExactly(2, 3, 6, 0, 5);
        // Four degrees of freedom: 18.5 is exceeded by one seed in a thousand.
        assertThat(chiSquare).isBetween(0.01, 18.5);
        assertThat(count).containsOnly(0);
    }

    @Test
    void cutsKeepAtLeastOneTokenAndTheSmallerIdOfEquals() {
        float[] logits = {1, 3, 3, 2, 3};
        assertThat(candidates(logits, 0, 1e-9).ids()).containsExactly(1);
        assertThat(candidates(logits, 2, 1).ids()).containsExactly(1, 2);
        assertThat(candidates(logits, 9, 1).ids()).containsExactly(1, 2, 4, 3, 0);
        assertThat(candidates(new float[] {-1, -2, Float.NEGATIVE_INFINITY, 0}, 3, 1)
                        .ids())
                .containsExactly(3, 0, 1);
        // Probabilities of a half and two quarters: a token is kept depending on the sum before it.
        float half = (float) Math.log(2);
        assertThat(candidates(new float[] {0, half, 0}, 0, 0.49).ids()).containsExactly(1);
        assertThat(candidates(new float[] {0, half, 0}, 0, 0.51).ids()).containsExactly(1, 0);
        assertThat(candidates(new float[] {0, half, 0}, 0, 0.76).ids()).containsExactly(1, 0, 2);
    }

    /// The plain algorithm, which always sorts all tokens.
    private static int drawnFromAllSorted(float[] logits, GenerationConfig config, SplittableRandom random) {
        int[] ids = IntStream.range(0, logits.length)
                .boxed()
                .sorted(Comparator.comparingDouble((Integer id) -> -logits[id]).thenComparing(id -> id))
                .mapToInt(id -> id)
                .limit(config.topK() == 0 ? logits.length : config.topK())
                .toArray();
        double[] p = Arrays.stream(ids)
                .mapToDouble(id -> Math.exp((logits[id] - (double) logits[ids[0]]) / config.temperature()))
                .toArray();
        double sum = Arrays.stream(p).sum();
        int kept = 1;
        for (double before = p[0]; kept < p.length && before < config.topP() * sum; kept++) {
            before += p[kept];
        }
        double whole = Arrays.stream(p, 0, kept).sum();
        double left = random.nextDouble();
        int i = 0;
        while (i < kept - 1 && left >= p[i] / whole) {
            left -= p[i++] / whole;
        }
        return ids[i];
    }

    @Test
    void drawsAsIfAllTokensWereSorted() {
        SplittableRandom values = new SplittableRandom(21);
        for (int vocabulary : new int[] {1, 7, 33, 1000}) {
            for (int topK : new int[] {0, 1, 5, 2000}) {
                for (double topP : new double[] {0.05, 0.9, 1}) {
                    GenerationConfig config = GenerationConfig.greedy(1).withSampling(0.7, topK, topP, 1);
                    for (int seed = 0; seed < 30; seed++) {
                        float[] logits = new float[vocabulary];
                        for (int i = 0; i < vocabulary; i++) {
                            // Rounded, so that some are equal.
                            logits[i] = Math.round(8 * values.nextGaussian()) / 4f;
                        }
                        assertThat(Generation.choose(logits.clone(), config, new SplittableRandom(seed)))
                                .as("%d tokens, %s, seed %d", vocabulary, config, seed)
                                .isEqualTo(drawnFromAllSorted(logits, config, new SplittableRandom(seed)));
                    }
                }
            }
        }
    }

    private static Candidates candidates(float[] logits, int topK, double topP) {
        return new Candidates(logits, GenerationConfig.greedy(1).withSampling(1, topK, topP, 1));
    }

    @Test
    void theSeedDecidesWhatIsDrawn() {
        try (ReferenceBackend backend = new ReferenceBackend();
                Model model = Tiny.causal(backend, DType.F32)) {
            GenerationConfig config = GenerationConfig.greedy(12).withSampling(1, 0, 1, 3);
            int[][] first = Generation.tokens(model, PROMPTS, config).toArray(int[][]::new);
            int buffers = backend.liveBuffers();
            assertThat(Generation.tokens(model, PROMPTS, config).toArray(int[][]::new))
                    .isDeepEqualTo(first);
            assertThat(Generation.tokens(model, new int[][] {PROMPTS[0]}, config)
                            .getFirst())
                    .isEqualTo(first[0]);
            assertThat(Generation.tokens(model, PROMPTS, config.withSampling(1, 0, 1, 4))
                            .toArray(int[][]::new))
                    .isNotEqualTo(first);
            List<int[]> twice = Generation.tokens(model, new int[][] {PROMPTS[0], PROMPTS[0]}, config);
            assertThat(twice.getFirst()).isEqualTo(first[0]).isNotEqualTo(twice.getLast());
            assertThat(backend.liveBuffers()).isEqualTo(buffers);
        }
    }

    // ---- the most likely token, and the end

    @Test
    void theLikeliestTokenIsTakenWhateverElseIsInTheBatch() {
        try (ReferenceBackend backend = new ReferenceBackend();
                Model model = Tiny.causal(backend, DType.F32)) {
            List<int[]> answers = Generation.tokens(model, PROMPTS, GenerationConfig.greedy(6));
            for (int i = 0; i < PROMPTS.length; i++) {
                assertThat(answers.get(i)).isEqualTo(likeliest(model, PROMPTS[i], 6));
            }
        }
    }

    /// Recomputes the whole text for each token.
    private static int[] likeliest(Model model, int[] prompt, int count) {
        int[] ids = Arrays.copyOf(prompt, prompt.length + count);
        for (int n = prompt.length; n < ids.length; n++) {
            try (Scope scope = Scope.open()) {
                double[] logits = model.logits(Tensor.ofInts(model.backend(), Arrays.copyOf(ids, n), 1, n), null)
                        .slice(1, n - 1, n)
                        .toDoubles();
                ids[n] = IntStream.range(0, logits.length)
                        .reduce((a, b) -> logits[b] > logits[a] ? b : a)
                        .orElseThrow();
            }
        }
        return Arrays.copyOfRange(ids, prompt.length, ids.length);
    }

    @Test
    void anEndTokenEndsItsAnswerAlone() {
        try (ReferenceBackend backend = new ReferenceBackend();
                Model model = Tiny.causal(backend, DType.F32)) {
            GenerationConfig config = GenerationConfig.greedy(8).withSampling(2, 0, 1, 5);
            List<int[]> whole = Generation.tokens(model, PROMPTS, config);
            int end = whole.getFirst()[4];
            List<int[]> ended = Generation.tokens(model, PROMPTS, config.withEosTokenIds(List.of(end)));
            for (int i = 0; i < PROMPTS.length; i++) {
                int[] expected =
                        Arrays.stream(whole.get(i)).takeWhile(id -> id != end).toArray();
                assertThat(ended.get(i)).isEqualTo(expected);
            }
            assertThat(ended.getFirst()).hasSizeLessThan(5);
        }
    }

    @Test
    void aStopStringIsCutAndEndsTheAnswer() {
        try (ReferenceBackend backend = new ReferenceBackend();
                Tokenizer tokenizer = TinyTokenizers.wordPiece();
                Model model = Tiny.causal(backend, DType.F32)) {
            // Sampled with a seed for which the answer does not end by itself.
            GenerationConfig config = IntStream.range(0, 200)
                    .mapToObj(seed -> GenerationConfig.greedy(18).withSampling(1, 0, 1, seed))
                    .filter(c -> answer(model, tokenizer, c).ids().length == 18)
                    .findFirst()
                    .orElseThrow();
            Answer whole = answer(model, tokenizer, config);
            assertThat(whole.ids()).hasSize(18);
            assertThat(whole.text()).isEqualTo(tokenizer.decode(whole.ids()));
            List<String> words = List.of(whole.text().split(" "));
            String stop =
                    words.stream().filter(w -> words.indexOf(w) > 2).findFirst().orElseThrow();
            Answer stopped = answer(model, tokenizer, config.withStopStrings(List.of("never said", stop)));
            assertThat(stopped.text())
                    .isEqualTo(whole.text().substring(0, whole.text().indexOf(stop)));
            int needed = 1;
            while (!tokenizer.decode(Arrays.copyOf(whole.ids(), needed)).contains(stop)) {
                needed++;
            }
            assertThat(stopped.ids())
                    .isEqualTo(Arrays.copyOf(whole.ids(), needed))
                    .hasSizeLessThan(18);
            assertThatThrownBy(() -> Generation.tokens(
                            model, PROMPTS, GenerationConfig.greedy(3).withStopStrings(List.of("x"))))
                    .isInstanceOf(IllegalArgumentException.class)
                    .hasMessage(
                            "generation: stop strings [x] need a tokenizer; call answers(), or give the ids that end"
                                    + " a text");
        }
    }

    @Test
    void anAnswerKeepsItsLimitOfCharactersAndEndsAsSoonAsItPassesIt() {
        try (ReferenceBackend backend = new ReferenceBackend();
                Tokenizer tokenizer = TinyTokenizers.wordPiece();
                Model model = Tiny.causal(backend, DType.F32)) {
            GenerationConfig config = IntStream.range(0, 200)
                    .mapToObj(seed -> GenerationConfig.greedy(18).withSampling(1, 0, 1, seed))
                    .filter(c -> answer(model, tokenizer, c).end() == Generation.End.TOKENS)
                    .findFirst()
                    .orElseThrow();
            Answer whole = answer(model, tokenizer, config);
            int length = TextLimit.length(whole.text());
            for (int limit = 1; limit < length; limit++) {
                Answer answer = answer(model, tokenizer, config.withMaxChars(limit));
                assertThat(answer.end()).isEqualTo(Generation.End.CHARACTERS);
                int needed = 1;
                while (TextLimit.length(tokenizer.decode(Arrays.copyOf(whole.ids(), needed))) <= limit) {
                    needed++;
                }
                assertThat(answer.ids()).isEqualTo(Arrays.copyOf(whole.ids(), needed));
                assertThat(answer.text()).isEqualTo(TextLimit.cut(whole.text(), limit));
                assertThat(TextLimit.length(answer.text())).isBetween(1, limit);
            }
            Answer exact = answer(model, tokenizer, config.withMaxChars(length));
            assertThat(exact.text()).isEqualTo(whole.text());
            assertThat(exact.end()).isEqualTo(Generation.End.TOKENS);
            // The end token still ends an answer that is exactly as long as allowed.
            int last = whole.ids()[17];
            int before =
                    (int) Arrays.stream(whole.ids()).takeWhile(id -> id != last).count();
            String ended = tokenizer.decode(Arrays.copyOf(whole.ids(), before));
            Answer byItself = answer(
                    model,
                    tokenizer,
                    config.withEosTokenIds(List.of(last)).withMaxChars(Math.max(1, TextLimit.length(ended))));
            assertThat(byItself.text()).isEqualTo(ended);
            assertThat(byItself.end()).isEqualTo(Generation.End.TOKEN);
            assertThatThrownBy(() -> Generation.tokens(
                            model, PROMPTS, GenerationConfig.greedy(3).withMaxChars(9)))
                    .isInstanceOf(IllegalArgumentException.class)
                    .hasMessage("generation: maxChars 9 needs a tokenizer; call answers(), or limit the tokens");
        }
    }

    private static Answer answer(Model model, Tokenizer tokenizer, GenerationConfig config) {
        return Generation.answers(model, tokenizer, new int[][] {PROMPTS[0]}, config)
                .getFirst();
    }

    // ---- errors

    @Test
    void anAnswerThatHasNoRoomIsRefused() {
        try (ReferenceBackend backend = new ReferenceBackend();
                Model model = Tiny.causal(backend, DType.F32)) {
            assertThat(Generation.tokens(model, PROMPTS, GenerationConfig.greedy(19))
                            .getFirst())
                    .hasSize(19);
            assertThatThrownBy(() -> Generation.tokens(model, PROMPTS, GenerationConfig.greedy(20)))
                    .isInstanceOf(ShapeException.class)
                    .hasMessage(
                            "generation: 20 new tokens behind a prompt of 5 positions, prefix and virtual tokens among"
                                    + " them, but seo has 24; shorten the prompt, or ask for fewer");
        }
    }

    @Test
    void whatMakesNoSenseIsRefused() {
        GenerationConfig config = GenerationConfig.greedy(3);
        assertThatThrownBy(() -> GenerationConfig.greedy(0))
                .isInstanceOf(InputException.class)
                .hasMessage("maxNewTokens is 0, must be at least 1");
        assertThatThrownBy(() -> config.withSampling(0, 1, 1, 1))
                .hasMessage("temperature is 0.0, must be positive; for the likeliest token each time, do not sample");
        assertThatThrownBy(() -> config.withSampling(Double.NaN, 1, 1, 1)).hasMessageContaining("temperature is NaN");
        assertThatThrownBy(() -> config.withSampling(1, -1, 1, 1))
                .hasMessage("topK is -1, must be at least 1, or 0 for all tokens");
        assertThatThrownBy(() -> config.withSampling(1, 1, 0, 1))
                .hasMessage("topP is 0.0, must be above 0 and at most 1");
        assertThatThrownBy(() -> config.withSampling(1, 1, 1.5, 1))
                .hasMessage("topP is 1.5, must be above 0 and at most 1");
        assertThatThrownBy(() -> config.withEncoderRepetitionPenalty(-1.15))
                .hasMessage("encoderRepetitionPenalty is -1.15, must be positive");
        assertThatThrownBy(() -> config.withFrequencyPenalty(Double.NaN))
                .hasMessage("frequencyPenalty is NaN, must be a number");
        assertThatThrownBy(() -> config.withRepetitionPenalty(0))
                .hasMessage("repetitionPenalty is 0.0, must be positive");
        assertThatThrownBy(() -> config.withStopStrings(List.of("a", "")))
                .hasMessage("stopStrings is [a, ], must be without empty ones");
        assertThatThrownBy(() -> config.withMaxChars(-1))
                .hasMessage("maxChars is -1, must be at least 1, or 0 for no limit");
    }
}
