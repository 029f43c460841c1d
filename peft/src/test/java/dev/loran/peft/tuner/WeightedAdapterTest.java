package dev.loran.peft.tuner;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.io.SafeTensors;
import dev.loran.engine.nn.Embedding;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.Fixtures;
import dev.loran.peft.hf.HfModels;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.TaskType;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/// Compares weighted merging with full matrices in double precision.
class WeightedAdapterTest {
    private static final List<String> NAMES = List.of("a", "b", "c");
    private static final List<Double> WEIGHTS = List.of(0.7, -0.4, 1.3);

    private final ReferenceBackend backend = new ReferenceBackend();

    @AfterEach
    void nothingIsLeft() {
        assertThat(backend.liveBuffers()).isZero();
    }

    /// Three adapters of rank 3 with different scalings, on different layers.
    private static void addOfOneRank(PeftModel peft) {
        LoraConfig lora = LoraConfig.defaults();
        Subjects.add(peft, "a", lora.withRank(3, 5));
        Subjects.add(peft, "b", lora.withRank(3, 2).withRslora(true).withTargets(Targets.of("w_v", "down")));
        Subjects.add(peft, "c", lora.withRank(3, 4).withPatterns(Map.of(), Map.of("w_q", 1.0)));
    }

    /// Ranks that differ between adapters and between layers, including AdaLoRA.
    private static void addOfManyRanks(PeftModel peft) {
        LoraConfig lora = LoraConfig.defaults();
        Subjects.add(
                peft, "a", lora.withRank(2, 5).withPatterns(Map.of("layers.0.attention.w_v", 4), Map.of("w_q", 3.0)));
        Subjects.add(peft, "b", lora.withRank(3, 2).withRslora(true).withTargets(Targets.of("w_v", "down")));
        Subjects.add(peft, "c", AdaLoraConfig.defaults().withRanks(5, 2));
    }

    /// A full matrix in row-major order.
    private record Matrix(int rows, int cols, double[] values) {
        static Matrix of(Tensor w) {
            return new Matrix(w.shape().dim(0), w.shape().dim(1), w.toDoubles());
        }

        /// this + factor · other.
        Matrix plus(double factor, Matrix other) {
            double[] sum = values.clone();
            for (int i = 0; i < sum.length; i++) {
                sum[i] += factor * other.values[i];
            }
            return new Matrix(rows, cols, sum);
        }

        Matrix times(Matrix other) {
            double[] product = new double[rows * other.cols];
            for (int i = 0; i < rows; i++) {
                for (int k = 0; k < cols; k++) {
                    for (int j = 0; j < other.cols; j++) {
                        product[i * other.cols + j] += values[i * cols + k] * other.values[k * other.cols + j];
                    }
                }
            }
            return new Matrix(rows, other.cols, product);
        }

        double norm() {
            return Math.sqrt(Arrays.stream(values).map(x -> x * x).sum());
        }

        /// ‖this − other‖ / ‖other‖.
        double distance(Matrix other) {
            return plus(-1, other).norm() / other.norm();
        }

        /// The singular values, largest first, by Jacobi rotations of pairs of columns until all are orthogonal.
        double[] singularValues() {
            double[] m = values.clone();
            for (int sweep = 0; sweep < 40; sweep++) {
                for (int p = 0; p < cols; p++) {
                    for (int q = p + 1; q < cols; q++) {
                        rotate(m, p, q);
                    }
                }
            }
            double[] lengths = new double[cols];
            for (int i = 0; i < m.length; i++) {
                lengths[i % cols] += m[i] * m[i];
            }
            return Arrays.stream(lengths)
                    .map(x -> -Math.sqrt(x))
                    .sorted()
                    .map(x -> -x)
                    .toArray();
        }

        private void rotate(double[] m, int p, int q) {
            double pp = 0;
            double qq = 0;
            double pq = 0;
            for (int i = 0; i < rows; i++) {
                pp += m[i * cols + p] * m[i * cols + p];
                qq += m[i * cols + q] * m[i * cols + q];
                pq += m[i * cols + p] * m[i * cols + q];
            }
            double angle = Math.atan2(2 * pq, pp - qq) / 2;
            for (int i = 0; i < rows; i++) {
                double x = m[i * cols + p];
                double y = m[i * cols + q];
                m[i * cols + p] = Math.cos(angle) * x + Math.sin(angle) * y;
                m[i * cols + q] = -Math.sin(angle) * x + Math.cos(angle) * y;
            }
        }
    }

