package dev.loran.peft.tuner;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.kernels.cuda.CudaBackend;
import dev.loran.peft.PeftTrainer;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.Labels;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.TaskType;
import dev.loran.peft.task.LmTask;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.train.TaskModel;
import dev.loran.peft.train.Trainer;
import dev.loran.peft.train.TrainerConfig;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.SplittableRandom;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestInstance;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

/// Every method trained on CudaBackend, for F32 and BF16 models, compared with the reference; on the CPU stand-in, or
/// with `-Dloran.test.gpu=true` on a real GPU.
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
class CudaMethodsTest {
    private static final int STEPS = 20;
    private static final Path STAND_IN = Path.of("..", "kernels", "target", "standin");

    private CudaBackend cuda;
    private CudaBackend bf16;

    @BeforeAll
    void open() throws IOException {
        if (Boolean.getBoolean("loran.test.gpu")) {
            cuda = CudaBackend.open(0, DType.F32);
            bf16 = CudaBackend.open(0, DType.BF16);
            return;
        }
        Path reason = STAND_IN.resolve("why-not");
        assumeTrue(
                !Files.exists(reason),
                Files.exists(reason) ? Files.readString(reason).strip() : "");
        assumeTrue(Files.isDirectory(STAND_IN), "the build made no CPU stand-in: JCuda has no natives for this system");
        cuda = CudaBackend.standIn(STAND_IN, DType.F32);
        bf16 = CudaBackend.standIn(STAND_IN, DType.BF16);
    }

    @AfterAll
    void close() {
        for (CudaBackend backend : new CudaBackend[] {cuda, bf16}) {
            if (backend != null) {
                backend.close();
            }
        }
    }

    static Stream<Arguments> cases() {
        Map<String, PeftConfig> all = new LinkedHashMap<>(MethodsTest.methods());
        all.put("dora", LoraConfig.defaults().withRank(3, 6).withDora(true));
        all.put(
                "adalora",
                AdaLoraConfig.defaults().withRanks(3, 2).withSchedule(3, 3, 2).withTotalStep(STEPS));
        LoraConfig lora = LoraConfig.defaults().withRank(3, 6);
        all.put("lora, own bias", lora.withInit(LoraInit.FALSE).withLoraBias(true));
        all.put("lora, base biases", lora.withBias(LoraConfig.Bias.ALL));
        all.put("lora, tables and heads", lora.withTargets(Targets.of("embed_tokens", "q_proj")));
        all.put("lora, tokens", lora.withTrainableTokens(List.of(9, 4)));
        all.put("pissa", lora.withInit(LoraInit.PISSA));
        return all.entrySet().stream().map(e -> {
            // Grouped heads and rope in one model; biases, its own dropout rates and a classifier in the other.
            String family = e.getKey().length() % 2 == 0 && !e.getKey().equals("bitfit") ? "llama" : "bert-head";
            return Arguments.of(family, e.getKey(), e.getValue());
        });
    }

    @ParameterizedTest(name = "{0}: {1}")
    @MethodSource("cases")
    void lossesOfTwentyStepsAreTheCpus(String family, String method, PeftConfig config) {
        List<Double> expected = losses(family, config, new ReferenceBackend());
        List<Double> actual = losses(family, config, cuda);
        compare(expected, actual, 1e-4);
        assertThat(cuda.liveBytes()).as("bytes never released").isZero();
        List<Double> mixed = losses(family, config, bf16);
        compare(expected, mixed, 2e-2);
        assertThat(bf16.liveBytes()).as("bytes never released").isZero();
        assertThat(mixed).as("activations are rounded").isNotEqualTo(actual);
    }

    @Test
    void aWholeModelTrainsInBf16() {
        for (String family : List.of("llama", "qwen3", "gemma2", "gpt_neox", "bert-head", "gpt2")) {
            List<Double> expected = lossesOfAll(family, new ReferenceBackend());
            compare(expected, lossesOfAll(family, cuda), 1e-4);
            compare(expected, lossesOfAll(family, bf16), 2e-2);
            assertThat(bf16.liveBytes()).as("bytes never released").isZero();
        }
    }

    private static List<Double> lossesOfAll(String family, Backend backend) {
        List<Double> losses = new ArrayList<>();
        try (Model model = Subjects.model(family, backend, backend.storage())) {
            boolean classify = model.task() == TaskType.SEQ_CLS;
            TaskCard card = classify
                    ? TaskCard.classify(new Labels(List.of("a", "b", "c", "d")), 8)
                    : TaskCard.of(new LmTask(), 8);
            TrainerConfig config = TrainerConfig.defaults()
                    .withRate(new TrainerConfig.Rate(0.002, 1, TrainerConfig.Schedule.CONSTANT, 0))
                    .withSteps(STEPS);
            try (TaskModel learner = TaskModel.full(model, card, 1);
                    Trainer trainer = new Trainer(learner, config)) {
                for (int i = 0; i < STEPS; i++) {
                    losses.add(trainer.trainStep(batch(classify)).loss());
                }
                assertThat(learner.parameters().values())
                        .extracting(Tensor::dtype)
                        .containsOnly(DType.F32);
                assertThat(model.dtype()).isEqualTo(backend.storage());
            }
        }
        return losses;
    }

    private static void compare(List<Double> expected, List<Double> actual, double bound) {
        assertThat(actual).hasSize(STEPS);
        for (int i = 0; i < STEPS; i++) {
            assertThat(actual.get(i)).as("step " + i).isCloseTo(expected.get(i), within(bound * expected.get(i)));
        }
        assertThat(actual.getLast()).as("it learns").isLessThan(actual.getFirst());
    }

    /// The loss before each step, always on the same batch.
    private static List<Double> losses(String family, PeftConfig config, Backend backend) {
        List<Double> losses = new ArrayList<>();
        Map<String, Object> options = Map.of("lr", 0.01, "total_steps", STEPS);
        try (Model model = Subjects.model(family, backend, backend.storage())) {
            Batch batch = batch(model.task() == TaskType.SEQ_CLS);
            try (PeftTrainer trainer = new PeftTrainer(model, config, options)) {
                model.prepare();
                for (int i = 0; i < STEPS; i++) {
                    losses.add(trainer.trainStep(batch).get("loss"));
                }
                assertThat(trainer.manager().peftModel().trainableParameters().values())
                        .extracting(Tensor::dtype)
                        .containsOnly(DType.F32);
            }
        }
        return losses;
    }

    /// Two rows of five tokens, the second padded by two.
    private static Batch batch(boolean classify) {
        int[] ids = new SplittableRandom(3).ints(10, 1, Subjects.VOCAB).toArray();
        int[] mask = {1, 1, 1, 1, 1, 1, 1, 1, 0, 0};
        int[] labels = ids.clone();
        labels[8] = Batch.IGNORE;
        labels[9] = Batch.IGNORE;
        return new Batch(ids, mask, classify ? new int[] {1, 3} : labels, new int[] {0, 1}, 2, 5, 8, classify ? 2 : 6);
    }
}
