package dev.loran.peft.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.kernels.Backends;
import dev.loran.kernels.simd.SimdBackend;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.DataLoader;
import dev.loran.peft.data.Examples;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import dev.loran.peft.task.LmTask;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.train.TrainerConfig.Rate;
import dev.loran.peft.train.TrainerConfig.Schedule;
import dev.loran.peft.tuner.LoraConfig;
import dev.loran.peft.tuner.PeftModel;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.function.Consumer;
import org.junit.jupiter.api.Test;

class TrainerTest {
    private static final TrainerConfig CONFIG =
            TrainerConfig.defaults().withSteps(6).withBatch(8, 1).withRate(new Rate(1e-2, 5, Schedule.CONSTANT, 0));

    private static final TaskCard CLASSIFY = TaskCard.classify(Tiny.LABELS, Tiny.POSITIONS);

    private static LoraConfig lora(double dropout) {
        return LoraConfig.defaults().withRank(3, 6).withDropout(dropout);
    }

    /// Runs `test` with a tiny encoder with LoRA and a new head; checks that the reference backend has no buffers left.
    private static void withClassifier(Backend backend, DType dtype, double dropout, Consumer<TaskModel> test) {
        try (Model base = Tiny.encoder(backend, dtype);
                PeftModel peft = new PeftModel(base, 7)) {
            peft.addAdapter("default", lora(dropout));
            try (TaskModel model = TaskModel.of(peft, CLASSIFY, 11)) {
                test.accept(model);
            }
        }
        if (backend instanceof ReferenceBackend reference) {
            assertThat(reference.liveBuffers()).isZero();
        }
        backend.close();
    }

    private static Map<String, double[]> values(Map<String, Tensor> tensors) {
        Map<String, double[]> values = new LinkedHashMap<>();
        tensors.forEach((name, t) -> values.put(name, t.toDoubles()));
        return values;
    }

    private static void assertClose(Map<String, double[]> actual, Map<String, double[]> expected, double tolerance) {
        assertThat(actual.keySet()).isEqualTo(expected.keySet());
        actual.forEach((name, a) -> assertThat(a)
                .as(name)
                .usingComparatorWithPrecision(tolerance)
                .containsExactly(Objects.requireNonNull(expected.get(name))));
    }

    private static List<Batch> batches(Examples examples, int size) {
        return new DataLoader(examples, new DataLoader.Options(size, false, 0, false, false, 1)).epoch(0);
    }

    // ---- accumulation

    private static Map<String, double[]> after(List<Batch> batches, TaskModel model, List<Double> losses) {
        try (Trainer trainer = new Trainer(model, CONFIG)) {
            for (int i = 0; i < 3; i++) {
                losses.add(trainer.trainStep(batches).loss());
            }
        }
        return values(model.parameters());
    }

    @Test
    void microBatchesEqualOneBatchOfAllTheirRows() {
        Examples examples = Tiny.examples(11, 1);
        List<Map<String, double[]>> results = new ArrayList<>();
        List<Double> losses = new ArrayList<>();
        for (int size : new int[] {11, 4, 1}) {
            withClassifier(
                    new ReferenceBackend(),
                    DType.F64,
                    0,
                    model -> results.add(after(batches(examples, size), model, losses)));
        }
        assertClose(results.get(1), results.get(0), 1e-9);
        assertClose(results.get(2), results.get(0), 1e-9);
        for (int i = 0; i < 3; i++) {
            assertThat(losses.get(3 + i)).isCloseTo(losses.get(i), within(1e-9));
            assertThat(losses.get(6 + i)).isCloseTo(losses.get(i), within(1e-9));
        }
    }

