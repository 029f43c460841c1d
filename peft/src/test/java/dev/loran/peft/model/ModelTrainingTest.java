package dev.loran.peft.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.nn.Adapter;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.model.Block.Prefix;
import dev.loran.peft.model.decoder.LlamaModel;
import dev.loran.peft.model.encoder.BertModel;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.SplittableRandom;
import java.util.function.BiConsumer;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/// Loss and gradients of the base models.
class ModelTrainingTest {
    private final ReferenceBackend backend = new ReferenceBackend();

    @AfterEach
    void nothingIsLeft() {
        assertThat(backend.liveBuffers()).isZero();
    }

    /// Two rows of five tokens, the second one padded.
    private final int[] mask = {1, 1, 1, 1, 1, 1, 1, 1, 0, 0};

    private Tensor loss(Model model) {
        Tensor ids = Small.ids(backend, model, 2, 5);
        Tensor shown = Tensor.ofInts(backend, mask, 2, 5);
        int[] labels = ids.toInts();
        for (int i = 0; i < labels.length; i++) {
            labels[i] = mask[i] == 0 ? Functional.IGNORE_INDEX : labels[i];
        }
        if (model.task() == TaskType.TOKEN_CLS) {
            Arrays.setAll(labels, i -> labels[i] < 0 ? labels[i] : labels[i] % 4);
        }
        Tensor target = model.task() == TaskType.SEQ_CLS
                ? Tensor.ofInts(backend, new int[] {3, 1}, 2)
                : Tensor.ofInts(backend, labels, 2, 5);
        return model.loss(ids, shown, target);
    }

    @ParameterizedTest
    @CsvSource({
        "llama, false",
        "llama, true",
        "gpt2, false",
        "gpt2, true",
        "seo, false",
        "seo, true",
        "bert-head, false",
        "bert-head, true",
        "roberta-head, false",
        "distilbert-head, false",
        "electra-head, true",
        "mpnet-head, true",
        "modernbert-head, false",
        "modernbert-tokens, false",
        "deberta-v2-head, true"
    })
    void checkpointedGradientsAreTheSameBits(String family, boolean prefixed) {
        Map<String, double[]> plain = gradients(family, prefixed, false);
        Map<String, double[]> again = gradients(family, prefixed, true);
        assertThat(plain).hasSizeGreaterThan(15);
        assertThat(again.keySet()).isEqualTo(plain.keySet());
        plain.forEach((name, gradient) ->
                assertThat(Arrays.equals(gradient, again.get(name))).as(name).isTrue());
        if (prefixed) {
            assertThat(Arrays.stream(Objects.requireNonNull(plain.get("prefix"))))
                    .anyMatch(x -> x != 0);
        }
    }

    private Map<String, double[]> gradients(String family, boolean prefixed, boolean checkpointing) {
        Map<String, double[]> gradients = new LinkedHashMap<>();
        try (Scope scope = Scope.open();
                Model model = Small.model(family, backend, DType.F32)) {
            model.requiresGrad(true);
            model.gradientCheckpointing(checkpointing);
            Model.Facts f = model.facts();
            Tensor leaf = Tensor.randn(backend, DType.F32, new SplittableRandom(9), 1, 3, f.numKvHeads(), f.headDim())
                    .requiresGrad(true);
            if (prefixed) {
                // Results of operations, as from a prefix encoder.
                model.prefixes(() -> Stream.generate(() -> new Prefix(leaf.scale(2), leaf.scale(3)))
                        .limit(f.numLayers())
                        .toList());
            }
            loss(model).backward();
            model.namedParameters().forEach((name, p) -> {
                if (p.grad() != null) {
                    gradients.put(name, p.grad().toDoubles());
                }
            });
            if (leaf.grad() != null) {
                gradients.put("prefix", leaf.grad().toDoubles());
            }
        }
        return gradients;
    }

