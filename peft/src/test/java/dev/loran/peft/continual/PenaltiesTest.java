package dev.loran.peft.continual;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.DataLoader;
import dev.loran.peft.data.Examples;
import dev.loran.peft.model.Model;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.train.TaskModel;
import dev.loran.peft.train.Tiny;
import dev.loran.peft.tuner.LoraConfig;
import dev.loran.peft.tuner.PeftModel;
import dev.loran.peft.tuner.Tuner;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.SplittableRandom;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

/// The strategies' penalties: their values, and their gradients compared with finite differences in F64.
class PenaltiesTest {
    private final ReferenceBackend backend = new ReferenceBackend();
    private final SplittableRandom random = new SplittableRandom(3);

    @AfterEach
    void nothingIsLeft() {
        assertThat(backend.liveBuffers()).isZero();
    }

    private Tensor random(int... dims) {
        return Tensor.randn(backend, DType.F64, random, 1, dims);
    }

    private static <T> T of(Map<String, T> map, String name) {
        return Objects.requireNonNull(map.get(name), name);
    }

    /// Compares the derivative of `penalty` in one random direction of all parameters with finite differences.
    private void check(Map<String, Tensor> parameters, Supplier<Tensor> penalty) {
        double eps = 1e-5;
        Map<String, double[]> start = new LinkedHashMap<>();
        Map<String, double[]> direction = new LinkedHashMap<>();
        parameters.forEach((name, p) -> {
            p.requiresGrad(true);
            start.put(name, p.toDoubles());
            direction.put(
                    name, random.doubles(p.shape().size()).map(v -> v - 0.5).toArray());
        });
        double derivative = 0;
        try (Scope scope = Scope.open()) {
            penalty.get().backward();
        }
        for (Map.Entry<String, Tensor> e : parameters.entrySet()) {
            double[] g = Objects.requireNonNull(e.getValue().grad(), e.getKey()).toDoubles();
            double[] d = of(direction, e.getKey());
            for (int i = 0; i < g.length; i++) {
                derivative += g[i] * d[i];
            }
            e.getValue().zeroGrad();
        }
        double difference =
                (at(parameters, start, direction, eps, penalty) - at(parameters, start, direction, -eps, penalty))
                        / (2 * eps);
        assertThat(derivative).isCloseTo(difference, within(1e-7 * Math.max(1, Math.abs(difference))));
        assertThat(Math.abs(derivative)).isGreaterThan(1e-3);
    }

    private double at(
            Map<String, Tensor> parameters,
            Map<String, double[]> start,
            Map<String, double[]> direction,
            double eps,
            Supplier<Tensor> penalty) {
        try (Scope scope = Scope.open()) {
            parameters.forEach((name, p) -> {
                double[] values = of(start, name).clone();
                for (int i = 0; i < values.length; i++) {
                    values[i] += eps * of(direction, name)[i];
                }
                p.copyFrom(Tensor.of(backend, DType.F64, values, p.shape().dims()));
            });
            return penalty.get().item();
        }
    }

    @Test
    void theAnchorPullsEveryParameterByItsImportance() {
        try (Scope scope = Scope.open()) {
            Map<String, Tensor> now = new LinkedHashMap<>();
            now.put("lora", random(3, 5));
            // A head that has grown from 2 classes to 4.
            now.put("head.weight", random(4, 3));
            now.put("head.bias", random(4));
            Anchor before =
                    new Anchor(Map.of("lora", random(3, 5), "head.weight", random(2, 3), "head.bias", random(2)));
            Map<String, Tensor> importance =
                    Map.of("lora", random(3, 5), "head.weight", random(2, 3), "head.bias", random(2));
            pulls(before, now, null);
            pulls(before, now, importance);
        }
    }