    @Test
    void microBatchesOfALanguageModelWeighByTheirPredictedTokens() {
        Examples texts = Tiny.texts(7, 2);
        List<Map<String, double[]>> results = new ArrayList<>();
        List<Double> losses = new ArrayList<>();
        for (int size : new int[] {7, 3}) {
            try (ReferenceBackend backend = new ReferenceBackend();
                    Model base = Tiny.causal(backend, DType.F64);
                    PeftModel peft = new PeftModel(base, 7)) {
                peft.addAdapter("default", lora(0));
                try (TaskModel model = TaskModel.of(peft, TaskCard.of(new LmTask(), Tiny.POSITIONS), 1)) {
                    results.add(after(batches(texts, size), model, losses));
                }
            }
        }
        assertThat(batches(texts, 3).stream().map(Batch::lossTerms).distinct().count())
                .isGreaterThan(1);
        assertClose(results.get(1), results.get(0), 1e-9);
        for (int i = 0; i < 3; i++) {
            assertThat(losses.get(3 + i)).isCloseTo(losses.get(i), within(1e-9));
        }
    }

    // ---- determinism

    @Test
    void sameSeedSameBitsForAnyNumberOfThreads() {
        Examples examples = Tiny.examples(20, 1);
        List<Map<String, double[]>> results = new ArrayList<>();
        for (int threads : new int[] {1, 2, 2}) {
            withClassifier(Backends.simd(threads), DType.F32, 0.3, model -> {
                try (Trainer trainer = new Trainer(model, CONFIG)) {
                    trainer.train(examples, null, null, new TrainingListener() {});
                }
                results.add(values(model.parameters()));
            });
        }
        assertClose(results.get(1), results.get(0), 0);
        assertClose(results.get(2), results.get(0), 0);
    }

    @Test
    void anotherSeedGivesAnotherOrderOfRows() {
        Examples examples = Tiny.examples(20, 1);
        List<Map<String, double[]>> results = new ArrayList<>();
        for (long seed : new long[] {1, 2}) {
            withClassifier(new ReferenceBackend(), DType.F32, 0, model -> {
                try (Trainer trainer = new Trainer(model, CONFIG.withSeed(seed))) {
                    trainer.train(examples, null, null, new TrainingListener() {});
                }
                results.add(values(model.parameters()));
            });
        }
        assertThat(results.get(0).get("head.weight"))
                .isNotEqualTo(results.get(1).get("head.weight"));
    }

    /// Rounding of operands, and of sums, is small compared with what a hundred steps learn.
    @Test
    void aHundredStepsGiveTheReferencesLossInF32AndNearlyInBf16() {
        List<Backend> backends = List.of(new ReferenceBackend(), Backends.simd(2), new SimdBackend(2, DType.BF16));
        double[] tolerances = {0, 1e-3, 2e-2};
        List<Double> losses = new ArrayList<>();
        for (int i = 0; i < backends.size(); i++) {
            withClassifier(backends.get(i), DType.F32, 0.1, model -> {
                List<Double> all = new ArrayList<>();
                try (Trainer trainer = new Trainer(model, CONFIG.withSteps(100))) {
                    trainer.train(Tiny.examples(40, 1), null, null, new TrainingListener() {
                        @Override
                        public void step(StepResult result, int totalSteps, double seconds) {
                            all.add(result.loss());
                        }
                    });
                }
                assertThat(all).hasSize(100);
                assertThat(all.getLast()).isLessThan(all.getFirst());
                losses.add(all.getLast());
            });
            assertThat(losses.get(i)).isCloseTo(losses.getFirst(), within(tolerances[i]));
        }
        assertThat(losses.getLast()).isNotEqualTo(losses.getFirst());
    }

    // ---- what trains

