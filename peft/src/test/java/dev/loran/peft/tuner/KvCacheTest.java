package dev.loran.peft.tuner;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.backend.ShapeException;
import dev.loran.kernels.Backends;
import dev.loran.peft.model.KvCache;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.decoder.LlamaModel;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.SplittableRandom;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;

/// Logits computed with cached keys and values equal those of the whole text, at every step, for texts of different
/// lengths in one batch, with every kind of adapter.
class KvCacheTest {
    private static final List<String> CAUSAL = List.of("llama", "gpt2", "seo");

    static Stream<Arguments> cases() {
        Stream<Arguments> everyMethod = CAUSAL.stream()
                .flatMap(f -> Stream.concat(
                                Stream.of("base", "merged", "checkpointed"), Subjects.mixable(f).keySet().stream())
                        .map(method -> Arguments.of(f, method)));
        Stream<Arguments> everyFamily = Subjects.CONFIGURED.stream()
                .flatMap(f -> Stream.of("base", "lora everywhere", "prefix", "prompt")
                        .map(method -> Arguments.of(f, method)));
        return Stream.concat(everyMethod, everyFamily);
    }

    @ParameterizedTest
    @MethodSource("cases")
    void cachedLogitsAreThoseOfTheWholeText(String family, String method) {
        ReferenceBackend backend = new ReferenceBackend();
        try (Model model = Subjects.model(family, backend, DType.F64);
                PeftModel peft = new PeftModel(model, 7)) {
            PeftConfig config = Subjects.mixable(family).get(method.equals("merged") ? "lora everywhere" : method);
            if (config != null) {
                Subjects.add(peft, method, config);
            }
            if (method.equals("merged")) {
                peft.mergeAdapter();
            }
            model.gradientCheckpointing(method.equals("checkpointed"));
            compare(model, List.of(random(1, 3), random(2, 1), random(3, 7)), new int[] {1, 1, 3}, 1e-10);
        }
        assertThat(backend.liveBuffers()).isZero();
    }

    @ParameterizedTest
    @ValueSource(strings = {"llama", "gpt2", "seo", "mistral", "gemma2", "phi3"})
    void soTheyAreOnTheBestBackendWithPackedWeights(String family) {
        try (Backend backend = Backends.best();
                Model model = Subjects.model(family, backend, DType.F32);
                PeftModel peft = new PeftModel(model, 7)) {
            Subjects.add(peft, "lora", LoraConfig.defaults().withRank(3, 5).withTargets(Targets.allLinear()));
            model.prepare();
            compare(model, List.of(random(1, 5), random(2, 7)), new int[] {1, 1, 1}, 1e-5);
        }
    }

    /// The memory of a cache grows in steps of 64 keys.
    @Test
    void aCacheGrows() {
        ReferenceBackend backend = new ReferenceBackend();
        LlamaModel.Config sizes = LlamaModel.Config.of(Subjects.VOCAB, 8, 12, 2, 2, 200);
        try (Model model = LlamaModel.random(sizes, backend, DType.F64, 1)) {
            Subjects.stir(model.namedParameters(), 0.3, 4);
            compare(model, List.of(random(1, 63), random(2, 33)), new int[] {1, 1, 64, 7}, 1e-10);
        }
        assertThat(backend.liveBuffers()).isZero();
    }

    static void compare(Model model, List<int[]> prompts, int[] steps, double tolerance) {
        List<int[]> texts = new ArrayList<>(prompts);
        try (KvCache cache = new KvCache(model)) {
            int[][] next = prompts.toArray(int[][]::new);
            for (int step = 0; step <= steps.length; step++) {
                try (Scope scope = Scope.open()) {
                    Tensor logits = cache.append(next);
                    assertThat(logits.shape().dims()).containsExactly(texts.size(), Subjects.VOCAB);
                    double[] all = logits.toDoubles();
                    for (int i = 0; i < texts.size(); i++) {
                        double[] row = Arrays.copyOfRange(all, i * Subjects.VOCAB, (i + 1) * Subjects.VOCAB);
                        assertThat(Subjects.distance(row, ofWholeText(model, texts.get(i))))
                                .as("text %d after %d steps", i, step)
                                .isLessThan(tolerance);
                    }
                }
                if (step < steps.length) {
                    int count = steps[step];
                    next = new int[texts.size()][];
                    for (int i = 0; i < next.length; i++) {
                        next[i] = random(10 * step + i, count);
                        texts.set(i, concat(texts.get(i), next[i]));
                    }
                }
            }
        }
    }

