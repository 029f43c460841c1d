package dev.loran.peft.tuner;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.DropoutMask;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.io.SafeTensors;
import dev.loran.engine.nn.Linear;
import dev.loran.engine.optim.AdamW;
import dev.loran.engine.testing.GradCheck;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import java.io.IOException;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.SplittableRandom;
import java.util.function.UnaryOperator;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;

/// Properties of the LoRA variants beyond those that [MethodsTest] checks for every method.
class LoraFamilyTest {
    private static final LoraConfig LORA = LoraConfig.defaults().withRank(3, 6);
    private static final LoraConfig MOVED = LORA.withInit(LoraInit.FALSE);

    @TempDir
    Path folder;

    // ---- DoRA

    /// A layer (7, 5) with its adapter, in double precision.
    private static final class Layer implements AutoCloseable {
        final Model model = Subjects.model("seo", new ReferenceBackend(), DType.F64);
        final Backend be = model.backend();
        final SplittableRandom random = new SplittableRandom(4);
        final Linear base = new Linear(randn(7, 5), randn(7), false);
        final Buffer microStep = be.ofInts(3);
        final DoraLinear dora;

        Layer(double dropout) {
            Attachment to = new Attachment(model, "default", random, 8, microStep, false, UnaryOperator.identity());
            dora = new DoraLinear(base, MOVED.withDora(true).withDropout(dropout), "l", to, 2);
            base.train(true);
        }

        Tensor randn(int... dims) {
            return Tensor.randn(be, DType.F64, random, 1, dims).detachFromScope();
        }

        Map<String, Tensor> parameters() {
            Map<String, Tensor> all = new LinkedHashMap<>();
            dora.collect(all::put);
            return all;
        }

        /// ‖W + s·B·A‖ of each row, from the full matrix.
        double[] norms() {
            double[] w = base.weight().toDoubles();
            double[] delta;
            try (Tensor ba = dora.loraB.matmul(dora.loraA)) {
                delta = ba.toDoubles();
            }
            double[] n = new double[7];
            for (int i = 0; i < w.length; i++) {
                double x = w[i] + dora.scaling * delta[i];
                n[i / 5] += x * x;
            }
            return java.util.Arrays.stream(n).map(Math::sqrt).toArray();
        }

        /// The layer computed by its definition, with the norms as constants.
        Tensor byDefinition(Tensor x, double p) {
            Tensor m = Objects.requireNonNull(parameters().get("lora_magnitude_vector.default.weight"));
            Tensor c = m.div(Tensor.of(be, DType.F64, norms(), 7));
            Tensor one = Tensor.full(be, DType.F64, 1, 7);
            Tensor d = p == 0 ? x : Functional.dropout(x, new DropoutMask(p, 8, 2, microStep));
            Tensor low = Functional.linear(Functional.linear(d, dora.loraA, null), dora.loraB, null);
            return base.base(x)
                    .add(Functional.linear(d, base.weight(), null).mul(c.sub(one)))
                    .add(low.scale(dora.scaling).mul(c));
        }

        @Override
        public void close() {
            dora.close();
            base.close();
            model.close();
            microStep.release();
        }
    }

    @ParameterizedTest
    @ValueSource(doubles = {0, 0.4})
    void doraIsItsDefinitionForwardAndBackward(double p) {
        try (Layer layer = new Layer(p);
                Scope scope = Scope.open()) {
            Map<String, Tensor> leaves = layer.parameters();
            // Magnitudes that differ from the norms.
            Tensor m = Objects.requireNonNull(leaves.get("lora_magnitude_vector.default.weight"));
            m.copyFrom(m.add(Tensor.uniform(layer.be, DType.F64, layer.random, 0.5, 7)));
            Tensor x = layer.randn(2, 3, 5).requiresGrad(true);
            leaves.put("x", x);
            leaves.values().forEach(t -> t.requiresGrad(true));
            Tensor u = Tensor.randn(layer.be, DType.F64, layer.random, 1, 2, 3, 7);
            for (Tensor changed : List.of(m, layer.dora.loraA, layer.dora.loraB, layer.base.weight())) {
                // The norms follow every write to a weight.
                changed.copyFrom(changed.detach().scale(1.1));
                Tensor expected = layer.byDefinition(x, p);
                expected.backward(u);
                Map<String, double[]> gradients = take(leaves);
                layer.base.weight().prepare();
                Tensor y = layer.dora.forward(layer.base, x);
                y.backward(u);
                layer.base.weight().restore();
                assertClose(y.toDoubles(), expected.toDoubles(), 1e-12);
                take(leaves).forEach((name, g) -> assertClose(g, Objects.requireNonNull(gradients.get(name)), 1e-12));
            }
            x.close();
        }
    }

