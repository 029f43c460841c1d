package dev.loran.peft.tuner;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/// Several adapters on one model: which are active, which are trained, and which can be combined.
class SeveralAdaptersTest {
    private final ReferenceBackend backend = new ReferenceBackend();

    @AfterEach
    void nothingIsLeft() {
        assertThat(backend.liveBuffers()).isZero();
    }

    @Test
    void activeTogetherTheirUpdatesAddUp() {
        try (Model model = Subjects.model("llama", backend, DType.F32);
                PeftModel peft = new PeftModel(model, 7);
                Scope scope = Scope.open()) {
            Tensor ids = Subjects.ids(model, 2);
            Tuner a = Subjects.add(peft, "a", LoraConfig.defaults().withRank(2, 3));
            Tuner b = Subjects.add(
                    peft,
                    "b",
                    LoraConfig.defaults().withRank(4, 2).withRslora(true).withTargets(Targets.of("v_proj", "up_proj")));
            Subjects.add(peft, "c", AdaLoraConfig.defaults().withRanks(3, 2));
            peft.setAdapter(List.of("a", "b"));
            assertThat(peft.activeAdapters()).containsExactly("a", "b");
            assertThat(Subjects.distance(Subjects.logits(peft, ids, null), oracle(a, 1.5, b, 1)))
                    .isLessThan(1e-5);
            assertThatThrownBy(peft::active)
                    .isInstanceOf(IllegalStateException.class)
                    .hasMessage("several are active; call setAdapter first, adapters are [a, b, c]");
            peft.setAdapter(List.of("c", "a", "b"));
            double[] all = Subjects.logits(peft, ids, null);
            MergeReport report = peft.mergeAdapter();
            assertThat(report.changes()).hasSize(2 * 3);
            assertThat(Subjects.distance(Subjects.logits(peft, ids, null), all)).isLessThan(1e-5);
            peft.unmergeAdapter();
            assertThat(Subjects.logits(peft, ids, null)).isEqualTo(all);
        }
    }

    @Test
    void anAdapterTrainsBesideFrozenOnes() {
        try (Model model = Subjects.model("llama", backend, DType.F32);
                PeftModel peft = new PeftModel(model, 7);
                Scope scope = Scope.open()) {
            Tensor ids = Subjects.ids(model, 2);
            Tuner a = Subjects.add(peft, "a", LoraConfig.defaults().withRank(2, 3));
            Tuner b = Subjects.add(peft, "b", LoraConfig.defaults().withRank(4, 2));
            peft.setAdapter(List.of("b", "a"));
            double[] both = Subjects.logits(peft, ids, null);
            long all = peft.parameterCount().totalParameters();
            peft.setAdapter("b", List.of("a"));
            assertThat(Subjects.logits(peft, ids, null)).isEqualTo(both);
            assertThat(peft.active()).isSameAs(b);
            assertThat(peft.activeAdapters()).containsExactly("b", "a");
            assertThat(peft.trainableParameters().keySet())
                    .isEqualTo(b.parameters().keySet());
            assertThat(peft.parameterCount().totalParameters()).isEqualTo(all);
            peft.loss(ids, null, ids).backward();
            assertThat(a.parameters().values()).allMatch(p -> p.grad() == null && !p.requiresGrad());
            assertThat(b.parameters().values()).allMatch(p -> p.grad() != null);
            try (PeftModel.Disabled off = peft.disableAdapter()) {
                assertThat(peft.trainableParameters()).isEmpty();
            }
            assertThat(a.parameters().values()).noneMatch(Tensor::requiresGrad);
            peft.setAdapter("a");
            assertThat(peft.trainableParameters().keySet())
                    .isEqualTo(a.parameters().keySet());
            assertThatThrownBy(() -> peft.setAdapter("a", List.of("a")))
                    .isInstanceOf(InputException.class)
                    .hasMessage("setAdapter: [a, a] names an adapter twice");
            b.parameters().values().forEach(Tensor::zeroGrad);
        }
    }

