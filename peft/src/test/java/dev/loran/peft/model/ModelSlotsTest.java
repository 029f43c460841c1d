package dev.loran.peft.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.backend.ShapeException;
import dev.loran.engine.io.SafeTensors;
import dev.loran.engine.nn.AdaptedLayer;
import dev.loran.peft.Fixtures;
import dev.loran.peft.hf.HfModels;
import dev.loran.peft.model.Block.Prefix;
import dev.loran.peft.model.Block.SublayerAdapter;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Objects;
import java.util.stream.IntStream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/// Virtual tokens, prefix and sublayer adapters, the first two against Hugging Face's golden cases.
class ModelSlotsTest {
    private final ReferenceBackend backend = new ReferenceBackend();

    @AfterEach
    void nothingIsLeft() {
        assertThat(backend.liveBuffers()).isZero();
    }

    @ParameterizedTest
    @CsvSource({
        "llama, prompt, false", "llama, prompt, true", "llama, prefix, false", "llama, prefix, true",
        "gpt2, prompt, false", "gpt2, prompt, true", "gpt2, prefix, false", "gpt2, prefix, true",
        "bert, prompt, false", "bert, prompt, true", "bert, prefix, false", "bert, prefix, true"
    })
    void promptAndPrefixAsInTheGoldenCases(String family, String method, boolean checkpointing) {
        Path file = Fixtures.root("hf").resolve(family).resolve(method).resolve("io.safetensors");
        String name = "prompt_encoder.default.embedding.weight";
        try (Scope scope = Scope.open();
                SafeTensors io = SafeTensors.open(file);
                Model model = HfModels.load(Fixtures.base(family), backend, DType.F64);
                Tensor ids = io.tensor(backend, "input_ids", DType.I32);
                Tensor mask = io.tensor(backend, "attention_mask", DType.I32);
                Tensor labels = io.tensor(backend, "labels", DType.I32);
                Tensor logits = io.tensor(backend, "logits", DType.F64);
                Tensor loss = io.tensor(backend, "loss", DType.F64);
                Tensor gradient = io.tensor(backend, "grad." + name, DType.F64);
                Tensor embedding = io.copy(backend, "init." + name, DType.F64)) {
            embedding.requiresGrad(true);
            model.gradientCheckpointing(checkpointing);
            if (method.equals("prompt")) {
                model.virtualTokens(() -> embedding);
            } else {
                prefix(model, embedding);
            }
            Tensor actualLoss = model.loss(ids, mask, labels);
            actualLoss.backward();
            assertNear(model.logits(ids, mask), logits, 1e-5);
            assertThat(Math.abs(actualLoss.item() - loss.item())).isLessThan(1e-5 * loss.item());
            assertNear(Objects.requireNonNull(embedding.grad()), gradient, 2e-5);
        }
    }

    /// Keys of layer l are row 2l of (P, 2 · layers, kvHeads, D), values row 2l + 1.
    private static void prefix(Model model, Tensor embedding) {
        Model.Facts f = model.facts();
        int width = f.numKvHeads() * f.headDim();
        model.prefixes(() -> IntStream.range(0, f.numLayers())
                .mapToObj(l -> new Prefix(
                        row(f, embedding.slice(1, 2 * l * width, (2 * l + 1) * width)),
                        row(f, embedding.slice(1, (2 * l + 1) * width, (2 * l + 2) * width))))
                .toList());
    }

    private static Tensor row(Model.Facts f, Tensor flat) {
        return flat.reshape(-1, f.numKvHeads(), f.headDim());
    }

    private static void assertNear(Tensor actual, Tensor expected, double tolerance) {
        assertThat(actual.shape()).isEqualTo(expected.shape());
        double[] a = actual.toDoubles();
        double[] e = expected.toDoubles();
        double largest = Arrays.stream(e).map(Math::abs).max().orElseThrow();
        assertThat(largest).isPositive();
        for (int i = 0; i < a.length; i++) {
            assertThat(Math.abs(a[i] - e[i])).as("element " + i).isLessThanOrEqualTo(tolerance * largest);
        }
    }