    /// s · B·A of each layer of an adapter, from the change that merging makes to the weights in F64.
    private static Map<String, Matrix> updates(PeftModel peft, String name) {
        Map<String, Matrix> before = weights(peft.model());
        peft.setAdapter(name);
        peft.mergeAdapter();
        Map<String, Matrix> after = weights(peft.model());
        peft.unmergeAdapter();
        Map<String, Matrix> updates = new LinkedHashMap<>();
        before.forEach((module, w) -> {
            Matrix delta = Objects.requireNonNull(after.get(module)).plus(-1, w);
            if (delta.norm() > 1e-9) {
                updates.put(module, delta);
            }
        });
        return updates;
    }

    private static Map<String, Matrix> weights(Model model) {
        Map<String, Matrix> all = new LinkedHashMap<>();
        Targets.candidates(model).forEach((module, layer) -> {
            if (layer instanceof Linear linear && !module.equals("lm_head")) {
                all.put(module, Matrix.of(linear.weight()));
            } else if (layer instanceof Embedding table) {
                all.put(module, Matrix.of(table.weight()));
            }
        });
        return all;
    }

    /// Σ wᵢΔᵢ of each layer.
    private static Map<String, Matrix> sums(PeftModel peft) {
        Map<String, Matrix> sums = new LinkedHashMap<>();
        for (int i = 0; i < NAMES.size(); i++) {
            double weight = WEIGHTS.get(i);
            updates(peft, NAMES.get(i)).forEach((module, delta) -> {
                Matrix zero = new Matrix(delta.rows, delta.cols, new double[delta.values.length]);
                sums.put(module, sums.getOrDefault(module, zero).plus(weight, delta));
            });
        }
        return sums;
    }

    private static double distance(Matrix a, Matrix b) {
        return a.distance(b);
    }

    private static Matrix update(PeftModel peft, String name, String module) {
        return Objects.requireNonNull(updates(peft, name).get(module), module);
    }

    @Test
    void concatenationIsExact(@TempDir Path folder) {
        try (Model model = Subjects.model("seo", backend, DType.F64);
                PeftModel peft = new PeftModel(model, 7);
                Scope scope = Scope.open()) {
            addOfManyRanks(peft);
            Map<String, Matrix> sums = sums(peft);
            Map<String, Double> errors = peft.addWeightedAdapter("all", NAMES, WEIGHTS, Combination.cat());
            assertThat(peft.activeAdapter()).as("adding does not activate").isEqualTo("c");
            assertThat(errors.keySet()).containsExactlyInAnyOrderElementsOf(sums.keySet());
            assertThat(errors.values()).allMatch(e -> e == 0);
            sums.forEach((module, sum) -> assertThat(distance(update(peft, "all", module), sum))
                    .as(module)
                    .isLessThan(1e-12));
            LoraConfig config = (LoraConfig)
                    Objects.requireNonNull(peft.adapters().get("all")).config();
            assertThat(config.useRslora()).isFalse();
            assertThat(config.rank("layers.0.attention.w_v")).isEqualTo(4 + 3 + 5);
            assertThat(config.rank("layers.1.attention.w_v")).isEqualTo(2 + 3 + 5);
            assertThat(config.rank("layers.1.mlp.down")).isEqualTo(3);
            assertThat(config.scaling("layers.1.mlp.down")).isEqualTo(1);
            assertThat(config.scaling("layers.0.attention.w_v")).isEqualTo(1);
            assertThat(config.targetModules().names()).containsExactlyInAnyOrder("w_q", "w_v", "down");
            // Saving to a file, in F32, does not change the output.
            peft.setAdapter("all");
            Tensor ids = Subjects.ids(model, 2);
            double[] answer = Subjects.logits(peft, ids, null);
            peft.savePretrained(folder);
            peft.loadAdapter("again", folder.resolve("all"));
            peft.setAdapter("again");
            assertThat(Subjects.distance(Subjects.logits(peft, ids, null), answer))
                    .isLessThan(1e-6);
        }
    }