    /// Logits of a second model whose weights have both updates, summed in double precision.
    private double[] oracle(Tuner a, double scalingOfA, Tuner b, double scalingOfB) {
        try (Model model = Subjects.model("llama", backend, DType.F32);
                PeftModel bare = new PeftModel(model, 7);
                Scope scope = Scope.open()) {
            add(model, a, scalingOfA);
            add(model, b, scalingOfB);
            return Subjects.logits(bare, Subjects.ids(model, 2), null);
        }
    }

    private static void add(Model model, Tuner tuner, double scaling) {
        Set<String> modules = new LinkedHashSet<>();
        tuner.parameters().keySet().forEach(name -> modules.add(name.substring(0, name.indexOf(".lora_"))));
        for (String name : modules) {
            String module = name.substring("base_model.model.".length());
            Linear linear = (Linear) Objects.requireNonNull(model.namedModules().get(module));
            double[] delta = MergeTest.delta(tuner, name, scaling);
            double[] weight = linear.weight().toDoubles();
            for (int i = 0; i < weight.length; i++) {
                weight[i] += delta[i];
            }
            linear.weight()
                    .copyFrom(Tensor.of(
                            model.backend(),
                            DType.F32,
                            weight,
                            linear.weight().shape().dims()));
        }
    }

    @Test
    void differentSlotsTakeDifferentMethods() {
        try (Model model = Subjects.model("gpt2", backend, DType.F32);
                PeftModel peft = new PeftModel(model, 7);
                Scope scope = Scope.open()) {
            Tensor ids = Subjects.ids(model, 2);
            Subjects.add(peft, "lora", LoraConfig.defaults());
            Subjects.add(peft, "prefix", PrefixTuningConfig.of(3));
            Subjects.add(peft, "pfeiffer", BottleneckConfig.pfeiffer().withSize(2));
            Subjects.add(peft, "prompt", PromptTuningConfig.of(2));
            peft.setAdapter(List.of("lora", "prefix", "pfeiffer", "prompt"));
            double[] together = Subjects.logits(peft, ids, null);
            // The same with LoRA merged into the weights and the others active.
            peft.setAdapter("lora");
            peft.mergeAdapter();
            peft.unmergeAdapter();
            peft.setAdapter(List.of("prefix", "pfeiffer", "prompt"));
            double[] without = Subjects.logits(peft, ids, null);
            assertThat(Subjects.distance(without, together)).isGreaterThan(1e-3);
            try (Model second = Subjects.model("gpt2", backend, DType.F32);
                    PeftModel other = new PeftModel(second, 7)) {
                Subjects.add(other, "lora", LoraConfig.defaults());
                other.mergeAndUnload();
                try (PeftModel rest = new PeftModel(second, 7)) {
                    for (String name : List.of("prefix", "pfeiffer", "prompt")) {
                        Tuner from = Objects.requireNonNull(peft.adapters().get(name));
                        Tuner to = rest.addAdapter(name, from.config());
                        to.parameters()
                                .forEach((key, t) -> t.copyFrom(
                                        Objects.requireNonNull(from.parameters().get(key))));
                    }
                    rest.setAdapter(List.of("prompt", "prefix", "pfeiffer"));
                    assertThat(Subjects.distance(Subjects.logits(rest, ids, null), together))
                            .isLessThan(1e-5);
                }
            }
        }
    }