    private void pulls(Anchor before, Map<String, Tensor> now, @Nullable Map<String, Tensor> importance) {
        double sum = 0;
        for (String name : now.keySet()) {
            double[] a = of(now, name).toDoubles();
            double[] b = of(before.values(), name).toDoubles();
            double[] f =
                    importance == null ? new double[0] : of(importance, name).toDoubles();
            for (int i = 0; i < b.length; i++) {
                sum += (importance == null ? 1 : f[i]) * (a[i] - b[i]) * (a[i] - b[i]);
            }
        }
        assertThat(before.penalty(now, importance, 3).item()).isCloseTo(1.5 * sum, within(1e-12));
        check(now, () -> before.penalty(now, importance, 3));
    }

    @Test
    void orthogonalLorasAreKeptApart() {
        try (Model model = Tiny.encoder(backend, DType.F64);
                PeftModel peft = new PeftModel(model, 7);
                Scope scope = Scope.open()) {
            Tuner now = peft.addAdapter("default", LoraConfig.defaults().withRank(2, 4));
            Tuner one = peft.addAdapter("task-1", LoraConfig.defaults().withRank(2, 4));
            Tuner two = peft.addAdapter("task-2", LoraConfig.defaults().withRank(3, 4));
            peft.setAdapter("default", List.of("task-1", "task-2"));
            Map<String, Tensor> parameters = new LinkedHashMap<>(peft.trainableParameters());
            try (Subspaces subspaces = Subspaces.of(peft.active(), List.of(one, two))) {
                double sum = 0;
                for (String name : now.parameters().keySet()) {
                    if (name.contains(".lora_A.")) {
                        for (Tuner earlier : List.of(one, two)) {
                            String its =
                                    name.replace("default", earlier.attachment().name());
                            Tensor product = Objects.requireNonNull(
                                            earlier.parameters().get(its))
                                    .detach()
                                    .matmul(now.parameters().get(name).detach().transpose(0, 1));
                            for (double v : product.toDoubles()) {
                                sum += v * v;
                            }
                        }
                    }
                }
                assertThat(sum).isPositive();
                assertThat(subspaces.penalty(parameters, 0.5).item()).isCloseTo(0.5 * sum, within(1e-12));
                parameters.keySet().removeIf(name -> name.contains(".lora_B."));
                check(parameters, () -> subspaces.penalty(parameters, 50));
            }
        }
    }

    /// F of one weight and one bias of the head, compared with the squares of finite differences of each row's loss.
    @Test
    void theFisherInformationIsTheMeanOfSquaredGradientsOfRows() {
        Examples rows = Tiny.examples(6, 1);
        try (Model model = Tiny.encoder(backend, DType.F64);
                PeftModel peft = new PeftModel(model, 7)) {
            peft.addAdapter("default", LoraConfig.defaults().withRank(2, 4).withDropout(0.3));
            try (TaskModel learner = TaskModel.of(peft, TaskCard.classify(Tiny.LABELS, Tiny.POSITIONS), 1);
                    Anchor fisher = Objects.requireNonNull(Anchor.fisher(learner, rows, 100, 5, () -> false))) {
                assertThat(fisher.values().keySet())
                        .isEqualTo(learner.parameters().keySet());
                for (String name : List.of("head.weight", "head.bias")) {
                    Tensor p = Objects.requireNonNull(learner.parameters().get(name));
                    double sum = 0;
                    for (Batch row : new DataLoader(rows, DataLoader.Options.evaluation(1)).epoch(0)) {
                        double slope = (lossAt(learner, row, p, 1e-5) - lossAt(learner, row, p, -1e-5)) / 2e-5;
                        sum += slope * slope;
                    }
                    assertThat(of(fisher.values(), name).toDoubles()[1]).isCloseTo(sum / 6, within(1e-8));
                    assertThat(sum).isPositive();
                }
                assertThat(Anchor.fisher(learner, rows, 2, 5, () -> true)).isNull();
            }
        }
    }

    private double lossAt(TaskModel learner, Batch row, Tensor p, double eps) {
        try (Scope scope = Scope.open()) {
            double[] values = p.toDoubles();
            double[] moved = values.clone();
            moved[1] += eps;
            p.copyFrom(Tensor.of(backend, DType.F64, moved, p.shape().dims()));
            double loss = learner.loss(row).item();
            p.copyFrom(Tensor.of(backend, DType.F64, values, p.shape().dims()));
            return loss;
        }
    }
}