    /// Compares the gradient along one random direction through all parameters with finite differences of the loss.
    @ParameterizedTest
    @ValueSource(
            strings = {
                "llama",
                "gpt2",
                "seo",
                "bert-head",
                "roberta-head",
                "distilbert-head",
                "electra-head",
                "mpnet-head",
                "modernbert-head",
                "modernbert-tokens",
                "deberta-v2-head"
            })
    void gradientsAreTheLossesSlope(String family) {
        try (Scope scope = Scope.open();
                Model model = Small.model(family, backend, DType.F64)) {
            model.requiresGrad(true);
            SplittableRandom random = new SplittableRandom(3);
            Map<Tensor, Tensor> directions = new LinkedHashMap<>();
            model.namedParameters()
                    .values()
                    .forEach(p -> directions.put(
                            p,
                            Tensor.randn(
                                    backend, DType.F64, random, 1, p.shape().dims())));
            loss(model).backward();
            double slope = 0;
            for (Map.Entry<Tensor, Tensor> d : directions.entrySet()) {
                Tensor gradient = Objects.requireNonNull(d.getKey().grad());
                slope += gradient.mul(d.getValue()).sum().item();
            }
            double step = 1e-5;
            try (Autograd.Mode mode = Autograd.noGrad()) {
                move(directions, step);
                double above = loss(model).item();
                move(directions, -2 * step);
                double below = loss(model).item();
                assertThat(Math.abs(slope)).isGreaterThan(1e-2);
                assertThat(Math.abs((above - below) / (2 * step) - slope)).isLessThan(1e-6 * Math.abs(slope));
            }
        }
    }

    /// Each row of the table of token types, along a random direction.
    @ParameterizedTest
    @ValueSource(ints = {0, 1})
    void bothTokenTypesTrain(int row) {
        try (Scope scope = Scope.open();
                Model model = Small.model("bert-head", backend, DType.F64)) {
            model.requiresGrad(true);
            Tensor table =
                    Objects.requireNonNull(model.namedParameters().get("bert.embeddings.token_type_embeddings.weight"));
            double[] direction = new double[2 * model.facts().hiddenSize()];
            SplittableRandom random = new SplittableRandom(3);
            for (int i = 0; i < direction.length / 2; i++) {
                direction[row * direction.length / 2 + i] = random.nextGaussian();
            }
            Tensor along =
                    Tensor.of(backend, DType.F64, direction, table.shape().dims());
            typedLoss(model).backward();
            double slope = Objects.requireNonNull(table.grad()).mul(along).sum().item();
            double step = 1e-5;
            try (Autograd.Mode mode = Autograd.noGrad()) {
                move(Map.of(table, along), step);
                double above = typedLoss(model).item();
                move(Map.of(table, along), -2 * step);
                double below = typedLoss(model).item();
                assertThat(Math.abs(slope)).isGreaterThan(1e-5);
                assertThat(Math.abs((above - below) / (2 * step) - slope)).isLessThan(1e-5 * Math.abs(slope));
            }
        }
    }

    private Tensor typedLoss(Model model) {
        Tensor types = Tensor.ofInts(backend, new int[] {0, 0, 1, 1, 1, 0, 1, 1, 0, 0}, 2, 5);
        Tensor logits = model.logits(Small.ids(backend, model, 2, 5), Tensor.ofInts(backend, mask, 2, 5), types);
        return Functional.crossEntropy(logits, Tensor.ofInts(backend, new int[] {3, 1}, 2), Functional.IGNORE_INDEX);
    }

    private static void move(Map<Tensor, Tensor> directions, double step) {
        directions.forEach((p, d) -> p.copyFrom(p.detach().add(d.scale(step))));
    }

    @ParameterizedTest
    @ValueSource(strings = {"llama", "gpt2", "seo"})
    void lossIsTheCrossEntropyOfTheNextToken(String family) {
        try (Scope scope = Scope.open();
                Model model = Small.model(family, backend, DType.F64)) {
            int vocab = model.facts().vocabSize();
            Tensor ids = Small.ids(backend, model, 2, 5);
            double[] logits =
                    model.logits(ids, Tensor.ofInts(backend, mask, 2, 5)).toDoubles();
            int[] id = ids.toInts();
            double sum = 0;
            int count = 0;
            for (int i = 0; i < id.length; i++) {
                if (i % 5 > 0 && mask[i] == 1) {
                    double[] row = Arrays.copyOfRange(logits, (i - 1) * vocab, i * vocab);
                    double lse = Math.log(Arrays.stream(row).map(Math::exp).sum());
                    sum += lse - row[id[i]];
                    count++;
                }
            }
            assertThat(count).isEqualTo(6);
            assertThat(loss(model).item()).isCloseTo(sum / count, within(1e-12));
        }
    }