    @Test
    void frozenWeightsKeepTheirBitsWhileAAndBAndHeadMove() {
        withClassifier(new ReferenceBackend(), DType.F32, 0.1, model -> {
            Map<String, Tensor> trained = model.parameters();
            Map<String, Tensor> frozen = new LinkedHashMap<>(model.model().namedParameters());
            frozen.values().removeAll(trained.values());
            Map<String, double[]> frozenBefore = values(frozen);
            Map<String, double[]> before = values(trained);
            try (Trainer trainer = new Trainer(model, CONFIG)) {
                trainer.train(Tiny.examples(16, 1), null, null, new TrainingListener() {});
            }
            assertThat(frozenBefore).hasSizeGreaterThan(30);
            assertClose(values(frozen), frozenBefore, 0);
            assertThat(before.keySet())
                    .contains(
                            "base_model.model.encoder.layer.1.attention.self.value.lora_A.default.weight",
                            "base_model.model.encoder.layer.1.attention.self.value.lora_B.default.weight",
                            "head.weight",
                            "head.bias");
            values(trained).forEach((name, after) -> assertThat(after).as(name).isNotEqualTo(before.get(name)));
        });
    }

    @Test
    void theHeadLearnsAtItsOwnRate() {
        withClassifier(new ReferenceBackend(), DType.F64, 0, model -> {
            Map<String, double[]> before = values(model.parameters());
            TrainerConfig config = CONFIG.withWeightDecay(0).withRate(new Rate(1e-3, 7, Schedule.CONSTANT, 0));
            try (Trainer trainer = new Trainer(model, config)) {
                assertThat(trainer.trainStep(batches(Tiny.examples(8, 1), 8)).learningRate())
                        .isEqualTo(1e-3);
            }
            // Adam's first step moves every element with a gradient by the learning rate.
            String b = "base_model.model.encoder.layer.0.attention.self.query.lora_B.default.weight";
            Map<String, double[]> after = values(model.parameters());
            assertThat(largestChange(before, after, b)).isCloseTo(1e-3, within(1e-5));
            assertThat(largestChange(before, after, "head.weight")).isCloseTo(7e-3, within(1e-5));
        });
    }

    private static double largestChange(Map<String, double[]> before, Map<String, double[]> after, String name) {
        double[] a = Objects.requireNonNull(before.get(name));
        double[] b = Objects.requireNonNull(after.get(name));
        double largest = 0;
        for (int i = 0; i < a.length; i++) {
            largest = Math.max(largest, Math.abs(b[i] - a[i]));
        }
        return largest;
    }

    @Test
    void aStepReportsLossRateAndNormOneStepLateToo() {
        withClassifier(new ReferenceBackend(), DType.F64, 0, model -> {
            List<Batch> batch = batches(Tiny.examples(8, 1), 8);
            double loss;
            try (Scope scope = Scope.open()) {
                loss = model.loss(batch.getFirst()).item();
            }
            Rate rate = new Rate(1e-2, 1, Schedule.LINEAR, 2);
            try (Trainer trainer = new Trainer(model, CONFIG.withRate(rate))) {
                List<StepResult> results = new ArrayList<>();
                for (int i = 0; i < 6; i++) {
                    results.add(trainer.trainStep(batch));
                }
                assertThat(results.getFirst().loss()).isCloseTo(loss, within(1e-12));
                // The first step of a warm-up moves nothing.
                assertThat(results.get(1).loss()).isEqualTo(results.getFirst().loss());
                assertThat(results.get(5).loss()).isLessThan(loss);
                assertThat(results).extracting(StepResult::step).containsExactly(1, 2, 3, 4, 5, 6);
                assertThat(results)
                        .extracting(StepResult::learningRate)
                        .usingComparatorForType((a, b) -> Math.abs(a - b) < 1e-12 ? 0 : 1, Double.class)
                        .containsExactly(0.0, 5e-3, 1e-2, 7.5e-3, 5e-3, 2.5e-3);
                assertThat(results.getFirst().gradNorm()).isPositive();
                assertThat(results.getFirst().tokens())
                        .isEqualTo(batch.getFirst().tokens());
            }
        });
    }

    // ---- memory