    @Test
    void whatDoesNotAddUpIsRefusedAndTheActiveStays() {
        try (Model model = Subjects.model("llama", backend, DType.F32);
                PeftModel peft = new PeftModel(model, 7);
                Scope scope = Scope.open()) {
            Subjects.add(peft, "lora", LoraConfig.defaults());
            Subjects.add(peft, "ia3", Ia3Config.defaults());
            Subjects.add(peft, "dora", LoraConfig.defaults().withDora(true));
            Subjects.add(peft, "p1", PrefixTuningConfig.of(1));
            Subjects.add(peft, "p2", PrefixTuningConfig.of(2));
            Subjects.add(peft, "t1", PromptTuningConfig.of(1));
            Subjects.add(peft, "t2", PromptTuningConfig.of(2));
            Subjects.add(peft, "b1", BottleneckConfig.houlsby().withSize(2));
            Subjects.add(peft, "b2", BottleneckConfig.pfeiffer().withSize(2));
            Subjects.add(peft, "biases", LoraConfig.defaults().withBias(LoraConfig.Bias.LORA_ONLY));
            String rest = " and do not add up there; only LoRA and AdaLoRA do, each adding a term to a layer's answer";
            String layer = "on model.layers.0.self_attn.v_proj";
            refused(peft, List.of("lora", "ia3"), "setAdapter: adapters lora (LORA), ia3 (IA3) meet " + layer + rest);
            refused(
                    peft,
                    List.of("dora", "lora"),
                    "setAdapter: adapters dora (LORA), lora (LORA) meet on model.layers.0.self_attn.q_proj" + rest);
            refused(
                    peft,
                    List.of("p1", "p2"),
                    "setAdapter: adapters p1 (PREFIX_TUNING), p2 (PREFIX_TUNING) meet in the attention's prefix"
                            + rest);
            refused(
                    peft,
                    List.of("t1", "lora", "t2"),
                    "setAdapter: adapters t1 (PROMPT_TUNING), t2 (PROMPT_TUNING) meet as virtual tokens before the text"
                            + rest);
            refused(
                    peft,
                    List.of("b1", "b2"),
                    "setAdapter: adapters b1 (BOTTLENECK), b2 (BOTTLENECK) meet behind the same sublayer" + rest);
            refused(peft, List.of("lora", "lora"), "setAdapter: [lora, lora] names an adapter twice");
            refused(
                    peft,
                    List.of("lora", "none"),
                    "adapter none does not exist; there are " + peft.adapters().keySet());
            refused(
                    peft,
                    List.of("p1", "biases"),
                    "adapter biases (LORA) trains biases of the base itself"
                            + " (base_model.model.model.layers.0.self_attn.q_proj.base_layer.bias, …) and can only be"
                            + " active alone; train it with bias none to have it beside others");
        }
    }

    private static void refused(PeftModel peft, List<String> names, String message) {
        Tensor ids = Subjects.ids(peft.model(), 1);
        double[] before = Subjects.logits(peft, ids, null);
        Set<Tensor> trained = trained(peft);
        assertThatThrownBy(() -> peft.setAdapter(names))
                .isInstanceOf(InputException.class)
                .hasMessage(message);
        assertThat(peft.activeAdapters()).containsExactly("lora");
        assertThat(Subjects.logits(peft, ids, null)).isEqualTo(before);
        assertThat(trained(peft)).isEqualTo(trained);
    }

    /// All tensors of the model and its adapters that collect gradients.
    private static Set<Tensor> trained(PeftModel peft) {
        Set<Tensor> all = new LinkedHashSet<>(peft.model().namedParameters().values());
        peft.adapters().values().forEach(t -> all.addAll(t.parameters().values()));
        all.removeIf(t -> !t.requiresGrad());
        return all;
    }

    @Test
    void onlyWhatIsActiveIsTrained() {
        try (Model model = Subjects.model("bert-head", backend, DType.F32);
                PeftModel peft = new PeftModel(model, 7);
                Scope scope = Scope.open()) {
            Subjects.mixable("bert-head").forEach((name, config) -> {
                // The second and all later ones are added while another is active.
                Subjects.add(peft, name, config);
                assertThat(peft.activeAdapters()).containsExactly("lora");
            });
            for (String name : peft.adapters().keySet()) {
                peft.setAdapter(name);
                Tuner tuner = peft.active();
                assertThat(trained(peft))
                        .isEqualTo(Set.copyOf(tuner.parameters().values()));
                assertThat(peft.trainableParameters()).isEqualTo(tuner.parameters());
                Tensor ids = Subjects.ids(model, 2);
                peft.loss(ids, null, Tensor.ofInts(backend, new int[] {1, 3}, 2))
                        .backward();
                tuner.parameters()
                        .forEach((key, t) -> assertThat(t.grad()).as(key).isNotNull());
            }
            peft.setAdapter(List.of("lora", "adalora", "prompt"));
            Set<Tensor> both = new LinkedHashSet<>();
            for (String name : List.of("lora", "adalora", "prompt")) {
                both.addAll(Objects.requireNonNull(peft.adapters().get(name))
                        .parameters()
                        .values());
            }
            assertThat(trained(peft)).isEqualTo(both);
            peft.loss(Subjects.ids(model, 2), null, Tensor.ofInts(backend, new int[] {1, 3}, 2))
                    .backward();
            both.forEach(t -> assertThat(t.grad()).isNotNull());
            long sizes = both.stream().mapToLong(t -> t.shape().size()).sum();
            assertThat(peft.parameterCount().trainableParameters()).isEqualTo(sizes);
            peft.deleteAdapter("adalora");
            assertThat(peft.activeAdapters()).containsExactly("lora", "prompt");
            peft.deleteAdapter("lora");
            peft.deleteAdapter("prompt");
            assertThat(peft.activeAdapter()).isNull();
            assertThat(trained(peft)).isEmpty();
            assertThat(Targets.candidates(model).values()).allMatch(layer -> layer.adapter() == null);
            assertThat(model.virtualTokens()).isNull();
        }
    }

