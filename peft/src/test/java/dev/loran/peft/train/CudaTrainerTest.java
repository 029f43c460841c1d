package dev.loran.peft.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.kernels.Backends;
import dev.loran.kernels.cuda.CudaBackend;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.DataLoader;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.TinyTokenizers;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.decoder.LlamaModel;
import dev.loran.peft.task.ClassifyTask;
import dev.loran.peft.task.LmTask;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.train.TrainerConfig.Rate;
import dev.loran.peft.train.TrainerConfig.Schedule;
import dev.loran.peft.tuner.AdaLoraConfig;
import dev.loran.peft.tuner.BottleneckConfig;
import dev.loran.peft.tuner.LnTuningConfig;
import dev.loran.peft.tuner.LoraConfig;
import dev.loran.peft.tuner.PeftConfig;
import dev.loran.peft.tuner.PeftModel;
import dev.loran.peft.tuner.PrefixTuningConfig;
import dev.loran.peft.tuner.PromptTuningConfig;
import dev.loran.peft.tuner.Targets;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.function.Function;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestInstance;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

/// The trainer on CudaBackend: steps recorded and replayed, runs that change the device, memory over many steps. Runs
/// on the CPU stand-in, or with `-Dloran.test.gpu=true` on a real GPU.
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
class CudaTrainerTest {
    private static final Path STAND_IN = Path.of("..", "kernels", "target", "standin");
    private static final TaskCard CLASSIFY = TaskCard.classify(Tiny.LABELS, Tiny.POSITIONS);
    private static final TaskCard LM = TaskCard.of(new LmTask(), Tiny.POSITIONS);

    @TempDir
    Path folder;

    private CudaBackend cuda;
    private CudaBackend bf16;

    @BeforeAll
    void open() throws IOException {
        cuda = cuda(DType.F32);
        bf16 = cuda(DType.BF16);
    }

    private static CudaBackend cuda(DType operands) throws IOException {
        if (Boolean.getBoolean("loran.test.gpu")) {
            return CudaBackend.open(0, operands);
        }
        Path reason = STAND_IN.resolve("why-not");
        assumeTrue(
                !Files.exists(reason),
                Files.exists(reason) ? Files.readString(reason).strip() : "");
        assumeTrue(Files.isDirectory(STAND_IN), "the build made no CPU stand-in: JCuda has no natives for this system");
        return CudaBackend.standIn(STAND_IN, operands);
    }

    @AfterAll
    void close() {
        for (CudaBackend backend : new CudaBackend[] {cuda, bf16}) {
            if (backend != null) {
                backend.close();
            }
        }
    }

    private static TrainerConfig config(int steps) {
        return TrainerConfig.defaults()
                .withSteps(steps)
                .withBatch(4, 1)
                .withRate(new Rate(1e-2, 5, Schedule.LINEAR, 2))
                .withCheckpoints(new TrainerConfig.Checkpoints(5, 2));
    }

    private static Model model(Backend backend, DType type, TaskCard card) {
        return card == LM ? Tiny.causal(backend, type) : Tiny.encoder(backend, type);
    }

    private static <R> R withModel(Backend backend, TaskCard card, PeftConfig config, Function<TaskModel, R> use) {
        try (Model base = model(backend, backend.storage(), card);
                PeftModel peft = new PeftModel(base, 7)) {
            peft.addAdapter("default", config);
            try (TaskModel model = TaskModel.of(peft, card, 11)) {
                return use.apply(model);
            }
        }
    }

    // ---- recorded steps

    /// The results of a run, and the number of submissions to the driver in each step.
    private record Trace(List<Double> numbers, Map<String, double[]> parameters, List<Long> submissions) {}

    static Stream<Arguments> methods() {
        LoraConfig lora = LoraConfig.defaults().withRank(3, 6).withDropout(0.2);
        return Stream.of(
                Arguments.of("lora, classify", CLASSIFY, lora),
                Arguments.of("lora, lm", LM, lora),
                Arguments.of("prompt, classify", CLASSIFY, PromptTuningConfig.of(3)),
                Arguments.of(
                        "adalora, lm",
                        LM,
                        AdaLoraConfig.defaults().withRanks(4, 2).withSchedule(4, 5, 4)));
    }