    @Test
    void hiddenStatesHaveThePositionsOfVirtualTokens() {
        try (Scope scope = Scope.open();
                Model model = Small.seo(backend, DType.F64)) {
            Tensor ids = Small.ids(backend, model, 3, 7);
            Tensor tokens =
                    Tensor.full(backend, DType.F64, 0.25, 2, model.facts().hiddenSize());
            assertThat(model.hidden(ids, null).shape().dims()).containsExactly(3, 7, 12);
            model.virtualTokens(() -> tokens);
            assertThat(model.hidden(ids, null).shape().dims()).containsExactly(3, 9, 12);
            assertThat(model.logits(ids, null).shape().dims())
                    .containsExactly(3, 9, model.facts().vocabSize());
        }
    }

    @Test
    void virtualTokensAreOfTypeZero() {
        try (Scope scope = Scope.open();
                Model model = Small.model("bert", backend, DType.F64)) {
            Tensor all = Tensor.ofInts(backend, new int[] {7, 8, 3, 4, 5, 7, 8, 6, 2, 1}, 2, 5);
            Tensor types = Tensor.ofInts(backend, new int[] {0, 0, 0, 1, 1, 0, 0, 1, 1, 1}, 2, 5);
            double[] expected = model.hidden(all, null, types).toDoubles();
            Tensor virtual = model.tokenEmbedding().forward(Tensor.ofInts(backend, new int[] {7, 8}, 2));
            model.virtualTokens(() -> virtual);
            double[] hidden = model.hidden(
                            Tensor.ofInts(backend, new int[] {3, 4, 5, 6, 2, 1}, 2, 3),
                            null,
                            Tensor.ofInts(backend, new int[] {0, 1, 1, 1, 1, 1}, 2, 3))
                    .toDoubles();
            assertThat(hidden).containsExactly(expected, within(1e-12));
        }
    }

    @Test
    void aPrefixMayDifferFromRowToRow() {
        try (Scope scope = Scope.open();
                Model model = Small.seo(backend, DType.F64)) {
            Tensor ids = Small.ids(backend, model, 2, 5);
            double[] together = withPrefix(model, ids, false);
            double[] each = withPrefix(model, ids, true);
            assertThat(each).isEqualTo(together);
            assertThat(together).isNotEqualTo(model.hidden(ids, null).toDoubles());
        }
    }

    private double[] withPrefix(Model model, Tensor ids, boolean perRow) {
        Model.Facts f = model.facts();
        Tensor one = Tensor.full(backend, DType.F64, 0.5, 3, f.numKvHeads(), f.headDim());
        Tensor two = Tensor.full(backend, DType.F64, 0.5, 2, 3, f.numKvHeads(), f.headDim());
        Prefix prefix = perRow ? new Prefix(two, two) : new Prefix(one, one);
        model.prefixes(() -> Collections.nCopies(f.numLayers(), prefix));
        double[] hidden = model.hidden(ids, null).toDoubles();
        model.prefixes(null);
        return hidden;
    }

    /// Sublayers whose output becomes zero leave a pre-norm block's residual stream unchanged; BERT's norms still
    /// apply.
    @ParameterizedTest
    @ValueSource(strings = {"llama", "gpt2", "seo", "bert"})
    void sublayerAdaptersStandBeforeTheResidualAdd(String family) {
        try (Scope scope = Scope.open();
                Model model = Small.model(family, backend, DType.F64)) {
            Tensor ids = Small.ids(backend, model, 2, 5);
            Recorder recorder = new Recorder(0);
            for (Block block : model.blocks()) {
                block.afterAttention(recorder);
                block.afterFeedForward(recorder);
            }
            double[] hidden = model.hidden(ids, null).toDoubles();
            Tensor x = Small.embedded(model, ids);
            Tensor expected = x;
            if (family.equals("bert")) {
                for (int l = 0; l < model.facts().numLayers(); l++) {
                    expected = Small.layer(model, "encoder.layer." + l + ".attention.output.LayerNorm")
                            .forward(expected);
                    expected = Small.layer(model, "encoder.layer." + l + ".output.LayerNorm")
                            .forward(expected);
                }
            } else {
                expected = Small.layer(model, Small.finalNorm(family)).forward(expected);
            }
            assertThat(hidden).isEqualTo(expected.toDoubles());
            AdaptedLayer<?> firstNorm = Small.firstNorm(model, family);
            Tensor firstInput = firstNorm == null ? x : firstNorm.forward(x);
            assertThat(recorder.inputs.getFirst()).isEqualTo(firstInput.toDoubles());
            assertThat(recorder.inputs).hasSize(2 * model.facts().numLayers());
        }
    }