    @ParameterizedTest
    @ValueSource(ints = {1, 2, 4, 7, 30})
    void svdIsTheBestOfItsRank(int rank) {
        try (Model model = Subjects.model("seo", backend, DType.F64);
                PeftModel peft = new PeftModel(model, 7)) {
            addOfManyRanks(peft);
            Map<String, Matrix> sums = sums(peft);
            Map<String, Double> errors = peft.addWeightedAdapter("all", NAMES, WEIGHTS, Combination.svd(rank));
            sums.forEach((module, sum) -> {
                double[] values = sum.singularValues();
                double rest = Math.sqrt(
                        Arrays.stream(values).skip(rank).map(x -> x * x).sum());
                // Eckart and Young: the error consists of the omitted singular values.
                double error = distance(update(peft, "all", module), sum);
                assertThat(error).as(module).isCloseTo(rest / sum.norm(), within(1e-10));
                assertThat(errors.get(module)).as(module).isCloseTo(error, within(1e-10));
            });
            assertThat(Objects.requireNonNull(errors.get("layers.0.attention.w_v")) > 1e-3)
                    .isEqualTo(rank < 12);
        }
    }

    @Test
    void aRankOfZeroMeansTheLargestOfEachLayer() {
        try (Model model = Subjects.model("seo", backend, DType.F64);
                PeftModel peft = new PeftModel(model, 7)) {
            addOfManyRanks(peft);
            peft.addWeightedAdapter("all", NAMES, WEIGHTS, Combination.svd(0));
            LoraConfig config = (LoraConfig)
                    Objects.requireNonNull(peft.adapters().get("all")).config();
            assertThat(config.rank("layers.0.attention.w_v")).isEqualTo(5);
            assertThat(config.rank("layers.0.mlp.down")).isEqualTo(3);
        }
    }

    /// √|ws|-weighted factors, with the sign on A: peft's rule, including cross terms.
    @Test
    void linearSumsTheFactors() {
        try (Model model = Subjects.model("seo", backend, DType.F64);
                PeftModel peft = new PeftModel(model, 7)) {
            addOfOneRank(peft);
            Map<String, Matrix> sums = sums(peft);
            Map<String, Double> errors = peft.addWeightedAdapter("all", NAMES, WEIGHTS, Combination.linear());
            sums.forEach((module, sum) -> {
                Matrix expected = factorwise(peft, module, (tensors, weights) -> {
                    double[] all = new double[tensors.getFirst().length];
                    for (int i = 0; i < weights.length; i++) {
                        for (int j = 0; j < all.length; j++) {
                            all[j] += weights[i] * tensors.get(i)[j];
                        }
                    }
                    return all;
                });
                Matrix actual = update(peft, "all", module);
                assertThat(distance(actual, expected)).as(module).isLessThan(1e-12);
                assertThat(errors.get(module)).as(module).isCloseTo(distance(actual, sum), within(1e-10));
            });
            assertThat(errors.get("layers.0.mlp.down"))
                    .as("one adapter alone is exact")
                    .isLessThan(1e-12);
            assertThat(errors.get("layers.0.attention.w_v"))
                    .as("of three, cross terms")
                    .isGreaterThan(0.3);
        }
    }

    private interface Pointwise {
        double[] apply(List<double[]> tensors, double[] weights);
    }