    /// Trains on batches of several shapes, repeatedly.
    private static Trace trace(
            CudaBackend cuda, TaskCard card, PeftConfig method, List<Batch> batches, boolean recorded) {
        return withModel(cuda, card, method, model -> {
            Trace trace = new Trace(new ArrayList<>(), new LinkedHashMap<>(), new ArrayList<>());
            try (Trainer trainer = new Trainer(recorded ? model : new Around(model), config(20))) {
                for (int i = 0; i < 20; i++) {
                    long before = cuda.submissions();
                    StepResult result = trainer.trainStep(batches.get(i % batches.size()));
                    trace.submissions.add(cuda.submissions() - before);
                    trace.numbers.addAll(List.of(result.loss(), result.penalty(), result.gradNorm()));
                }
            }
            model.parameters().forEach((name, t) -> trace.parameters.put(name, t.toDoubles()));
            return trace;
        });
    }

    @ParameterizedTest(name = "{0}")
    @MethodSource("methods")
    void recordedStepsGiveTheBitsOfStepsThatAreNot(String name, TaskCard card, PeftConfig method) {
        Examples examples = card == LM ? Tiny.texts(16, 3) : Tiny.examples(16, 3);
        List<Batch> batches = new DataLoader(examples, DataLoader.Options.training(4, 5))
                .epoch(0)
                .subList(0, 2);
        recordedStepsGiveTheBitsOfStepsThatAreNot(cuda, card, method, batches);
        recordedStepsGiveTheBitsOfStepsThatAreNot(bf16, card, method, batches);
    }

    /// Batches of one shape, with rows that are pairs whose second text starts at different positions, or single texts.
    @Test
    void recordedStepsReadTheTypesOfEachBatch() {
        List<Row.Classify> rows = List.of(
                new Row.Classify("buy red shoes", "running", "sport"),
                new Row.Classify("buy red shoes running online", "sport"),
                new Row.Classify("buy", "red shoes running", "purchase"));
        Examples examples;
        try (Tokenizer tokenizer = TinyTokenizers.wordPiece()) {
            examples = Examples.of(
                    new ClassifyTask(), rows, tokenizer, Examples.Options.of(Tiny.POSITIONS), CLASSIFY.labels());
        }
        List<Batch> batches = new DataLoader(examples, new DataLoader.Options(1, false, 0, false, false, 1)).epoch(0);
        assertThat(batches).extracting(Batch::length).containsOnly(8);
        recordedStepsGiveTheBitsOfStepsThatAreNot(cuda, CLASSIFY, LoraConfig.defaults(), batches);
        recordedStepsGiveTheBitsOfStepsThatAreNot(cuda, CLASSIFY, PromptTuningConfig.of(3), batches);
    }

    private static void recordedStepsGiveTheBitsOfStepsThatAreNot(
            CudaBackend cuda, TaskCard card, PeftConfig method, List<Batch> batches) {
        long live = cuda.liveBytes();
        Trace expected = trace(cuda, card, method, batches, false);
        Trace actual = trace(cuda, card, method, batches, true);
        assertThat(actual.numbers).isEqualTo(expected.numbers);
        assertThat(actual.parameters.keySet()).isEqualTo(expected.parameters.keySet());
        actual.parameters.forEach((key, values) -> assertThat(values).as(key).isEqualTo(expected.parameters.get(key)));
        assertThat(cuda.liveBytes()).as("bytes never released").isEqualTo(live);
        // A few numbers and inputs to the device, one launch, three numbers back.
        assertThat(actual.submissions.get(5)).isLessThanOrEqualTo(12);
        assertThat(expected.submissions.get(5)).isGreaterThan(100);
        long replays = actual.submissions.stream().filter(s -> s <= 12).count();
        assertThat(replays).isGreaterThanOrEqualTo(method instanceof AdaLoraConfig ? 8 : 16);
    }

