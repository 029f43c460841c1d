package dev.loran.peft.tuner;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/// The rules of weighted merging on plain arrays, and the adapters that cannot be combined.
class CombinationTest {
    @Test
    void pruningKeepsTheLargest() {
        double[] x = {3, -4, 0.5, 1, -1, 2, -0.1};
        double[] y = {1, 1, 1, 1, 1, 1, 1};
        double[] w = {2, 10};
        assertThat(new Combination.MagnitudePrune(0.6).combine(List.of(x, y), w, 0))
                .containsExactly(6 + 10, -8 + 10, 10, 2 + 10, 0, 4, 0);
        assertThat(new Combination.MagnitudePrune(0.1).combine(List.of(x, y), w, 0))
                .containsOnly(0);
        assertThat(new Combination.MagnitudePrune(1).combine(List.of(x, y), w, 0))
                .containsExactly(6 + 10, -8 + 10, 1 + 10, 2 + 10, -2 + 10, 4 + 10, -0.2 + 10);
    }

    @Test
    void dareKeepsTheExpectation() {
        int n = 20_000;
        double[] x = new double[n];
        double[] y = new double[n];
        Arrays.fill(x, 1);
        Arrays.fill(y, -3);
        double[] w = {2, 1};
        double[] linear = new Combination.DareLinear(0.25, 5).combine(List.of(x, y), w, 9);
        // 2 · 4 with probability 1/4 and −3 · 4 with probability 1/4, independently.
        assertThat(Arrays.stream(linear).distinct().sorted().toArray()).containsExactly(-12, -4, 0, 8);
        assertThat(Arrays.stream(linear).average().orElseThrow()).isCloseTo(-1, within(0.25));
        assertThat(Arrays.stream(linear).filter(v -> v == -4).count() / (double) n)
                .isCloseTo(1 / 16.0, within(0.01));
        assertThat(new Combination.DareLinear(0.25, 5).combine(List.of(x, y), w, 9))
                .isEqualTo(linear);
        assertThat(new Combination.DareLinear(0.25, 6).combine(List.of(x, y), w, 9))
                .isNotEqualTo(linear);
        assertThat(new Combination.DareLinear(0.25, 5).combine(List.of(x, y), w, 8))
                .isNotEqualTo(linear);
        double[] elected = new Combination.DareTies(0.25, Combination.Sign.TOTAL, 5).combine(List.of(x, y), w, 9);
        // Where both are kept, the sign of the larger wins and the other is dropped.
        assertThat(Arrays.stream(elected).distinct().sorted().toArray()).containsExactly(-12, 0, 8);
        for (int i = 0; i < n; i++) {
            assertThat(elected[i]).isEqualTo(linear[i] == -4 ? -12 : linear[i]);
        }
    }

