package dev.loran.peft.tuner;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.optim.AdamW;
import dev.loran.engine.optim.GradClip;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.decoder.SeoTransformer;
import dev.loran.peft.model.decoder.TransformerConfig;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.SplittableRandom;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/// The allocator in full training runs of a small model in double precision. ([HfParityTest] compares its arithmetic
/// with peft's, step by step.)
class AdaLoraTest {
    private static final int STEPS = 24;

    @TempDir
    Path folder;

    private final ReferenceBackend backend = new ReferenceBackend();
    private final SeoTransformer model =
            SeoTransformer.random(new TransformerConfig(8, 2, 2, 20).withMaxPositions(12), backend, DType.F64, 1);

    private static AdaLoraConfig config() {
        return AdaLoraConfig.defaults()
                .withRanks(4, 2)
                .withSchedule(4, 6, 3)
                .withLora(LoraConfig.defaults().withRank(1, 8).withTargets(Targets.of("w_q", "w_k", "w_v", "w_o")));
    }

    /// The loss, the penalty and the number of live triplets at each step.
    private record Run(List<Double> losses, List<Double> penalties, List<Integer> live) {}

    private Run train(PeftModel peft, Tuner tuner, AdamW adamW, int from, int to) {
        Run run = new Run(new ArrayList<>(), new ArrayList<>(), new ArrayList<>());
        SplittableRandom random = new SplittableRandom(8);
        int[] ids = random.ints(3 * 9, 0, 20).toArray();
        try (GradClip clip = new GradClip(backend, DType.F64, 1)) {
            for (int step = from; step < to; step++) {
                try (Scope scope = Scope.open()) {
                    Tensor text = Tensor.ofInts(backend, ids, 3, 9);
                    Tensor loss = peft.loss(text, null, text);
                    Tensor penalty = tuner.penalty();
                    run.losses.add(loss.item());
                    run.penalties.add(penalty == null ? 0.0 : penalty.item());
                    Tuner.trainingLoss(loss, penalty).backward();
                }
                Map<String, Tensor> parameters = tuner.parameters();
                clip.norm(parameters.values());
                adamW.advance(0.02);
                adamW.step(parameters, clip.scale());
                tuner.afterStep(step + 1, clip.scale(), adamW);
                adamW.zeroGrad(parameters);
                run.live.add(tuner.ranks().values().stream()
                        .mapToInt(Integer::intValue)
                        .sum());
            }
        }
        return run;
    }

    private AdamW adamW() {
        return new AdamW(backend, DType.F64, AdamW.Config.of(0.01));
    }

    private Run trainAll(AdaLoraConfig config) {
        try (PeftModel peft = new PeftModel(model, 3);
                AdamW adamW = adamW()) {
            Tuner tuner = peft.addAdapter("default", config);
            tuner.beginTraining(STEPS);
            return train(peft, tuner, adamW, 0, STEPS);
        }
    }

    @Test
    void endsAtTheTargetExactlyAndStaysThere() {
        for (boolean shrink : new boolean[] {true, false}) {
            Run run = trainAll(config().withShrink(shrink));
            assertThat(run.live.getFirst()).isEqualTo(4 * 8);
            assertThat(run.live.subList(STEPS - 7, STEPS))
                    .as("shrink " + shrink)
                    .containsOnly(2 * 8);
            assertThat(run.losses.getLast()).isLessThan(run.losses.getFirst());
        }
        // The model's own parameters, and its position table.
        assertThat(backend.liveBuffers()).isEqualTo(model.namedParameters().size() + 1);
    }

    @Test
    void aBudgetThatNeverShrinksPrunesNothing() {
        Run run = trainAll(config().withRanks(3, 3));
        assertThat(run.live).containsOnly(3 * 8);
    }