    private static double[] ofWholeText(Model model, int[] text) {
        Tensor logits = model.logits(Tensor.ofInts(model.backend(), text, 1, text.length), null);
        int positions = logits.shape().dim(1);
        return logits.slice(1, positions - 1, positions).toDoubles();
    }

    static int[] random(long seed, int n) {
        return new SplittableRandom(seed).ints(n, 0, Subjects.VOCAB).toArray();
    }

    private static int[] concat(int[] a, int[] b) {
        return IntStream.concat(Arrays.stream(a), Arrays.stream(b)).toArray();
    }

    @Test
    void aStepComputesTheNewTokensAlone() {
        CountingBackend backend = new CountingBackend(0);
        try (Model model = Subjects.model("llama", backend, DType.F32);
                KvCache cache = new KvCache(model);
                Scope scope = Scope.open()) {
            cache.append(random(1, 7), random(2, 5));
            // The head is applied only to the last token of each text.
            assertThat(backend.rows).isEqualTo(Map.of(2 * 7, 2 * 7, 2, 1));
            backend.rows.clear();
            cache.append(random(3, 1), random(4, 1));
            assertThat(backend.rows).isEqualTo(Map.of(2, 2 * 7 + 1));
        }
    }

    @Test
    void whatDoesNotFitIsSaidAndLeavesTheCacheAsItWas() {
        ReferenceBackend backend = new ReferenceBackend();
        try (Model model = Subjects.model("gpt2", backend, DType.F64);
                PeftModel peft = new PeftModel(model, 7);
                KvCache cache = new KvCache(model);
                Scope scope = Scope.open()) {
            Subjects.add(peft, "prompt", PromptTuningConfig.of(2));
            assertThatThrownBy(() -> cache.append(random(1, 3), new int[0]))
                    .isInstanceOf(ShapeException.class)
                    .hasMessage("kvCache: tokens are [3, 0], one number a text; needs at least one text, and a token of"
                            + " each");
            assertThatThrownBy(() -> cache.append(random(1, 15)))
                    .isInstanceOf(ShapeException.class)
                    .hasMessage(
                            "kvCache: the longest text would have 17 positions, prefix and virtual tokens among them,"
                                    + " but gpt2 has 16; shorten the text");
            assertThat(cache.room()).isEqualTo(16);
            cache.append(random(1, 3), random(2, 4));
            assertThat(cache.room()).isEqualTo(10);
            assertThatThrownBy(() -> cache.append(random(1, 1)))
                    .isInstanceOf(ShapeException.class)
                    .hasMessage("kvCache: tokens are [1], one number a text, but the cache has 2 texts; needs as many"
                            + " tokens for each of them");
            assertThatThrownBy(() -> cache.append(random(1, 1), random(1, 2)))
                    .isInstanceOf(ShapeException.class)
                    .hasMessageStartingWith("kvCache: tokens are [1, 2], one number a text, but the cache has 2 texts");
            assertThatThrownBy(() -> cache.append(random(1, 11), random(1, 11)))
                    .isInstanceOf(ShapeException.class)
                    .hasMessageStartingWith("kvCache: the longest text would have 17 positions");
            assertThat(cache.room()).isEqualTo(10);
            double[] row =
                    cache.append(new int[] {5}, new int[] {6}).slice(0, 0, 1).toDoubles();
            assertThat(Subjects.distance(row, ofWholeText(model, concat(random(1, 3), new int[] {5}))))
                    .isLessThan(1e-10);
            model.train(true);
            assertThatThrownBy(() -> new KvCache(model))
                    .isInstanceOf(IllegalStateException.class)
                    .hasMessage("kvCache: the model is in training mode; call train(false) on it first");
        }
        assertThat(backend.liveBuffers()).isZero();
        try (Model encoder = Subjects.model("bert", backend, DType.F64)) {
            assertThatThrownBy(() -> new KvCache(encoder))
                    .isInstanceOf(IllegalStateException.class)
                    .hasMessage("kvCache: bert is an encoder, which does not go on from a text; use a causal model");
        }
    }
}