    private static Map<String, double[]> take(Map<String, Tensor> leaves) {
        Map<String, double[]> all = new LinkedHashMap<>();
        leaves.forEach((name, t) -> {
            all.put(name, Objects.requireNonNull(t.grad(), name).toDoubles());
            t.zeroGrad();
        });
        return all;
    }

    @ParameterizedTest
    @ValueSource(strings = {"llama", "gpt2", "bert-head", "seo"})
    void doraStartsAsTheFrozenModelAndItsMagnitudesHaveTheirGradients(String family) {
        ReferenceBackend backend = new ReferenceBackend();
        try (Model model = Subjects.model(family, backend, DType.F64);
                PeftModel peft = new PeftModel(model, 11);
                Scope scope = Scope.open()) {
            MethodsTest.Text text = MethodsTest.Text.of(model);
            double[] bare = model.logits(text.ids(), text.mask()).toDoubles();
            peft.addAdapter("default", LORA.withDora(true).withTargets(Targets.allLinear()));
            assertClose(peft.logits(text.ids(), text.mask()).toDoubles(), bare, 1e-12);
            peft.deleteAdapter("default");

            Tuner tuner = peft.addAdapter("default", MOVED.withDora(true));
            Map<String, Tensor> magnitudes = new LinkedHashMap<>(tuner.parameters());
            magnitudes.keySet().removeIf(n -> !n.contains("magnitude"));
            assertThat(magnitudes).isNotEmpty();
            GradCheck.check(family + " dora", magnitudes, () -> peft.loss(text.ids(), text.mask(), text.labels()));
        }
        assertThat(backend.liveBuffers()).as("buffers left").isZero();
    }

    @Test
    void aRowOfZerosKeepsItsZeros() {
        try (Layer layer = new Layer(0);
                Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.noGrad()) {
            layer.base.weight().copyFrom(Tensor.zeros(layer.be, DType.F64, 7, 5));
            layer.dora.loraB.copyFrom(Tensor.zeros(layer.be, DType.F64, 7, 3));
            Tensor y = layer.dora.forward(layer.base, layer.randn(1, 5));
            assertThat(y.toDoubles())
                    .containsExactly(Objects.requireNonNull(layer.base.bias()).toDoubles());
        }
    }

    // ---- tables, heads, tokens

    @Test
    void aTiedHeadIsAdaptedWithoutItsTableAndTheTableWithoutItsHead() {
        try (Model model = Subjects.model("gpt2", new ReferenceBackend(), DType.F64);
                Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.noGrad()) {
            MethodsTest.Text text = MethodsTest.Text.of(model);
            Tensor w = model.tokenEmbedding().weight();
            double[] hidden = model.hidden(text.ids(), text.mask()).toDoubles();
            try (PeftModel peft = new PeftModel(model, 11)) {
                Tuner tuner = peft.addAdapter("default", MOVED.withTargets(Targets.of("lm_head")));
                Tensor h = model.hidden(text.ids(), text.mask());
                assertThat(h.toDoubles()).containsExactly(hidden);
                Tensor a = parameter(tuner, "lm_head.lora_A");
                Tensor b = parameter(tuner, "lm_head.lora_B");
                Tensor adapted = w.add(b.matmul(a).scale(2));
                assertClose(
                        peft.logits(text.ids(), text.mask()).toDoubles(),
                        Functional.linear(h, adapted, null).toDoubles(),
                        1e-11);
            }
            try (PeftModel peft = new PeftModel(model, 11)) {
                Tuner tuner = peft.addAdapter("default", MOVED.withTargets(Targets.of("wte")));
                Tensor a = parameter(tuner, "wte.lora_embedding_A");
                Tensor b = parameter(tuner, "wte.lora_embedding_B");
                Tensor adapted = w.add(Functional.matmul(a, b, true, true).scale(2));
                assertClose(
                        model.tokenEmbedding().forward(text.ids()).toDoubles(),
                        Functional.embedding(adapted, text.ids()).toDoubles(),
                        1e-12);
                Tensor h = model.hidden(text.ids(), text.mask());
                assertClose(
                        peft.logits(text.ids(), text.mask()).toDoubles(),
                        Functional.linear(h, w, null).toDoubles(),
                        1e-12);
            }
        }
    }