    @Test
    void disablingNests() {
        try (Model model = Subjects.model("seo", backend, DType.F32);
                PeftModel peft = new PeftModel(model, 7);
                Scope scope = Scope.open()) {
            Tensor ids = Subjects.ids(model, 2);
            double[] bare = Subjects.logits(peft, ids, null);
            Subjects.add(peft, "a", LoraConfig.defaults());
            Subjects.add(peft, "b", PrefixTuningConfig.of(2));
            double[] a = Subjects.logits(peft, ids, null);
            PeftModel.Disabled outer = peft.disableAdapter();
            PeftModel.Disabled inner = peft.disableAdapter();
            assertThat(Subjects.logits(peft, ids, null)).isEqualTo(bare);
            assertThat(trained(peft)).isEmpty();
            assertThat(peft.activeAdapter()).isNull();
            assertThat(peft.activeAdapters()).isEmpty();
            inner.close();
            inner.close();
            assertThat(Subjects.logits(peft, ids, null))
                    .as("the outer one still holds")
                    .isEqualTo(bare);
            outer.close();
            assertThat(Subjects.logits(peft, ids, null)).isEqualTo(a);
            assertThat(trained(peft)).isNotEmpty();
            // A choice made meanwhile takes effect afterwards; a deleted adapter does not come back.
            try (PeftModel.Disabled disabled = peft.disableAdapter()) {
                peft.setAdapter("b");
                peft.deleteAdapter("a");
                Subjects.add(peft, "c", Ia3Config.defaults());
                assertThat(Subjects.logits(peft, ids, null)).isEqualTo(bare);
                assertThat(trained(peft)).isEmpty();
            }
            assertThat(peft.activeAdapter()).isEqualTo("b");
            PeftModel.Disabled late = peft.disableAdapter();
            peft.close();
            late.close();
            assertThat(model.logits(ids, null).toDoubles()).isEqualTo(bare);
        }
    }

    @Test
    void biasesOfTheBaseAreEachAdaptersOwn(@TempDir Path folder) {
        try (Model model = Subjects.model("gpt2", backend, DType.F32);
                PeftModel peft = new PeftModel(model, 7);
                Scope scope = Scope.open()) {
            Tensor ids = Subjects.ids(model, 2);
            Map<String, String> base = Subjects.bits(model);
            double[] bare = Subjects.logits(peft, ids, null);
            LoraConfig config = LoraConfig.defaults().withBias(LoraConfig.Bias.ALL);
            Subjects.add(peft, "a", config);
            double[] a = Subjects.logits(peft, ids, null);
            peft.savePretrained(folder);
            Subjects.add(peft, "b", config);
            assertThat(Subjects.logits(peft, ids, null))
                    .as("adding leaves the active one alone")
                    .isEqualTo(a);
            peft.setAdapter("b");
            assertThat(Subjects.distance(Subjects.logits(peft, ids, null), a)).isGreaterThan(1e-3);
            peft.loadAdapter("again", folder.resolve("a"));
            peft.setAdapter("again");
            assertThat(Subjects.logits(peft, ids, null)).isEqualTo(a);
            try (PeftModel.Disabled disabled = peft.disableAdapter()) {
                assertThat(Subjects.bits(model)).containsExactlyEntriesOf(base);
                assertThat(Subjects.logits(peft, ids, null)).isEqualTo(bare);
            }
            peft.deleteAdapter("again");
            assertThat(Subjects.bits(model)).containsExactlyEntriesOf(base);
        }
    }