    @Test
    void aStepTakesNothingFromTheSystemOnceItsLikeHasPassed() {
        SimdBackend backend = (SimdBackend) Backends.simd(1);
        withClassifier(backend, DType.F32, 0.1, model -> {
            List<Long> counts = new ArrayList<>();
            // 8 steps per epoch, with rows of 3 to 8 tokens; the last step has half as many rows.
            try (Trainer trainer = new Trainer(model, CONFIG.withEpochs(4))) {
                trainer.train(Tiny.examples(60, 1), null, null, new TrainingListener() {
                    @Override
                    public void step(StepResult result, int totalSteps, double seconds) {
                        counts.add(backend.systemAllocations());
                    }
                });
            }
            assertThat(counts).hasSize(32);
            assertThat(counts.subList(8, 32)).containsOnly(counts.get(8));
            // The longest batch ran first: shorter ones fit into its memory, except for a few odd sizes.
            assertThat(counts.getLast()).isLessThan(counts.getFirst() * 11 / 10);
        });
    }

    // ---- resuming

    @Test
    void aTrainerThatTakesOverStateGoesOnWithTheSameBits() {
        Examples examples = Tiny.examples(20, 1);
        List<Map<String, double[]>> results = new ArrayList<>();
        withClassifier(new ReferenceBackend(), DType.F32, 0.2, model -> {
            try (Trainer trainer = new Trainer(model, CONFIG)) {
                trainer.train(examples, null, null, new TrainingListener() {});
            }
            results.add(values(model.parameters()));
        });
        withClassifier(new ReferenceBackend(), DType.F32, 0.2, model -> {
            try (Scope scope = Scope.open()) {
                Map<String, Tensor> state;
                List<Batch> first = new DataLoader(examples, DataLoader.Options.training(8, CONFIG.seed())).epoch(0);
                try (Trainer trainer = new Trainer(model, CONFIG)) {
                    trainer.trainStep(first.get(0));
                    trainer.trainStep(first.get(1));
                    state = new LinkedHashMap<>();
                    trainer.state().forEach((name, t) -> state.put(name, copy(t)));
                }
                try (Trainer next = new Trainer(model, CONFIG)) {
                    next.load(state);
                    assertThat(next.step()).isEqualTo(2);
                    next.train(examples, null, null, new TrainingListener() {});
                    assertThat(next.step()).isEqualTo(6);
                }
            }
            results.add(values(model.parameters()));
        });
        assertClose(results.get(1), results.get(0), 0);
    }

    private static Tensor copy(Tensor t) {
        return Tensor.empty(t.backend(), t.dtype(), t.shape().dims()).copyFrom(t);
    }

    @Test
    void stateOfAnotherRunIsRefused() {
        withClassifier(new ReferenceBackend(), DType.F32, 0, model -> {
            try (Trainer trainer = new Trainer(model, CONFIG);
                    Trainer longer = new Trainer(model, CONFIG.withSteps(9));
                    Scope scope = Scope.open()) {
                trainer.trainStep(batches(Tiny.examples(8, 1), 8));
                longer.load(trainer.state());
                assertThatThrownBy(() -> longer.train(Tiny.examples(8, 1), null, null, new TrainingListener() {}))
                        .isInstanceOf(InputException.class)
                        .hasMessage(
                                "trainer: this run has 9 steps, but it was begun as one of 6; keep rows, batch size, "
                                        + "epochs and steps as they were");
                assertThatThrownBy(() -> longer.load(Map.of()))
                        .isInstanceOf(IllegalArgumentException.class)
                        .hasMessage("trainer: state lacks trainer.step");
            }
        });
    }

    // ---- errors

    @Test
    void aLossThatIsNoNumberStopsTheRun() {
        withClassifier(new ReferenceBackend(), DType.F32, 0, model -> {
            TrainerConfig config = CONFIG.withSteps(60).withRate(new Rate(9e5, 1, Schedule.CONSTANT, 0));
            try (Trainer trainer = new Trainer(model, config.withMaxGradNorm(Double.POSITIVE_INFINITY))) {
                Tensor head = Objects.requireNonNull(model.parameters().get("head.weight"));
                model.backend().fill(head.buffer(), Double.NaN);
                assertThatThrownBy(() -> trainer.train(Tiny.examples(8, 1), null, null, new TrainingListener() {}))
                        .isInstanceOf(DivergedException.class)
                        .hasMessage("the loss is NaN at step 1, in rows 3, 4, 5, 7, 6, 1, 8, 2: first in the output of "
                                + "operation 42, LinearOp (8, 2), with head.weight; lower the learning rate (900000.0), "
                                + "or leave such steps out (skipBadSteps)");
            }
        });
    }