    @Test
    void aTableInTheFileMustBeTheModels() {
        LoraConfig config = MOVED.withTargets(Targets.of("embed_tokens", "q_proj"));
        try (Model model = Subjects.model("llama", new ReferenceBackend(), DType.F64);
                Model other = Subjects.model("llama", new ReferenceBackend(), DType.F64);
                Scope scope = Scope.open()) {
            try (PeftModel peft = new PeftModel(model, 11)) {
                peft.addAdapter("default", config);
                peft.savePretrained(folder);
            }
            String key = "base_model.model.model.embed_tokens.base_layer.weight";
            try (SafeTensors file = SafeTensors.open(folder.resolve(AdapterFiles.WEIGHTS))) {
                assertThat(file.names()).contains(key).noneMatch(n -> n.contains("lm_head"));
            }
            Tensor table = other.tokenEmbedding().weight();
            table.copyFrom(table.scale(1.01));
            try (PeftModel peft = new PeftModel(other, 11)) {
                assertThatThrownBy(() -> peft.loadAdapter("default", folder))
                        .isInstanceOf(InputException.class)
                        .hasMessageContaining("tensor " + key + " (23, 12) repeats a frozen weight, but the model's"
                                + " (23, 12) holds other values");
            }
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"llama", "gpt2", "bert-head", "seo"})
    void trainedRowsStandInTheTableAndInAHeadThatIsTied(String family) {
        List<Integer> tokens = List.of(9, 4, 22);
        try (Model model = Subjects.model(family, new ReferenceBackend(), DType.F64);
                Model written = Subjects.model(family, new ReferenceBackend(), DType.F64);
                PeftModel peft = new PeftModel(model, 11);
                Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.noGrad()) {
            MethodsTest.Text text = MethodsTest.Text.of(model);
            double[] bare = model.logits(text.ids(), text.mask()).toDoubles();
            Tuner tuner = peft.addAdapter("default", LORA.withTrainableTokens(tokens));
            assertThat(peft.logits(text.ids(), text.mask()).toDoubles()).containsExactly(bare);
            Tensor rows = parameter(tuner, "trainable_tokens_delta");
            rows.copyFrom(Tensor.randn(rows.backend(), DType.F64, new SplittableRandom(2), 0.3, 3, 12));

            // The table of the other model, whose head is tied if this one's is, gets the rows.
            Tensor table = written.tokenEmbedding().weight();
            double[] values = table.toDoubles();
            for (int j = 0; j < 3; j++) {
                System.arraycopy(rows.toDoubles(), 12 * j, values, 12 * tokens.get(j), 12);
            }
            table.copyFrom(Tensor.of(table.backend(), DType.F64, values, 23, 12));
            MethodsTest.Text same = MethodsTest.Text.of(written);
            assertClose(
                    peft.logits(text.ids(), text.mask()).toDoubles(),
                    written.logits(same.ids(), same.mask()).toDoubles(),
                    1e-11);
            assertThat(tuner.parameters().keySet().stream().filter(n -> n.contains("token_adapter")))
                    .hasSize(1);
        }
    }