    @Test
    void moreShapesThanAreKeptStillTrain() {
        LoraConfig lora = LoraConfig.defaults().withRank(2, 4);
        Examples texts = Tiny.texts(40, 1);
        List<Double> losses = withModel(cuda, LM, lora, model -> {
            List<Double> all = new ArrayList<>();
            try (Trainer trainer = new Trainer(model, config(60))) {
                for (int round = 0; round < 3; round++) {
                    for (int rows = 1; rows <= 20; rows++) {
                        Batch batch = new DataLoader(texts, new DataLoader.Options(rows, false, 0, false, false, 1))
                                .epoch(0)
                                .getFirst();
                        all.add(trainer.trainStep(batch).loss());
                    }
                }
            }
            return all;
        });
        assertThat(losses.getLast()).isLessThan(losses.get(19));
    }

    @Test
    void aThousandStepsKeepMemoryConstant() {
        LoraConfig lora = LoraConfig.defaults().withRank(2, 4).withTargets(Targets.of("w_q"));
        Batch batch = new DataLoader(Tiny.texts(2, 1), DataLoader.Options.evaluation(2))
                .epoch(0)
                .getFirst();
        long live = cuda.liveBytes();
        withModel(cuda, LM, lora, model -> {
            try (Trainer trainer = new Trainer(model, config(1000))) {
                for (int i = 0; i < 3; i++) {
                    trainer.trainStep(batch).loss();
                }
                long held = cuda.heldBytes();
                long inUse = cuda.liveBytes();
                for (int i = 3; i < 1000; i++) {
                    trainer.trainStep(batch);
                }
                assertThat(cuda.heldBytes()).isEqualTo(held);
                assertThat(cuda.liveBytes()).isEqualTo(inUse);
            }
            return true;
        });
        assertThat(cuda.liveBytes()).as("a closed model holds nothing").isEqualTo(live);
    }

    // ---- memory

    /// The memory that the third of three steps takes beyond what was held before it.
    private static long ofAStep(CudaBackend cuda) {
        LlamaModel.Config sizes = LlamaModel.Config.of(64, 64, 192, 4, 4, 2, 64);
        LoraConfig lora =
                LoraConfig.defaults().withRank(4, 8).withDropout(0.1).withTargets(Targets.of("q_proj", "v_proj"));
        Batch batch = new MemoryPlan.Largest(4, 64, false).batch(TaskCard.of(new LmTask(), 64));
        long live = cuda.liveBytes();
        long most;
        try (Model base = LlamaModel.random(sizes, cuda, cuda.storage(), 7);
                PeftModel peft = new PeftModel(base, 7)) {
            peft.addAdapter("default", lora);
            try (TaskModel model = TaskModel.of(peft, TaskCard.of(new LmTask(), 64), 11);
                    Trainer trainer = new Trainer(new Around(model), config(3))) {
                trainer.trainStep(batch).loss();
                trainer.trainStep(batch).loss();
                long before = cuda.liveBytes();
                cuda.resetPeak();
                trainer.trainStep(batch).loss();
                most = cuda.peakBytes() - before;
                assertThat(cuda.liveBytes()).isEqualTo(before);
            }
        }
        assertThat(cuda.liveBytes()).isEqualTo(live);
        return most;
    }

    @Test
    void aStepInBf16TakesLittleMoreThanHalf() {
        assertThat((double) ofAStep(bf16) / ofAStep(cuda)).isBetween(0.45, 0.65);
    }

    private static Examples alike(TaskCard card) {
        String text = "buy red shoes online";
        Row row = card == LM ? new Row.Text(text) : new Row.Classify(text, "sport");
        try (Tokenizer tokenizer = TinyTokenizers.wordPiece()) {
            return Examples.of(
                    card.task(),
                    Collections.nCopies(10, row),
                    tokenizer,
                    Examples.Options.of(Tiny.POSITIONS),
                    card.labels());
        }
    }