    /// Returns `factor` times the sublayer's output, and records its inputs.
    private record Recorder(double factor, List<double[]> inputs) implements SublayerAdapter {
        Recorder(double factor) {
            this(factor, new ArrayList<>());
        }

        @Override
        public Tensor forward(Tensor output, Tensor input) {
            inputs.add(input.toDoubles());
            return output.scale(factor);
        }

        @Override
        public void close() {}
    }

    @ParameterizedTest
    @ValueSource(strings = {"llama", "gpt2", "seo", "bert"})
    void aSublayerAdapterThatChangesNothingChangesNothing(String family) {
        try (Scope scope = Scope.open();
                Model model = Small.model(family, backend, DType.F64)) {
            Tensor ids = Small.ids(backend, model, 2, 5);
            double[] plain = model.logits(ids, null).toDoubles();
            for (Block block : model.blocks()) {
                block.afterAttention(new Recorder(1));
                block.afterFeedForward(new Recorder(1));
            }
            assertThat(model.logits(ids, null).toDoubles()).isEqualTo(plain);
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"llama", "gpt2", "seo"})
    void causalModelsDoNotSeeWhatFollows(String family) {
        try (Scope scope = Scope.open();
                Model model = Small.model(family, backend, DType.F64)) {
            Tensor one = Tensor.ofInts(backend, new int[] {3, 5, 7, 9}, 1, 4);
            Tensor other = Tensor.ofInts(backend, new int[] {3, 5, 7, 2}, 1, 4);
            double[] a = model.logits(one, null).toDoubles();
            double[] b = model.logits(other, null).toDoubles();
            int last = 3 * model.facts().vocabSize();
            assertThat(Arrays.copyOf(a, last)).isEqualTo(Arrays.copyOf(b, last));
            assertThat(Arrays.copyOfRange(a, last, a.length)).isNotEqualTo(Arrays.copyOfRange(b, last, b.length));
        }
    }

    @Test
    void whatDoesNotFitIsSaid() {
        try (Scope scope = Scope.open();
                Model model = Small.seo(backend, DType.F64)) {
            Tensor ids = Small.ids(backend, model, 1, 17);
            assertThatThrownBy(() -> model.hidden(ids, null))
                    .isInstanceOf(ShapeException.class)
                    .hasMessage("seo: 17 positions (prefix 0, virtual tokens and text 17) but the model has 16; shorten"
                            + " the text");
            Tensor fits = ids.slice(1, 0, 5);
            Tensor wrong = Tensor.zeros(backend, DType.F64, 2, 7);
            model.virtualTokens(() -> wrong);
            assertThatThrownBy(() -> model.hidden(fits, null))
                    .hasMessage("virtualTokens: embeddings are (2, 7), needs (P, 12) or (1, P, 12)");
            model.virtualTokens(null);
            Tensor key = Tensor.zeros(backend, DType.F64, 2, 3, 4);
            model.prefixes(() -> List.of(new Prefix(key, key)));
            assertThatThrownBy(() -> model.hidden(fits, null))
                    .isInstanceOf(ShapeException.class)
                    .hasMessage("prefixes: lengths are [2], needs 2 equal ones, one a block");
            model.prefixes(null);
            Tensor labels = Tensor.zeros(backend, DType.I32, 5);
            assertThatThrownBy(() -> model.loss(fits, null, labels))
                    .hasMessage("loss: labels are (5) but the hidden states are (1, 5, 12) as (B, P + T, C); needs"
                            + " (B, T)");
        }
    }
}