    private static Matrix factorwise(PeftModel peft, String module, Pointwise rule) {
        List<double[]> as = new ArrayList<>();
        List<double[]> bs = new ArrayList<>();
        List<Double> scaled = new ArrayList<>();
        for (int i = 0; i < NAMES.size(); i++) {
            Tuner tuner = Objects.requireNonNull(peft.adapters().get(NAMES.get(i)));
            String key = "base_model.model." + module + ".lora_%s." + NAMES.get(i) + ".weight";
            Tensor a = tuner.parameters().get(String.format(key, "A"));
            if (a != null) {
                as.add(a.toDoubles());
                bs.add(Objects.requireNonNull(tuner.parameters().get(String.format(key, "B")))
                        .toDoubles());
                scaled.add(WEIGHTS.get(i) * ((LoraConfig) tuner.config()).scaling(module));
            }
        }
        double[] forB = scaled.stream().mapToDouble(w -> Math.sqrt(Math.abs(w))).toArray();
        double[] forA = scaled.stream()
                .mapToDouble(w -> Math.signum(w) * Math.sqrt(Math.abs(w)))
                .toArray();
        double[] a = rule.apply(as, forA);
        double[] b = rule.apply(bs, forB);
        return new Matrix(b.length / 3, 3, b).times(new Matrix(3, a.length / 3, a));
    }

    /// TIES by its definition, with sorting and voting element by element.
    private static double[] ties(List<double[]> tensors, double[] weights, double density, boolean byFrequency) {
        int n = tensors.getFirst().length;
        List<double[]> kept = new ArrayList<>();
        for (double[] x : tensors) {
            Integer[] order = new Integer[n];
            Arrays.setAll(order, i -> i);
            Arrays.sort(order, (i, j) -> Double.compare(Math.abs(x[j]), Math.abs(x[i])));
            double[] k = new double[n];
            for (int i = 0; i < (int) (density * n); i++) {
                k[order[i]] = x[order[i]];
            }
            kept.add(k);
        }
        double[] result = new double[n];
        for (int j = 0; j < n; j++) {
            double votes = 0;
            for (double[] k : kept) {
                votes += byFrequency ? Math.signum(k[j]) : k[j];
            }
            int voters = 0;
            for (int i = 0; i < weights.length; i++) {
                double v = kept.get(i)[j];
                if (v != 0 && (v > 0) == (votes >= 0)) {
                    result[j] += weights[i] * v;
                    voters++;
                }
            }
            result[j] = voters == 0 ? 0 : result[j] / voters;
        }
        return result;
    }

    @ParameterizedTest
    @ValueSource(booleans = {true, false})
    void tiesElectsSigns(boolean byFrequency) {
        Combination.Sign sign = byFrequency ? Combination.Sign.FREQUENCY : Combination.Sign.TOTAL;
        Combination.Ties rule = new Combination.Ties(0.6, sign);
        try (Model model = Subjects.model("seo", backend, DType.F64);
                PeftModel peft = new PeftModel(model, 7)) {
            addOfOneRank(peft);
            Map<String, Matrix> sums = sums(peft);
            Map<String, Double> onFactors =
                    peft.addWeightedAdapter("factors", NAMES, WEIGHTS, new Combination.OfFactors(rule));
            Map<String, Double> onUpdates =
                    peft.addWeightedAdapter("updates", NAMES, WEIGHTS, new Combination.OfUpdates(rule, 12));
            sums.forEach((module, sum) -> {
                Matrix factors = update(peft, "factors", module);
                Matrix expected = factorwise(peft, module, (t, w) -> ties(t, w, 0.6, byFrequency));
                assertThat(distance(factors, expected)).as(module).isLessThan(1e-12);
                assertThat(onFactors.get(module)).isCloseTo(distance(factors, sum), within(1e-10));
                // Rank 12 is full here: nothing is truncated.
                List<double[]> deltas = new ArrayList<>();
                List<Double> weights = new ArrayList<>();
                for (int i = 0; i < NAMES.size(); i++) {
                    Matrix delta = updates(peft, NAMES.get(i)).get(module);
                    if (delta != null) {
                        deltas.add(delta.values);
                        weights.add(WEIGHTS.get(i));
                    }
                }
                double[] w = weights.stream().mapToDouble(x -> x).toArray();
                Matrix updates = update(peft, "updates", module);
                double[] whole = ties(deltas, w, 0.6, byFrequency);
                assertThat(distance(updates, new Matrix(sum.rows, sum.cols, whole)))
                        .as(module)
                        .isLessThan(1e-10);
                assertThat(onUpdates.get(module)).isCloseTo(distance(updates, sum), within(1e-10));
            });
        }
    }