    @Test
    void namesThatAreNoneAreRefused() {
        try (Model model = Subjects.model("seo", backend, DType.F32);
                PeftModel peft = new PeftModel(model, 7)) {
            for (String name : List.of("", " ", "a.b", "a/b", "a\\b", PeftModel.BASE)) {
                assertThatThrownBy(() -> peft.addAdapter(name, LoraConfig.defaults()))
                        .isInstanceOf(InputException.class)
                        .hasMessage("addAdapter: \"" + name + "\" is no adapter name; it may hold no dot and no slash,"
                                + " and __base__ means the base");
            }
            peft.addAdapter("a", LoraConfig.defaults());
            assertThatThrownBy(() -> peft.addAdapter("a", LoraConfig.defaults()))
                    .isInstanceOf(InputException.class)
                    .hasMessage("addAdapter: adapter a exists already; delete it first");
            for (String call : List.of("set", "delete")) {
                assertThatThrownBy(() -> {
                            if (call.equals("set")) {
                                peft.setAdapter("b");
                            } else {
                                peft.deleteAdapter("b");
                            }
                        })
                        .isInstanceOf(InputException.class)
                        .hasMessage("adapter b does not exist; there are [a]");
            }
        }
    }

    @Test
    void namesThatLookLikePartsOfKeysComeBackFromFiles(@TempDir Path folder) {
        List<String> names = List.of("weight", "lora_A", "lora_B", "bias", "lora", "q_proj", "modules_to_save");
        try (Model model = Subjects.model("bert-head", backend, DType.F32);
                PeftModel peft = new PeftModel(model, 7);
                Scope scope = Scope.open()) {
            LoraConfig config = LoraConfig.defaults().withModulesToSave(List.of("classifier"));
            Tensor ids = Subjects.ids(model, 1);
            for (String name : names) {
                Subjects.add(peft, name, config);
                peft.setAdapter(name);
                double[] before = Subjects.logits(peft, ids, null);
                peft.savePretrained(folder);
                peft.deleteAdapter(name);
                peft.loadAdapter(name, folder.resolve(name));
                peft.setAdapter(name);
                assertThat(Subjects.logits(peft, ids, null)).as(name).isEqualTo(before);
            }
            assertThat(new ArrayList<>(peft.adapters().keySet())).containsExactlyElementsOf(names);
        }
    }

    @Test
    void trainingTwoAtOnceHasTheGradientsOfTheSum() {
        try (Model model = Subjects.model("seo", backend, DType.F64);
                PeftModel peft = new PeftModel(model, 7);
                Scope scope = Scope.open()) {
            Subjects.add(peft, "a", LoraConfig.defaults().withRank(2, 4).withDropout(0.3));
            Subjects.add(peft, "b", LoraConfig.defaults().withRank(3, 4));
            peft.setAdapter(List.of("a", "b"));
            model.train(true);
            Tensor ids = Subjects.ids(model, 2);
            peft.loss(ids, null, ids).backward();
            peft.trainableParameters().forEach((name, t) -> {
                double[] gradient = Objects.requireNonNull(t.grad(), name).toDoubles();
                int i = gradient.length / 2;
                double eps = 1e-5;
                double difference = (lossWith(peft, t, i, eps) - lossWith(peft, t, i, -eps)) / (2 * eps);
                assertThat(gradient[i]).as(name).isCloseTo(difference, org.assertj.core.api.Assertions.within(1e-7));
            });
        }
    }

    private static double lossWith(PeftModel peft, Tensor t, int i, double step) {
        double[] values = t.toDoubles();
        double[] moved = values.clone();
        moved[i] += step;
        Tensor ids = Subjects.ids(peft.model(), 2);
        try (Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.noGrad()) {
            t.copyFrom(Tensor.of(t.backend(), t.dtype(), moved, t.shape().dims()));
            double loss = peft.loss(ids, null, ids).item();
            t.copyFrom(Tensor.of(t.backend(), t.dtype(), values, t.shape().dims()));
            return loss;
        }
    }
}