    @Test
    void tokensByTheNameOfTheirTable() {
        try (Model model = Subjects.model("gpt2", new ReferenceBackend(), DType.F64);
                PeftModel peft = new PeftModel(model, 11)) {
            Tuner tuner = peft.addAdapter(
                    "default", LORA.withTrainableTokens(Map.of("wte", List.of(1, 2), "lm_head", List.of(2, 1, 0))));
            assertThat(tuner.parameters().keySet().stream().filter(n -> n.contains("token_adapter")))
                    .containsExactly(
                            "base_model.model.transformer.wte.token_adapter.trainable_tokens_delta.default",
                            "base_model.model.lm_head.token_adapter.trainable_tokens_delta.default");
            assertThat(tuner.fileTensors())
                    .containsKey("base_model.model.transformer.wte.token_adapter.trainable_tokens_delta");
            assertThat(model.tokenEmbedding().adapter()).isNotNull();
        }
    }

    // ---- LoRA+

    @Test
    void loraPlusTrainsEachGroupAtItsRate() {
        LoraConfig config = MOVED.withBias(LoraConfig.Bias.LORA_ONLY).withTargets(Targets.of("c_attn", "wte"));
        try (Model model = Subjects.model("gpt2", new ReferenceBackend(), DType.F64);
                PeftModel peft = new PeftModel(model, 11);
                Scope scope = Scope.open()) {
            Tuner tuner = peft.addAdapter("default", config);
            Backend be = model.backend();
            AdamW.Config options = new AdamW.Config(0.9, 0.999, 1e-12, 0, LoraPlus.groups(1e-3, 16, 1e-4, 0));
            try (AdamW adamW = new AdamW(be, DType.F64, options)) {
                MethodsTest.Text text = MethodsTest.Text.of(model);
                peft.loss(text.ids(), text.mask(), text.labels()).backward();
                Map<String, double[]> before = new LinkedHashMap<>();
                tuner.parameters().forEach((name, t) -> before.put(name, t.toDoubles()));
                adamW.advance(1e-3);
                adamW.step(tuner.parameters());
                tuner.parameters().forEach((name, t) -> {
                    // Adam's first step equals the learning rate, whatever the gradient, if there is one.
                    double rate = name.contains("embedding")
                            ? 1e-4
                            : name.contains("lora_B") || name.endsWith("bias") ? 16e-3 : 1e-3;
                    assertThat(distance(t.toDoubles(), Objects.requireNonNull(before.get(name))))
                            .as(name)
                            .isCloseTo(rate, within(1e-6 * rate));
                });
            }
        }
        assertThatThrownBy(() -> LoraPlus.groups(1e-3, 0.5, 1e-6, 0))
                .isInstanceOf(InputException.class)
                .hasMessage("loraPlus: learning rate is 0.001 and ratio 0.5, must be positive and at least 1");
    }

    // ---- what is refused

    @Test
    void configurationsThatDoNotFitAreRefused() {
        assertThatThrownBy(() -> new LoraInit("magic"))
                .isInstanceOf(InputException.class)
                .hasMessage("init_lora_weights magic is not supported; known are true, false, gaussian, pissa,"
                        + " pissa_niter_[number], olora");
        assertThatThrownBy(() -> LORA.withInit(LoraInit.PISSA).withLoraBias(true))
                .isInstanceOf(InputException.class)
                .hasMessage("LoraConfig: init_lora_weights is pissa, must be true or false with lora_bias");
        assertThatThrownBy(() -> LORA.withDora(true).withLoraBias(true))
                .isInstanceOf(InputException.class)
                .hasMessage("LoraConfig: use_dora is true, must be false with lora_bias");
        assertThatThrownBy(() -> AdaLoraConfig.defaults().withLora(LORA.withDora(true)))
                .isInstanceOf(InputException.class)
                .hasMessageContaining("AdaLoRA has neither");
    }