    @Test
    void ownLoopsSayHowManyStepsThereWillBe() {
        withClassifier(new ReferenceBackend(), DType.F32, 0, model -> {
            try (Trainer trainer = new Trainer(model, CONFIG.withSteps(0))) {
                assertThatThrownBy(() -> trainer.trainStep(batches(Tiny.examples(8, 1), 8)))
                        .isInstanceOf(IllegalStateException.class)
                        .hasMessage("trainStep: the learning rate depends on the number of steps; set it with "
                                + "TrainerConfig.withSteps");
            }
        });
    }

    @Test
    void nothingToTrainIsAnError() {
        try (ReferenceBackend backend = new ReferenceBackend();
                Model base = Tiny.causal(backend, DType.F32);
                PeftModel peft = new PeftModel(base, 7);
                TaskModel model = TaskModel.of(peft, TaskCard.of(new LmTask(), Tiny.POSITIONS), 1)) {
            assertThatThrownBy(() -> new Trainer(model, CONFIG))
                    .isInstanceOf(IllegalStateException.class)
                    .hasMessageStartingWith(
                            "nothing of the model trains: seo has no active adapter; call peft.addAdapter(");
        }
    }

    @Test
    void aWarmUpMustEndBeforeTheRun() {
        Rate rate = new Rate(1e-3, 5, Schedule.LINEAR, 20);
        assertThatThrownBy(() -> rate.over(20))
                .isInstanceOf(InputException.class)
                .hasMessage("a warm-up of 20 steps does not fit a run of 20; warm up for fewer, or train longer");
        assertThat(rate.over(40).factor(20)).isEqualTo(1);
        assertThat(Rate.defaults().over(40).factor(8)).isEqualTo(1);
        assertThat(Rate.defaults().over(1000).factor(20)).isEqualTo(1);
        assertThat(Rate.defaults().over(1000).factor(19)).isLessThan(1);
    }

    @Test
    void configurationsAreChecked() {
        assertThatThrownBy(() -> CONFIG.withEpochs(0))
                .isInstanceOf(InputException.class)
                .hasMessage("epochs is 0, must be at least 1");
        assertThatThrownBy(() -> CONFIG.withBatch(0, 1)).hasMessage("batch size is 0, must be at least 1");
        assertThatThrownBy(() -> CONFIG.withBatch(1, 0)).hasMessage("accumulation is 0, must be at least 1");
        assertThatThrownBy(() -> CONFIG.withWeightDecay(-1))
                .hasMessage("weight decay is -1.0, must be at least 0 and less than 1e6");
        assertThatThrownBy(() -> CONFIG.withMaxGradNorm(0))
                .hasMessage("largest gradient norm is 0.0, must be positive");
        assertThatThrownBy(() -> Rate.of(Double.NaN))
                .hasMessage("learning rate is NaN, must be positive and less than 1e6");
        assertThatThrownBy(() -> CONFIG.withEvaluation(0, -1))
                .hasMessage("patience is -1, must be at least 1, or 0 to never stop early");
        assertThatThrownBy(() -> Schedule.named("step"))
                .hasMessage("schedule \"step\" is not known; choose constant, linear or cosine");
    }

    // ---- loss scaling

    /// A task model whose loss is infinite in some micro-steps.
    private static final class Overflowing extends Around {
        private final Set<Integer> when;
        private int microStep;

        Overflowing(TaskModel model, Integer... when) {
            super(model);
            this.when = Set.of(when);
        }

        @Override
        public void microStep(int number) {
            super.microStep(number);
            microStep = number;
        }