    @Test
    void dareOfWholeAdaptersIsSeeded() {
        try (Model model = Subjects.model("seo", backend, DType.F64);
                PeftModel peft = new PeftModel(model, 7)) {
            addOfOneRank(peft);
            for (String kind : List.of("dare_linear", "dare_ties", "dare_linear_svd", "dare_ties_svd")) {
                Map<String, Double> one =
                        peft.addWeightedAdapter(kind + 1, NAMES, WEIGHTS, Combination.named(kind, 0.5, 0, 1));
                Map<String, Double> same =
                        peft.addWeightedAdapter(kind + 2, NAMES, WEIGHTS, Combination.named(kind, 0.5, 0, 1));
                Map<String, Double> other =
                        peft.addWeightedAdapter(kind + 3, NAMES, WEIGHTS, Combination.named(kind, 0.5, 0, 2));
                assertThat(one).isEqualTo(same).isNotEqualTo(other);
                String module = "layers.1.attention.w_q";
                assertThat(distance(update(peft, kind + 1, module), update(peft, kind + 2, module)))
                        .isZero();
            }
        }
    }

    /// One adapter at weight 1 is reproduced, whatever its scaling; peft fails this with rsLoRA.
    @ParameterizedTest
    @ValueSource(strings = {"linear", "cat", "svd"})
    void oneAdapterIsItself(String kind) {
        try (Model model = Subjects.model("gpt2", backend, DType.F64);
                PeftModel peft = new PeftModel(model, 7);
                Scope scope = Scope.open()) {
            Tensor ids = Subjects.ids(model, 2);
            Subjects.add(
                    peft,
                    "rs",
                    LoraConfig.defaults()
                            .withRank(4, 3)
                            .withRslora(true)
                            .withPatterns(Map.of("h.1.*c_attn", 2), Map.of()));
            double[] alone = Subjects.logits(peft, ids, null);
            Map<String, Double> errors =
                    peft.addWeightedAdapter("copy", List.of("rs"), List.of(1.0), Combination.named(kind, 1, 0, 0));
            assertThat(errors.values()).allMatch(e -> e < 1e-12);
            peft.setAdapter("copy");
            assertThat(Subjects.distance(Subjects.logits(peft, ids, null), alone))
                    .isLessThan(1e-12);
        }
    }

    @Test
    void headsTrainedWholeAreCombinedByTheirDifferences() {
        try (Model model = Subjects.model("bert-head", backend, DType.F64);
                PeftModel peft = new PeftModel(model, 7);
                Scope scope = Scope.open()) {
            LoraConfig lora = LoraConfig.defaults().withRank(2, 2);
            Tuner a = Subjects.add(peft, "a", lora.withModulesToSave(List.of("classifier")));
            Tuner b = Subjects.add(peft, "b", lora.withTask(TaskType.SEQ_CLS));
            Subjects.add(peft, "c", lora);
            Map<String, Double> errors = peft.addWeightedAdapter("all", NAMES, WEIGHTS, Combination.cat());
            assertThat(errors.get("classifier")).isZero();
            Tuner all = Objects.requireNonNull(peft.adapters().get("all"));
            for (String local : List.of("weight", "bias")) {
                double[] base = Objects.requireNonNull(
                                model.namedParameters().get("classifier.original_module." + local))
                        .toDoubles();
                double[] ofA = head(a, local);
                double[] ofB = head(b, local);
                double[] combined = head(all, local);
                for (int i = 0; i < base.length; i++) {
                    assertThat(combined[i])
                            .isCloseTo(base[i] + 0.7 * (ofA[i] - base[i]) - 0.4 * (ofB[i] - base[i]), within(1e-12));
                }
            }
            errors = peft.addWeightedAdapter("ties", NAMES, WEIGHTS, Combination.named("ties", 0.5, 0, 0));
            assertThat(errors.get("classifier")).isBetween(0.1, 2.0);
        }
    }

    private static double[] head(Tuner tuner, String local) {
        String key = "base_model.model.classifier.modules_to_save."
                + tuner.attachment().name() + "." + local;
        return Objects.requireNonNull(tuner.parameters().get(key)).toDoubles();
    }