    /// The plan covers the peak of a run: its first steps, the recorded and replayed ones, and evaluation.
    @Test
    void thePlanIsTheMostThatARunTakes() {
        LoraConfig lora = LoraConfig.defaults().withRank(3, 6).withDropout(0.1);
        List<PeftConfig> methods = List.of(
                lora,
                lora.withDora(true),
                AdaLoraConfig.defaults().withRanks(4, 2).withSchedule(2, 1, 1),
                PromptTuningConfig.of(3),
                PrefixTuningConfig.of(3).withProjection(5),
                BottleneckConfig.houlsby().withSize(4),
                LnTuningConfig.defaults());
        TrainerConfig config = config(5).withBatch(5, 1).withEvaluation(2, 0);
        for (CudaBackend gpu : List.of(cuda, bf16)) {
            for (TaskCard card : List.of(CLASSIFY, LM)) {
                Examples rows = alike(card);
                MemoryPlan.Largest largest = MemoryPlan.Largest.of(rows, 5);
                for (PeftConfig method : methods) {
                    MemoryPlan plan = MemoryPlan.of(
                            gpu, b -> model(b, gpu.storage(), card), method, card, config, 5, largest, largest);
                    gpu.resetPeak();
                    withModel(gpu, card, method, model -> {
                        try (Trainer trainer = new Trainer(model, config)) {
                            return trainer.train(rows, rows, null, new TrainingListener() {});
                        }
                    });
                    assertThat(Objects.requireNonNull(plan).total())
                            .as("%s, %s, %s", method.peftType(), card.task(), gpu.storage())
                            .isEqualTo(gpu.peakBytes());
                }
            }
        }
    }

    // ---- one run on two devices

    /// A training run of ten steps with a checkpoint after the fifth, after which it ends if asked to. Returns the
    /// losses by step.
    private Map<Integer, Double> run(Backend backend, Path run, boolean resume, int until) {
        Map<Integer, Double> losses = new LinkedHashMap<>();
        LoraConfig lora = LoraConfig.defaults().withRank(3, 6).withDropout(0.1);
        withModel(backend, CLASSIFY, lora, model -> {
            try (Trainer trainer = new Trainer(model, config(10))) {
                trainer.train(
                        Tiny.examples(17, 2),
                        null,
                        resume ? RunFolder.resume(run) : RunFolder.create(run),
                        new TrainingListener() {
                            @Override
                            public void step(StepResult result, int totalSteps, double seconds) {
                                losses.put(result.step(), result.loss());
                                if (result.step() == until) {
                                    throw new Ended();
                                }
                            }
                        });
            } catch (Ended e) {
                assertThat(trainerStopped(losses)).isEqualTo(until);
            }
            return true;
        });
        return losses;
    }

    private static int trainerStopped(Map<Integer, Double> losses) {
        return losses.keySet().stream().mapToInt(i -> i).max().orElse(0);
    }

    private static final class Ended extends RuntimeException {
        private static final long serialVersionUID = 1;
    }

    @Test
    void aRunBegunOnOneDeviceGoesOnOnTheOther() {
        try (Backend cpu = Backends.simd(2)) {
            goesOn(cpu, cuda, 1e-4);
        }
    }

    /// On the CPU only operands are rounded, on the GPU activations too; trained parameters are F32 on both.
    @Test
    void soDoesARunInBf16() {
        try (Backend cpu = Backends.best(2, DType.BF16)) {
            goesOn(cpu, bf16, 2e-2);
        }
    }

    private void goesOn(Backend cpu, Backend gpu, double bound) {
        String name = gpu.storage().toString();
        Map<Integer, Double> whole = run(cpu, folder.resolve(name), false, 0);
        assertThat(whole).hasSize(10);
        List<List<Backend>> changes = List.of(List.of(cpu, gpu), List.of(gpu, cpu));
        for (int i = 0; i < changes.size(); i++) {
            Path run = folder.resolve(name + "-changed-" + i);
            // The values of the sixth step arrive after the checkpoint of the fifth.
            Map<Integer, Double> losses = new LinkedHashMap<>(run(changes.get(i).get(0), run, false, 6));
            Map<Integer, Double> rest = run(changes.get(i).get(1), run, true, 0);
            assertThat(rest.keySet()).containsExactly(6, 7, 8, 9, 10);
            losses.putAll(rest);
            whole.forEach((step, loss) ->
                    assertThat(losses.get(step)).as("step " + step).isCloseTo(loss, within(bound * loss)));
        }
    }

    @Test
    void aRunDoesNotGoOnWithOtherOperands() {
        try (Backend cpu = Backends.simd(1)) {
            Path run = folder.resolve("operands");
            run(cpu, run, false, 6);
            assertThatThrownBy(() -> run(bf16, run, true, 0))
                    .isInstanceOf(InputException.class)
                    .hasMessageContaining(
                            "is of a run with learner.operands F32, not BF16; resume with what the run was"
                                    + " begun with, or begin another one");
        }
    }
}