    /// Compacted tensors train like uncompacted ones whose dead rows are masked everywhere: in forward, penalty,
    /// gradient norm and moments.
    @Test
    void shrinkingEqualsMasking() {
        Run compacted = trainAll(config());
        Run masked = trainAllMasked();
        for (int i = 0; i < STEPS; i++) {
            assertThat(compacted.losses.get(i)).as("loss at " + i).isCloseTo(masked.losses.get(i), within(1e-10));
            assertThat(compacted.penalties.get(i))
                    .as("penalty at " + i)
                    .isCloseTo(masked.penalties.get(i), within(1e-10));
        }
    }

    /// The oracle: peft's arithmetic up to the last allocation; after that, dead rows of A, columns of B and entries of
    /// E are zero, and so are their gradients, and the penalty includes only live ones.
    private Run trainAllMasked() {
        try (PeftModel peft = new PeftModel(model, 3);
                AdamW adamW = adamW();
                GradClip clip = new GradClip(backend, DType.F64, 1)) {
            Tuner tuner = peft.addAdapter("default", config().withShrink(false));
            tuner.beginTraining(STEPS);
            int last = STEPS - 6;
            Run run = train(peft, tuner, adamW, 0, last);
            Map<String, double[]> masks = masks(tuner);
            zero(tuner.parameters(), masks);
            SplittableRandom random = new SplittableRandom(8);
            int[] ids = random.ints(3 * 9, 0, 20).toArray();
            for (int step = last; step < STEPS; step++) {
                Map<String, Tensor> parameters = tuner.parameters();
                try (Scope scope = Scope.open()) {
                    Tensor text = Tensor.ofInts(backend, ids, 3, 9);
                    Tensor loss = peft.loss(text, null, text);
                    Tensor penalty = livePenalty(parameters, masks);
                    run.losses.add(loss.item());
                    run.penalties.add(penalty.item());
                    loss.add(penalty.reshape()).backward();
                }
                parameters.forEach((name, p) -> {
                    Tensor grad = java.util.Objects.requireNonNull(p.grad());
                    multiply(grad, java.util.Objects.requireNonNull(masks.get(name)));
                });
                clip.norm(parameters.values());
                adamW.advance(0.02);
                adamW.step(parameters, clip.scale());
                adamW.zeroGrad(parameters);
                zero(parameters, masks);
                run.live.add(tuner.ranks().values().stream()
                        .mapToInt(Integer::intValue)
                        .sum());
            }
            return run;
        }
    }

    /// Masks for each A, B and E, with ones where the triplet is live.
    private static Map<String, double[]> masks(Tuner tuner) {
        Map<String, double[]> masks = new LinkedHashMap<>();
        tuner.parameters().forEach((name, e) -> {
            if (name.endsWith("lora_E.default")) {
                double[] live = java.util.Arrays.stream(e.toDoubles())
                        .map(x -> x == 0 ? 0 : 1)
                        .toArray();
                masks.put(name, live);
                String a = name.replace("lora_E", "lora_A");
                String b = name.replace("lora_E", "lora_B");
                int r = live.length;
                Tensor ta = java.util.Objects.requireNonNull(tuner.parameters().get(a));
                Tensor tb = java.util.Objects.requireNonNull(tuner.parameters().get(b));
                double[] ma = new double[(int) ta.shape().size()];
                double[] mb = new double[(int) tb.shape().size()];
                for (int i = 0; i < ma.length; i++) {
                    ma[i] = live[i / (ma.length / r)];
                }
                for (int i = 0; i < mb.length; i++) {
                    mb[i] = live[i % r];
                }
                masks.put(a, ma);
                masks.put(b, mb);
            }
        });
        return masks;
    }

    private static void zero(Map<String, Tensor> parameters, Map<String, double[]> masks) {
        parameters.forEach((name, p) -> multiply(p, java.util.Objects.requireNonNull(masks.get(name))));
    }

    private static void multiply(Tensor t, double[] mask) {
        double[] values = t.toDoubles();
        for (int i = 0; i < values.length; i++) {
            values[i] *= mask[i];
        }
        try (Tensor masked = Tensor.of(t.backend(), t.dtype(), values, t.shape().dims())) {
            t.copyFrom(masked);
        }
    }