        @Override
        public Tensor loss(Batch batch) {
            Tensor loss = super.loss(batch);
            return when.contains(microStep) ? loss.scale(Double.POSITIVE_INFINITY) : loss;
        }
    }

    @Test
    void scalingTheLossByAPowerOfTwoChangesNoBit() {
        List<Map<String, double[]>> results = new ArrayList<>();
        for (double scale : new double[] {0, 65536}) {
            withClassifier(new SimdBackend(1), DType.F32, 0.1, model -> {
                try (Trainer trainer = new Trainer(model, CONFIG.withLossScale(scale))) {
                    TrainingReport report = trainer.train(Tiny.examples(20, 1), null, null, new TrainingListener() {});
                    assertThat(report.trainLoss()).isBetween(0.1, 2.0);
                }
                results.add(values(model.parameters()));
            });
        }
        assertClose(results.get(1), results.get(0), 0);
    }

    @Test
    void aStepWithInfiniteGradientsIsLeftOutAndTheScaleIsHalved() {
        List<Batch> batches = batches(Tiny.examples(32, 1), 8);
        List<Map<String, double[]>> results = new ArrayList<>();
        withClassifier(new ReferenceBackend(), DType.F32, 0, model -> {
            try (Trainer trainer = new Trainer(new Overflowing(model, 1), CONFIG.withLossScale(1024))) {
                trainer.trainStep(batches.get(0));
                Map<String, double[]> before = values(model.parameters());
                StepResult left = trainer.trainStep(batches.get(1));
                assertThat(left.loss()).isEqualTo(Double.POSITIVE_INFINITY);
                assertThat(left.gradNorm()).isNaN();
                assertClose(values(model.parameters()), before, 0);
                try (Scope scope = Scope.open()) {
                    assertThat(Objects.requireNonNull(trainer.state().get("scaler.scale"))
                                    .item())
                            .isEqualTo(512);
                }
                trainer.trainStep(batches.get(2));
                trainer.trainStep(batches.get(3));
            }
            results.add(values(model.parameters()));
        });
        // The moments and their step counts are those of a run without that batch.
        withClassifier(new ReferenceBackend(), DType.F32, 0, model -> {
            try (Trainer trainer = new Trainer(new Overflowing(model), CONFIG)) {
                for (int i : new int[] {0, 2, 3}) {
                    trainer.trainStep(batches.get(i));
                }
            }
            results.add(values(model.parameters()));
        });
        assertClose(results.get(0), results.get(1), 0);
    }

    @Test
    void theScaleIsPartOfTheState() {
        List<Batch> batches = batches(Tiny.examples(16, 1), 8);
        List<Double> scales = new ArrayList<>();
        withClassifier(new ReferenceBackend(), DType.F32, 0, model -> {
            try (Scope scope = Scope.open();
                    Trainer one = new Trainer(new Overflowing(model, 0), CONFIG.withLossScale(64));
                    Trainer other = new Trainer(model, CONFIG.withLossScale(64))) {
                one.trainStep(batches.get(0));
                one.trainStep(batches.get(1));
                other.load(one.state());
                scales.add(Objects.requireNonNull(other.state().get("scaler.scale"))
                        .item());
                assertThat(other.step()).isEqualTo(2);
            }
        });
        assertThat(scales).containsExactly(32.0);
    }

    @Test
    void aLossThatStaysInfiniteEndsTheRunOnceTheScaleIsSmall() {
        withClassifier(new ReferenceBackend(), DType.F32, 0, model -> {
            try (Trainer trainer = new Trainer(new Overflowing(model, 0, 1, 2, 3, 4, 5), CONFIG.withLossScale(4))) {
                assertThatThrownBy(() -> trainer.train(Tiny.examples(20, 1), null, null, new TrainingListener() {}))
                        .isInstanceOf(DivergedException.class)
                        .hasMessageStartingWith("the loss is Infinity at step ");
                // Two were skipped while a lower scale might have helped.
                assertThat(trainer.step()).isEqualTo(2);
            }
        });
    }
}