    @Test
    void whatCannotBeCombinedIsRefused() {
        ReferenceBackend backend = new ReferenceBackend();
        try (Model model = Subjects.model("llama", backend, DType.F32);
                PeftModel peft = new PeftModel(model, 7)) {
            LoraConfig lora = LoraConfig.defaults().withRank(2, 2);
            Subjects.add(peft, "lora", lora);
            Subjects.add(peft, "wide", lora.withRank(3, 3));
            Subjects.add(peft, "dora", lora.withDora(true));
            Subjects.add(peft, "lora_bias", lora.withLoraBias(true));
            Subjects.add(peft, "biases", lora.withBias(LoraConfig.Bias.ALL));
            Subjects.add(peft, "tokens", lora.withTrainableTokens(List.of(4, 9)));
            Subjects.add(peft, "pissa", lora.withInit(LoraInit.PISSA));
            Subjects.add(peft, "olora", lora.withInit(LoraInit.OLORA));
            Subjects.add(peft, "ada", AdaLoraConfig.defaults().withRanks(2, 2));
            Subjects.add(peft, "ia3", Ia3Config.defaults());
            Subjects.add(peft, "prompt", PromptTuningConfig.of(2));
            Combination cat = Combination.cat();
            Combination linear = Combination.linear();
            String cannot = "addWeightedAdapter: adapter ";
            String are = " (LORA) cannot be combined: ";
            refused(
                    peft,
                    "dora",
                    cat,
                    cannot + "dora" + are + "use_dora: its update is no product of two thin matrices");
            refused(peft, "lora_bias", cat, cannot + "lora_bias" + are + "lora_bias: the biases of B would be lost");
            refused(
                    peft,
                    "biases",
                    cat,
                    cannot + "biases" + are + "bias: biases of the base that are trained beside would be lost");
            refused(
                    peft,
                    "tokens",
                    cat,
                    cannot + "tokens" + are + "trainable_token_indices: rows that are trained whole would be lost");
            for (String init : List.of("pissa", "olora")) {
                refused(
                        peft,
                        init,
                        linear,
                        cannot + init + are + "init_lora_weights " + init
                                + ": its update is a difference of two products; use cat, svd or a rule with _svd");
            }
            refused(peft, "ia3", cat, cannot + "ia3 (IA3) cannot be combined: it is no sum of low-rank updates");
            refused(
                    peft,
                    "prompt",
                    cat,
                    cannot + "prompt (PROMPT_TUNING) cannot be combined: it is no sum of low-rank updates");
            refused(
                    peft,
                    "ada",
                    linear,
                    cannot + "ada (ADALORA) cannot be combined: it has three factors, not two; use cat, svd or a rule"
                            + " with _svd");
            refused(
                    peft,
                    "wide",
                    linear,
                    "addWeightedAdapter: on model.layers.0.self_attn.q_proj adapters [lora, wide] have ranks [2, 3];"
                            + " factors are combined of one rank only, use cat, svd or a rule with _svd");
            refused(
                    () -> peft.addWeightedAdapter("x", List.of("lora"), List.of(1.0, 2.0), cat),
                    "addWeightedAdapter: adapters are [lora] but weights are [1.0, 2.0]; needs one weight an adapter,"
                            + " and at least one");
            refused(
                    () -> peft.addWeightedAdapter("x", List.of(), List.of(), cat),
                    "addWeightedAdapter: adapters are [] but weights are []; needs one weight an adapter, and at least"
                            + " one");
            refused(
                    () -> peft.addWeightedAdapter("x", List.of("lora"), List.of(Double.NaN), cat),
                    "addWeightedAdapter: weights are [NaN], must be finite");
            refused(
                    () -> peft.addWeightedAdapter("wide", List.of("lora"), List.of(1.0), cat),
                    "addAdapter: adapter wide exists already; delete it first");
            refused(
                    () -> Combination.named("slerp", 1, 0, 0),
                    "Combination: slerp is none; known are linear, cat, svd, and ties, dare_linear, dare_ties,"
                            + " magnitude_prune with or without _svd");
            refused(() -> Combination.named("ties", 0, 0, 0), "Combination: density is 0.0, must be in (0, 1]");
            refused(() -> Combination.svd(-1), "Combination: rank is -1, must be at least 0");
            assertThat(peft.adapters()).doesNotContainKey("x");
        }
        assertThat(backend.liveBuffers()).isZero();
    }

    /// One adapter trains a layer in full for which another has factors.
    @Test
    void aLayerTrainedWholeHasNoFactors() {
        ReferenceBackend backend = new ReferenceBackend();
        try (Model model = Subjects.model("bert-head", backend, DType.F64);
                PeftModel peft = new PeftModel(model, 7)) {
            LoraConfig lora = LoraConfig.defaults().withRank(2, 2);
            Subjects.add(peft, "lora", lora.withTargets(Targets.of("query", "classifier")));
            Subjects.add(peft, "head", lora.withModulesToSave(List.of("classifier")));
            refused(
                    peft,
                    "head",
                    Combination.cat(),
                    "addWeightedAdapter: classifier is trained whole by one adapter and has factors in another; leave one"
                            + " of the two out");
            assertThat(peft.adapters()).containsOnlyKeys("lora", "head");
        }
        assertThat(backend.liveBuffers()).isZero();
    }

    /// A random cut is stored in a separate file; without it the update is unknown.
    @Test
    void aLostCutIsNoUpdate(@TempDir Path folder) throws IOException {
        ReferenceBackend backend = new ReferenceBackend();
        try (Model model = Subjects.model("seo", backend, DType.F64);
                PeftModel peft = new PeftModel(model, 7)) {
            LoraConfig lora = LoraConfig.defaults().withRank(2, 2);
            Subjects.add(peft, "default", lora.withInit(LoraInit.pissa(2)));
            peft.savePretrained(folder);
            Files.delete(folder.resolve(AdapterFiles.TRAINING));
            peft.loadAdapter("lost", folder);
            Subjects.add(peft, "lora", lora);
            assertThatThrownBy(() ->
                            peft.addWeightedAdapter("x", List.of("lora", "lost"), List.of(1.0, 1.0), Combination.cat()))
                    .isInstanceOf(InputException.class)
                    .hasMessageStartingWith(
                            "init_lora_weights pissa_niter: what was cut out of layers.0.attention.w_q");
        }
        assertThat(backend.liveBuffers()).isZero();
    }

    private static void refused(PeftModel peft, String name, Combination how, String message) {
        refused(() -> peft.addWeightedAdapter("x", List.of("lora", name), List.of(0.5, 0.5), how), message);
    }

    private static void refused(Runnable call, String message) {
        assertThatThrownBy(call::run).isInstanceOf(InputException.class).hasMessage(message);
    }
}