    /// 0.5 times the mean over all A and B of ‖G − diag(live)‖, where G is the Gram matrix of the live rows.
    private static Tensor livePenalty(Map<String, Tensor> parameters, Map<String, double[]> masks) {
        Tensor sum = null;
        int count = 0;
        for (Map.Entry<String, Tensor> e : parameters.entrySet()) {
            boolean a = e.getKey().contains("lora_A");
            if (!a && !e.getKey().contains("lora_B")) {
                continue;
            }
            count++;
            double[] live = masks.get(e.getKey().replace(a ? "lora_A" : "lora_B", "lora_E"));
            int r = java.util.Objects.requireNonNull(live).length;
            double[] diagonal = new double[r * r];
            for (int i = 0; i < r; i++) {
                diagonal[i * r + i] = live[i];
            }
            if (java.util.Arrays.stream(live).sum() == 0) {
                continue;
            }
            Tensor p = e.getValue();
            Tensor gram = dev.loran.engine.functional.Functional.matmul(p, p, !a, a);
            Tensor d = gram.sub(Tensor.of(p.backend(), p.dtype(), diagonal, r, r));
            Tensor norm = dev.loran.engine.functional.Functional.unary(
                    dev.loran.engine.backend.UnaryFn.SQRT, d.mul(d).sum());
            sum = sum == null ? norm : sum.add(norm);
        }
        return java.util.Objects.requireNonNull(sum).scale(0.5 / count);
    }

    @Test
    void savedBetweenAllocationsItKeepsAllTriplets() {
        try (PeftModel peft = new PeftModel(model, 3);
                AdamW adamW = adamW()) {
            Tuner tuner = peft.addAdapter("default", config());
            tuner.beginTraining(STEPS);
            train(peft, tuner, adamW, 0, 12);
            peft.savePretrained(folder);
            Map<String, double[]> before = values(tuner);
            try (PeftModel again = new PeftModel(model, 4)) {
                Map<String, double[]> after = values(again.loadAdapter("default", folder));
                assertThat(after.keySet()).isEqualTo(before.keySet());
                before.forEach((name, v) -> assertThat(after.get(name)).as(name).containsExactly(v, within(1e-7)));
            }
        }
    }

    @Test
    void savedAfterwardsItHoldsTheLiveOnes() {
        try (PeftModel peft = new PeftModel(model, 3);
                AdamW adamW = adamW()) {
            Tuner tuner = peft.addAdapter("default", config());
            tuner.beginTraining(STEPS);
            train(peft, tuner, adamW, 0, STEPS);
            peft.savePretrained(folder);
            try (PeftModel again = new PeftModel(model, 4)) {
                Tuner loaded = again.loadAdapter("default", folder);
                assertThat(loaded.ranks()).isEqualTo(tuner.ranks());
            }
        }
    }

    private static Map<String, double[]> values(Tuner tuner) {
        Map<String, double[]> all = new LinkedHashMap<>();
        tuner.parameters().forEach((name, t) -> all.put(name, t.toDoubles()));
        return all;
    }

    @Test
    void schedulesThatDoNotFitAreRefused() {
        try (PeftModel peft = new PeftModel(model, 3)) {
            Tuner tuner = peft.addAdapter("default", config());
            assertThatThrownBy(() -> tuner.beginTraining(10))
                    .isInstanceOf(InputException.class)
                    .hasMessage("AdaLoraConfig: tinit 4 and tfinal 6 leave no step to allocate in 10 steps; "
                            + "tinit + tfinal must be less than the number of steps");
        }
        assertThatThrownBy(() -> config().withRanks(2, 4))
                .isInstanceOf(InputException.class)
                .hasMessageContaining("target_r is 4, must be at least 1 and at most init_r = 2");
    }
}