    @Test
    void aHeadWithAnAdapterGivesTheSameLoss() {
        try (Scope scope = Scope.open();
                LlamaModel model = Small.llama(backend, DType.F64, false)) {
            double plain = loss(model).item();
            Linear head = (Linear) Small.layer(model, "lm_head");
            Doubling doubling = new Doubling();
            head.adapter(doubling);
            double doubled = loss(model).item();
            assertThat(doubling.calls).isEqualTo(1);
            assertThat(doubled).isNotEqualTo(plain);
            head.adapter(new Doubling(1));
            assertThat(loss(model).item()).isCloseTo(plain, within(1e-13));
        }
    }

    /// Scales a layer's output.
    private static final class Doubling implements Adapter<Linear> {
        private final double factor;
        private int calls;

        Doubling() {
            this(2);
        }

        Doubling(double factor) {
            this.factor = factor;
        }

        @Override
        public Tensor forward(Linear base, Tensor x) {
            calls++;
            return base.base(x).scale(factor);
        }

        @Override
        public void collect(BiConsumer<String, Tensor> visitor) {}

        @Override
        public void close() {}
    }

    @Test
    void pooledEmbeddingsAreMeansOfWhatTheMaskShows() {
        try (Scope scope = Scope.open();
                BertModel model = (BertModel) Small.model("bert", backend, DType.F64)) {
            Tensor ids = Small.ids(backend, model, 3, 5);
            Tensor shown = Tensor.ofInts(backend, new int[] {1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0}, 3, 5);
            double[] h = model.hidden(ids, shown).toDoubles();
            double[] pooled = model.logits(ids, shown).toDoubles();
            double[] unit = model.embeddings(ids, shown, true).toDoubles();
            int[] lengths = {5, 3, 0};
            for (int row = 0; row < 3; row++) {
                double square = 0;
                for (int c = 0; c < 12; c++) {
                    double sum = 0;
                    for (int t = 0; t < lengths[row]; t++) {
                        sum += h[(row * 5 + t) * 12 + c];
                    }
                    double mean = lengths[row] == 0 ? 0 : sum / lengths[row];
                    assertThat(Math.abs(pooled[row * 12 + c] - mean)).isLessThan(1e-8);
                    square += mean * mean;
                }
                for (int c = 0; c < 12; c++) {
                    double expected = lengths[row] == 0 ? 0 : pooled[row * 12 + c] / Math.sqrt(square);
                    assertThat(Math.abs(unit[row * 12 + c] - expected)).isLessThan(1e-8);
                }
            }
            double[] all = model.embeddings(ids.slice(0, 0, 1), null, false).toDoubles();
            for (int c = 0; c < 12; c++) {
                assertThat(Math.abs(all[c] - pooled[c])).isLessThan(1e-8);
            }
        }
    }

    @Test
    void anEncoderHasNoLoss() {
        try (Scope scope = Scope.open();
                Model model = Small.model("bert", backend, DType.F64)) {
            assertThatThrownBy(() -> loss(model))
                    .isInstanceOf(IllegalStateException.class)
                    .hasMessage(
                            "bert: an encoder without a head has no classes and no next token; load a model with a classifier,"
                                    + " or a causal one");
        }
    }

    /// A backend that records which weights it packs.
    private static final class Packing extends ReferenceBackend {
        private final List<Buffer> packed = new ArrayList<>();

        @Override
        public Buffer prepare(Buffer w, int out, int in) {
            packed.add(w);
            return super.prepare(w, out, in);
        }
    }

    @ParameterizedTest
    @ValueSource(booleans = {true, false})
    void frozenMatricesArePreparedAndATiedHeadIsATable(boolean tied) {
        try (Packing packing = new Packing();
                LlamaModel model = Small.llama(packing, DType.F32, tied)) {
            Map<String, Tensor> all = model.namedParameters();
            all.forEach((name, p) -> p.requiresGrad(name.endsWith("q_proj.weight")));
            model.prepare();
            List<String> packed = all.keySet().stream()
                    .filter(name -> packing.packed.contains(
                            Objects.requireNonNull(all.get(name)).buffer()))
                    .toList();
            String head = tied ? "model.embed_tokens.weight" : "lm_head.weight";
            List<String> expected = all.keySet().stream()
                    .filter(name -> name.matches(".*(k|v|o|gate|up|down)_proj.weight") || name.equals(head))
                    .toList();
            assertThat(packed).hasSize(13).isEqualTo(expected);
        }
    }
}