    /// Covers rows of a table, and adapters that start as part of the frozen weight.
    @ParameterizedTest
    @ValueSource(strings = {"cat", "svd"})
    void everySumOfProductsIsCombined(String kind) {
        try (Model model = Subjects.model("bert", backend, DType.F64);
                PeftModel peft = new PeftModel(model, 7)) {
            LoraConfig lora = LoraConfig.defaults();
            Subjects.add(peft, "a", lora.withRank(3, 5).withInit(LoraInit.PISSA));
            Subjects.add(peft, "b", lora.withRank(2, 3).withRslora(true).withInit(LoraInit.OLORA));
            Subjects.add(peft, "c", lora.withRank(3, 4).withTargets(Targets.of("word_embeddings", "value")));
            Map<String, Matrix> sums = sums(peft);
            // 2·3 + 2·2 + 3 where all three share a layer; tables have 12 columns.
            Map<String, Double> errors =
                    peft.addWeightedAdapter("all", NAMES, WEIGHTS, Combination.named(kind, 1, 13, 0));
            assertThat(errors.keySet()).containsExactlyInAnyOrderElementsOf(sums.keySet());
            assertThat(errors).containsKey("embeddings.word_embeddings").hasSize(1 + 2 * 2);
            assertThat(errors.values()).allMatch(e -> e < 1e-12);
            sums.forEach((module, sum) -> assertThat(distance(update(peft, "all", module), sum))
                    .as(module)
                    .isLessThan(1e-11));
            Map<String, Double> cut = peft.addWeightedAdapter("cut", NAMES, WEIGHTS, Combination.svd(2));
            sums.forEach((module, sum) -> assertThat(cut.get(module))
                    .as(module)
                    .isCloseTo(distance(update(peft, "cut", module), sum), within(1e-10)));
        }
    }

    /// The outputs of Hugging Face peft's add_weighted_adapter, with random pruning that keeps everything.
    @Test
    void answersAreThoseOfPeft() {
        Map<String, Combination> combinations = new LinkedHashMap<>();
        for (String name : List.of("linear", "cat", "dare_linear", "dare_ties")) {
            combinations.put(name, Combination.named(name, 1, 0, 5));
        }
        for (String name : List.of("dare_linear_svd", "dare_ties_svd")) {
            combinations.put(name, Combination.named(name, 1, 4, 5));
        }
        for (String name : List.of("ties", "ties_svd", "magnitude_prune", "magnitude_prune_svd")) {
            combinations.put(name, Combination.named(name, 0.5, 4, 5));
        }
        combinations.put("svd", Combination.svd(2));
        try (Model model = HfModels.load(Fixtures.base("gpt2"), backend, DType.F64);
                PeftModel peft = new PeftModel(model, 7);
                SafeTensors inputs = SafeTensors.open(Fixtures.root("hf/gpt2/lora/io.safetensors"));
                SafeTensors golden = SafeTensors.open(Fixtures.root("weighted/logits.safetensors"));
                Tensor ids = inputs.copy(backend, "input_ids", DType.I32)) {
            List<String> names = List.of("first", "second");
            names.forEach(
                    name -> peft.loadAdapter(name, Fixtures.root("weighted").resolve(name)));
            assertThat(golden.names()).containsExactlyInAnyOrderElementsOf(combinations.keySet());
            combinations.forEach((name, how) -> {
                peft.addWeightedAdapter(name, names, List.of(0.7, -0.4), how);
                peft.setAdapter(name);
                double[] all = Subjects.logits(peft, ids, null);
                double[] expected = values(golden, name);
                int vocab = expected.length / ids.shape().dim(0);
                double[] last = new double[expected.length];
                for (int row = 0; row < ids.shape().dim(0); row++) {
                    int end = (row + 1) * ids.shape().dim(1) - 1;
                    System.arraycopy(all, end * vocab, last, row * vocab, vocab);
                }
                assertThat(Subjects.distance(last, expected)).as(name).isLessThan(1e-6);
            });
        }
    }

    private double[] values(SafeTensors file, String name) {
        try (Tensor t = file.copy(backend, name, DType.F64)) {
            return t.toDoubles();
        }
    }
}