    static Stream<Arguments> misfits() {
        Targets table = Targets.of("wte");
        return Stream.of(
                Arguments.of(
                        LORA.withDora(true).withTargets(table),
                        "use_dora: transformer.wte is a table of embeddings, needs linear layers"),
                Arguments.of(
                        LORA.withLoraBias(true).withTargets(table),
                        "lora_bias: transformer.wte is a table of embeddings, needs linear layers"),
                Arguments.of(
                        LORA.withTargets(Targets.of("ln_1")),
                        "transformer.h.0.ln_1 is no linear layer and no table of embeddings"),
                Arguments.of(
                        LORA.withRank(13, 6).withInit(LoraInit.OLORA),
                        "init_lora_weights olora: rank 13 is more than transformer.h.0.attn.c_attn (out=36, in=12) has"),
                Arguments.of(
                        LORA.withRank(2, 0).withInit(LoraInit.PISSA),
                        "init_lora_weights pissa: the scaling of transformer.h.0.attn.c_attn is 0.0, must be positive"),
                Arguments.of(
                        LORA.withTrainableTokens(List.of(3, 23)),
                        "trainable_token_indices: 23 is no row of transformer.wte, which has 23"),
                Arguments.of(LORA.withTrainableTokens(List.of(3, 3)), "trainable_token_indices: 3 stands there twice"),
                Arguments.of(
                        LORA.withTrainableTokens(Map.of("embed_tokens", List.of(3))),
                        "trainable_token_indices: embed_tokens is no table of embeddings and no head"),
                Arguments.of(
                        LORA.withTrainableTokens(List.of(3)).withTargets(table),
                        "trainable_token_indices: transformer.wte is adapted or trained whole already"));
    }

    @ParameterizedTest
    @MethodSource("misfits")
    void whatDoesNotFitTheModelIsRefusedAndLeavesNothing(LoraConfig config, String message) {
        ReferenceBackend backend = new ReferenceBackend();
        try (Model model = Subjects.model("gpt2", backend, DType.F64);
                PeftModel peft = new PeftModel(model, 11)) {
            assertThatThrownBy(() -> peft.addAdapter("default", config))
                    .isInstanceOf(InputException.class)
                    .hasMessageContaining(message);
        }
        assertThat(backend.liveBuffers()).as("buffers left").isZero();
    }

    @Test
    void fieldsGoThroughTheFile() throws IOException {
        ObjectMapper mapper = new ObjectMapper();
        LoraConfig config = LORA.withDora(true).withInit(LoraInit.pissa(4)).withTrainableTokens(List.of(5, 1));
        JsonNode list = config.toJson();
        assertThat(list.get("trainable_token_indices")).isEqualTo(mapper.readTree("[5, 1]"));
        assertThat(list.get("init_lora_weights").textValue()).isEqualTo("pissa_niter_4");
        assertThat(PeftConfig.fromJson(new ConfigJson("f", (ObjectNode) list))).isEqualTo(config);
        LoraConfig byName = LORA.withLoraBias(true).withTrainableTokens(Map.of("wte", List.of(5, 1)));
        JsonNode map = byName.toJson();
        assertThat(map.get("trainable_token_indices")).isEqualTo(mapper.readTree("{\"wte\": [5, 1]}"));
        assertThat(PeftConfig.fromJson(new ConfigJson("f", (ObjectNode) map))).isEqualTo(byName);
        LoraConfig tied = LORA.withModulesToSave(List.of("wte")).withWeightTying(true);
        assertThat(tied.toJson().get("ensure_weight_tying").booleanValue()).isTrue();
        assertThat(PeftConfig.fromJson(new ConfigJson("f", tied.toJson()))).isEqualTo(tied);
    }

    private static Tensor parameter(Tuner tuner, String part) {
        return tuner.parameters().entrySet().stream()
                .filter(e -> e.getKey().contains(part))
                .findFirst()
                .orElseThrow()
                .getValue();
    }

    static void move(Tuner tuner) {
        SplittableRandom random = new SplittableRandom(9);
        tuner.parameters()
                .values()
                .forEach(t -> t.copyFrom(t.add(Tensor.uniform(
                        t.backend(), t.dtype(), random, 0.2, t.shape().dims()))));
    }

    static double distance(double[] a, double[] b) {
        assertThat(a.length).isEqualTo(b.length);
        double most = 0;
        for (int i = 0; i < a.length; i++) {
            most = Math.max(most, Math.abs(a[i] - b[i]));
        }
        return most;
    }

    static void assertClose(double[] actual, double[] expected, double tolerance) {
        assertThat(actual.length).isEqualTo(expected.length);
        for (int i = 0; i < actual.length; i++) {
            assertThat(actual[i]).as("element " + i).isCloseTo(expected[i], within(tolerance));
        }
    }
}
