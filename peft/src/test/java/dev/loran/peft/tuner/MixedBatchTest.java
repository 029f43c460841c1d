package dev.loran.peft.tuner;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.backend.ShapeException;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/// One batch whose rows use different adapters: each row's output is that of its adapter alone.
class MixedBatchTest {
    private final ReferenceBackend backend = new ReferenceBackend();

    @ParameterizedTest
    @CsvSource({
        "llama, false", "gpt2, false", "bert, false", "bert-head, false", "seo, false",
        "llama, true", "gpt2, true", "bert, true", "bert-head, true", "seo, true"
    })
    void everyRowAnswersAsItsAdapterAlone(String family, boolean masked) {
        try (Model model = Subjects.model(family, backend, DType.F32);
                PeftModel peft = new PeftModel(model, 7);
                Scope scope = Scope.open()) {
            Subjects.mixable(family).forEach((name, config) -> Subjects.add(peft, name, config));
            // Every kind once, some twice, and the base, in an order that sorting must undo.
            List<String> names = new ArrayList<>(peft.adapters().keySet());
            names.addAll(List.of("lora", "ia3", "prefix", "prompt", PeftModel.BASE, PeftModel.BASE));
            Collections.shuffle(names, new Random(3));
            check(peft, names, masked);
            // Prefixes of equal length need no hidden keys, and without virtual tokens the text keeps its positions.
            check(peft, List.of("prefix", "prefix"), masked);
            check(peft, List.of("lora", PeftModel.BASE, "houlsby", "lora"), masked);
            check(peft, List.of("prefix", "lora", "short prefix"), masked);
        }
        assertThat(backend.liveBuffers()).isZero();
    }

    private static void check(PeftModel peft, List<String> names, boolean masked) {
        Model model = peft.model();
        List<String> active = peft.activeAdapters();
        Tensor ids = Subjects.ids(model, names.size());
        Tensor mask = masked ? Subjects.mask(model, names.size()) : null;
        Tensor together = peft.logits(ids, mask, names);
        assertThat(together.requiresGrad()).isFalse();
        assertThat(peft.activeAdapters()).isEqualTo(active);
        double[] all = together.toDoubles();
        int width = all.length / names.size();
        Map<String, double[]> alone = new LinkedHashMap<>();
        for (int row = 0; row < names.size(); row++) {
            String name = names.get(row);
            double[] expected = alone.computeIfAbsent(name, n -> alone(peft, n, ids, mask));
            int own = expected.length / names.size();
            double[] want = Arrays.copyOfRange(expected, row * own, (row + 1) * own);
            double[] got = Arrays.copyOfRange(all, (row + 1) * width - own, (row + 1) * width);
            assertThat(Subjects.distance(got, want)).as(name + " in row " + row).isLessThan(1e-5);
        }
        peft.setAdapter(active);
    }

    private static double[] alone(PeftModel peft, String name, Tensor ids, @Nullable Tensor mask) {
        if (!name.equals(PeftModel.BASE)) {
            peft.setAdapter(name);
            return Subjects.logits(peft, ids, mask);
        }
        try (PeftModel.Disabled base = peft.disableAdapter()) {
            return Subjects.logits(peft, ids, mask);
        }
    }

    @Test
    void whatCannotShareABatchIsRefused() {
        try (Model model = Subjects.model("gpt2", backend, DType.F32);
                PeftModel peft = new PeftModel(model, 7);
                Scope scope = Scope.open()) {
            Subjects.add(peft, "a", LoraConfig.defaults());
            Subjects.add(peft, "b", LoraConfig.defaults().withBias(LoraConfig.Bias.ALL));
            Tensor ids = Subjects.ids(model, 2);
            assertThatThrownBy(() -> peft.logits(ids, null, List.of("a", "c")))
                    .isInstanceOf(InputException.class)
                    .hasMessage("adapter c does not exist; there are [a, b]");
            assertThatThrownBy(() -> peft.logits(ids, null, List.of("a")))
                    .isInstanceOf(ShapeException.class)
                    .hasMessage("logits: inputIds is (2, 5) but there are 1 adapter names; needs one name a row");
            assertThatThrownBy(() -> peft.logits(ids, null, List.of("a", "b")))
                    .isInstanceOf(InputException.class)
                    .hasMessage("adapter b (LORA) trains biases of the base itself"
                            + " (base_model.model.transformer.h.0.ln_1.bias, …) and can only be active alone;"
                            + " train it with bias none to have it beside others");
            model.train(true);
            assertThatThrownBy(() -> peft.logits(ids, null, List.of("a", "a")))
                    .isInstanceOf(IllegalStateException.class)
                    .hasMessage("logits: the model is in training mode, but rows with adapters of their own are for"
                            + " inference; call train(false) on the model");
            model.train(false);
            peft.mergeAdapter();
            assertThatThrownBy(() -> peft.logits(ids, null, List.of("a", "a")))
                    .isInstanceOf(IllegalStateException.class)
                    .hasMessage("logits: adapters [a] are merged into the model; call unmergeAdapter() first");
            peft.unmergeAdapter();
            assertThat(peft.logits(ids, null, List.of("a", PeftModel.BASE))
                            .shape()
                            .dims())
                    .containsExactly(2, Subjects.LENGTH, Subjects.VOCAB);
            assertThatThrownBy(() -> peft.addAdapter(PeftModel.BASE, LoraConfig.defaults()))
                    .isInstanceOf(InputException.class)
                    .hasMessage("addAdapter: \"__base__\" is no adapter name; it may hold no dot and no slash, and"
                            + " __base__ means the base");
        }
        assertThat(backend.liveBuffers()).isZero();
    }

    @Test
    void aTextThatDoesNotFitBehindItsPrefixIsRefusedThoughOthersFit() {
        try (Model model = Subjects.model("seo", backend, DType.F32);
                PeftModel peft = new PeftModel(model, 7);
                Scope scope = Scope.open()) {
            Subjects.add(peft, "long", PrefixTuningConfig.of(12));
            Subjects.add(peft, "short", PrefixTuningConfig.of(11));
            assertThatThrownBy(() -> peft.logits(Subjects.ids(model, 2), null, List.of("short", "long")))
                    .isInstanceOf(ShapeException.class)
                    .hasMessage("seo: 17 positions (prefix 12, virtual tokens and text 5) but the model has 16;"
                            + " shorten the text");
            // The failed call had no side effects.
            check(peft, List.of("short", PeftModel.BASE), false);
        }
        assertThat(backend.liveBuffers()).isZero();
    }

    @Test
    void theProductWithTheWeightRunsOnceForAllRows() {
        // The smallest weight of the model is (12, 12); LoRA's have a side of 3.
        CountingBackend counting = new CountingBackend(12);
        try (Model model = Subjects.model("llama", counting, DType.F32);
                PeftModel peft = new PeftModel(model, 7);
                Scope scope = Scope.open()) {
            Subjects.mergeable("llama").forEach((name, config) -> {
                // Rows of a fully trained layer do not need the frozen one.
                if (!name.equals("lora with base biases") && !name.equals("lora and whole modules")) {
                    Subjects.add(peft, name, config);
                }
            });
            List<String> names = new ArrayList<>(peft.adapters().keySet());
            names.add(PeftModel.BASE);
            counting.rows.clear();
            peft.logits(Subjects.ids(model, names.size()), null, names);
            int all = names.size() * Subjects.LENGTH;
            // q, k, v, o, gate, up, down of two layers, and the head.
            assertThat(counting.rows.get(all)).isEqualTo(2 * 7 + 1);
        }
    }
}
