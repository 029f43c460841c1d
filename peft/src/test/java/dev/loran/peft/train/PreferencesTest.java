package dev.loran.peft.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.testing.GradCheck;
import dev.loran.kernels.simd.SimdBackend;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.DataLoader;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.TinyTokenizers;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import dev.loran.peft.task.Evaluation;
import dev.loran.peft.task.PreferTask;
import dev.loran.peft.task.PreferTask.Judgement;
import dev.loran.peft.task.PreferTask.Loss;
import dev.loran.peft.task.PreferTask.Preference;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.train.MemoryPlan.Largest;
import dev.loran.peft.train.SharedBaseTrainer.Configuration;
import dev.loran.peft.train.SharedBaseTrainer.Run;
import dev.loran.peft.tuner.LoraConfig;
import dev.loran.peft.tuner.PeftConfig;
import dev.loran.peft.tuner.PeftModel;
import dev.loran.peft.tuner.PrefixTuningConfig;
import dev.loran.peft.tuner.PromptTuningConfig;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Random;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/// Task `prefer` is trained, resumed, planned, and measured.
class PreferencesTest {
    private static final TrainerConfig CONFIG =
            TrainerConfig.defaults().withEpochs(6).withBatch(8, 1).withRate(TrainerConfig.Rate.of(1e-2));
    private static final PreferTask KTO = new PreferTask(Loss.KTO, 0.2, 0, 1.25, 0.75);
    private static final List<String> WORDS = List.of("buy", "cheap", "shoes", "run", "online", "red");

    @TempDir
    Path folder;

    /// The chosen answer is the last word of the prompt, the rejected one another word, or several.
    private static Examples examples(int n, long seed) {
        return examples(new PreferTask(), n, seed);
    }

    private static Examples examples(PreferTask task, int n, long seed) {
        Random random = new Random(seed);
        List<Preference> rows = new ArrayList<>();
        for (int i = 0; i < n; i++) {
            String last = WORDS.get(random.nextInt(6));
            String other = WORDS.get((WORDS.indexOf(last) + 1 + random.nextInt(5)) % 6);
            rows.add(new Preference(
                    "query ".repeat(random.nextInt(4)) + last, last, other + " red".repeat(random.nextInt(3))));
        }
        return examples(task, rows, Tiny.POSITIONS);
    }

    private static Examples examples(List<? extends Row> rows, int maxLength) {
        return examples(new PreferTask(), rows, maxLength);
    }

    private static Examples examples(PreferTask task, List<? extends Row> rows, int maxLength) {
        try (Tokenizer tokenizer = TinyTokenizers.wordPiece()) {
            return Examples.of(task, rows, tokenizer, Examples.Options.of(maxLength), null);
        }
    }

    /// @param method null if the whole model trains
    record Case(@Nullable PeftConfig method, PreferTask task) {
        TaskCard card() {
            return TaskCard.of(task, Tiny.POSITIONS);
        }

        @Override
        public String toString() {
            return (method == null ? "full" : method.peftType()) + ", " + task.settings();
        }
    }

    static Stream<Case> cases() {
        return Stream.of(
                new Case(LoraConfig.defaults(), new PreferTask()),
                new Case(LoraConfig.defaults(), new PreferTask(Loss.IPO, 0.5, 0)),
                new Case(LoraConfig.defaults(), KTO),
                new Case(PromptTuningConfig.of(3), new PreferTask(Loss.DPO, 0.3, 0.1)),
                new Case(PrefixTuningConfig.of(3), new PreferTask()),
                new Case(null, new PreferTask()));
    }

    private interface Work<T> {
        T with(TaskModel learner);
    }

    private static <T> T learner(Backend backend, DType dtype, Case c, Work<T> work) {
        try (Model model = Tiny.causal(backend, dtype)) {
            if (c.method == null) {
                try (TaskModel learner = TaskModel.full(model, c.card(), 3)) {
                    return work.with(learner);
                }
            }
            try (PeftModel peft = new PeftModel(model, 3)) {
                peft.addAdapter("default", c.method);
                try (TaskModel learner = TaskModel.of(peft, c.card(), 3)) {
                    return work.with(learner);
                }
            }
        }
    }

    private static Examples withReference(TaskModel learner, Examples rows) {
        return Objects.requireNonNull(learner.withReference(rows, 4, () -> false, done -> {}));
    }

    // ---- the loss

    /// The log-probabilities are those of the whole softmax, and the loss is the formula; at first all rewards are 0.
    @ParameterizedTest
    @MethodSource("cases")
    void lossesAreThoseOfTheFormula(Case c) {
        try (Backend backend = new ReferenceBackend()) {
            learner(backend, DType.F64, c, learner -> {
                Examples rows = withReference(learner, examples(c.task, 5, 1));
                Batch batch = new DataLoader(rows, DataLoader.Options.evaluation(rows.size()))
                        .epoch(0)
                        .getFirst();
                double[] sums = logProbabilities(learner, batch);
                double loss = c.task.loss() == Loss.KTO ? kto(c.task, rows, batch, sums) : 0;
                double beta = c.task.beta();
                for (int i = 0; i < 5 && c.task.loss() != Loss.KTO; i++) {
                    int[] target = rows.target(batch.rows()[i]);
                    double chosen = sums[2 * i] - Float.intBitsToFloat(target[1]);
                    double rejected = sums[2 * i + 1] - Float.intBitsToFloat(target[2]);
                    double x = beta * (chosen - rejected);
                    double e = c.task.labelSmoothing();
                    int[] counts = new int[2];
                    for (int a = 0; a < 2; a++) {
                        counts[a] = rows.row(batch.rows()[i]).texts().get(a).ids().length - target[0];
                    }
                    loss += c.task.loss() == Loss.IPO
                            ? Math.pow(chosen / counts[0] - rejected / counts[1] - 1 / (2 * beta), 2) / 5
                            : ((1 - e) * Math.log1p(Math.exp(-x)) + e * Math.log1p(Math.exp(x))) / 5;
                }
                try (Scope scope = Scope.open();
                        Autograd.Mode mode = Autograd.noGrad()) {
                    assertThat(learner.logits(batch).toDoubles()).containsExactly(sums, within(1e-9));
                    assertThat(learner.loss(batch).item()).isCloseTo(loss, within(1e-9));
                }
                Evaluation e = Evaluation.of(learner, rows, rows.size());
                assertThat(e.loss()).isCloseTo(loss, within(1e-9));
                if (c.method == null || c.method instanceof LoraConfig) {
                    assertThat(e.metric("reward_margin")).isCloseTo(0, within(1e-5));
                }
                return loss;
            });
        }
    }

    /// With the numbers of a batch, whose rows have an answer and one to another prompt.
    private static double kto(PreferTask task, Examples rows, Batch batch, double[] sums) {
        int n = batch.rows().length;
        double[] ratios = new double[2 * n];
        double kl = 0;
        for (int i = 0; i < 2 * n; i++) {
            ratios[i] = sums[i] - Float.intBitsToFloat(rows.target(batch.rows()[i / 2])[2 + i % 2]);
            kl += i % 2 == 1 ? ratios[i] / n : 0;
        }
        double point = Math.max(0, kl);
        double loss = 0;
        for (int i = 0; i < n; i++) {
            boolean good = rows.target(batch.rows()[i])[1] == 1;
            double gain = task.beta() * (good ? ratios[2 * i] - point : point - ratios[2 * i]);
            double weight = good ? task.desirableWeight() : task.undesirableWeight();
            loss += weight * (1 - 1 / (1 + Math.exp(-gain))) / n;
        }
        return loss;
    }

    /// From the logits of all positions.
    private static double[] logProbabilities(TaskModel learner, Batch batch) {
        int length = batch.length();
        double[] sums = new double[batch.batchSize()];
        try (Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.noGrad()) {
            Backend backend = learner.backend();
            int[] dims = {batch.batchSize(), length};
            Tensor logits = learner.model()
                    .logits(
                            Tensor.ofInts(backend, batch.inputIds(), dims),
                            Tensor.ofInts(backend, batch.attentionMask(), dims));
            int virtual = logits.shape().dim(1) - length;
            int vocab = logits.shape().dim(2);
            double[] y = logits.toDoubles();
            for (int i = 0; i < sums.length; i++) {
                for (int t = 1; t < length; t++) {
                    int label = batch.labels()[i * length + t];
                    int from = ((i * (virtual + length)) + virtual + t - 1) * vocab;
                    double sum = 0;
                    for (int v = 0; v < vocab; v++) {
                        sum += Math.exp(y[from + v]);
                    }
                    sums[i] += label == Batch.IGNORE ? 0 : y[from + label] - Math.log(sum);
                }
            }
        }
        return sums;
    }

    @ParameterizedTest
    @MethodSource("cases")
    void gradientsAreThoseOfTheLoss(Case c) {
        try (Backend backend = new ReferenceBackend()) {
            learner(backend, DType.F64, c, learner -> {
                Examples rows = examples(c.task, 3, 1);
                // The gradient of KTO takes the KL term for a constant, which it is where it is 0: beside a reference
                // of log-probabilities 0.
                rows = c.task.loss() == Loss.KTO
                        ? rows.withReference(new float[2 * rows.size()])
                        : withReference(learner, rows);
                Batch batch = new DataLoader(rows, DataLoader.Options.evaluation(rows.size()))
                        .epoch(0)
                        .getFirst();
                Map<String, Tensor> parameters = new LinkedHashMap<>(learner.parameters());
                parameters.values().forEach(p -> {
                    try (Tensor drawn = Tensor.uniform(
                            backend, p.dtype(), new Random(5), 0.3, p.shape().dims())) {
                        p.copyFrom(drawn);
                    }
                });
                learner.train(false);
                return GradCheck.check("prefer", parameters, () -> learner.loss(batch));
            });
        }
    }

    // ---- training

    @ParameterizedTest
    @MethodSource("cases")
    void rewardsRiseAndAreReportedAgainFromTheFiles(Case c) {
        Examples rows = examples(c.task, 64, 1);
        Examples heldOut = examples(c.task, 24, 2);
        RunFolder run = RunFolder.create(folder.resolve("run"));
        try (Backend backend = new SimdBackend(2)) {
            double[] before = new double[1];
            Evaluation after = learner(backend, DType.F32, c, learner -> {
                before[0] = Evaluation.of(learner, heldOut, 8).loss();
                try (Trainer trainer = new Trainer(learner, CONFIG.withEpochs(12))) {
                    return Objects.requireNonNull(trainer.train(rows, heldOut, run, new TrainingListener() {})
                            .best());
                }
            });
            assertThat(after.loss()).isLessThan(before[0]);
            assertThat(after.metric("reward_margin"))
                    .isCloseTo(after.metric("reward_chosen") - after.metric("reward_rejected"), within(1e-9));
            // A few virtual tokens say little to a model of random weights.
            if (c.method == null || c.method instanceof LoraConfig) {
                assertThat(after.metric("reward_accuracy")).isGreaterThan(0.8);
                assertThat(after.metric("reward_margin")).isPositive();
            }
            if (c.method == null) {
                return;
            }
            try (Model model = Tiny.causal(backend, DType.F32);
                    PeftModel peft = new PeftModel(model, 3);
                    TaskModel again = TaskModel.load(peft, run.best())) {
                assertThat(again.card().task()).isEqualTo(c.task);
                assertThat(Evaluation.of(again, heldOut, 8)).isEqualTo(after);
            }
        }
    }

    /// The reference of a whole model, too, is the model before its first step.
    @ParameterizedTest
    @MethodSource("cases")
    void goesOnFromACheckpointToTheSameBits(Case c) throws Exception {
        TrainerConfig config = CONFIG.withSteps(9).withBatch(4, 2).withCheckpoints(new TrainerConfig.Checkpoints(4, 2));
        RunFolder whole = RunFolder.create(folder.resolve("whole"));
        RunFolder stopped = RunFolder.create(folder.resolve("stopped"));
        train(c, config, whole, 0);
        train(c, config, stopped, 6);
        train(c, config, stopped, 0);
        String file = c.method == null ? "model.safetensors" : "adapter_model.safetensors";
        assertThat(Files.readAllBytes(stopped.last().resolve(file)))
                .isEqualTo(Files.readAllBytes(whole.last().resolve(file)));
        Path once = whole.path().resolve("again");
        train(c, config, RunFolder.create(once), 0);
        assertThat(Files.readAllBytes(new RunFolder(once).last().resolve(file)))
                .isEqualTo(Files.readAllBytes(whole.last().resolve(file)));
    }

    private static void train(Case c, TrainerConfig config, RunFolder run, int stopAfter) {
        try (Backend backend = new SimdBackend(2)) {
            learner(backend, DType.F32, c, learner -> {
                try (Trainer trainer = new Trainer(learner, config)) {
                    return trainer.train(examples(c.task, 48, 1), examples(c.task, 20, 2), run, new TrainingListener() {
                        @Override
                        public void step(StepResult result, int totalSteps, double seconds) {
                            if (result.step() == stopAfter) {
                                trainer.stop();
                            }
                        }
                    });
                }
            });
        }
    }

    @ParameterizedTest
    @MethodSource("cases")
    void theMemoryPlanIsTheBackendsPeak(Case c) {
        List<Preference> all = new ArrayList<>();
        for (String word : Collections.nCopies(12, List.of("red", "run")).stream()
                .flatMap(List::stream)
                .toList()) {
            all.add(new Preference("query " + word, "buy shoes", "red shoes"));
        }
        Examples rows = examples(c.task, all, Tiny.POSITIONS);
        TrainerConfig config = CONFIG.withSteps(5);
        try (Backend backend = new SimdBackend(2)) {
            MemoryPlan plan = Objects.requireNonNull(MemoryPlan.of(
                    backend,
                    b -> Tiny.causal(b, DType.F32),
                    c.method,
                    c.card(),
                    config,
                    5,
                    Largest.of(rows, 8),
                    Largest.of(rows, 8)));
            learner(backend, DType.F32, c, learner -> {
                try (Trainer trainer = new Trainer(learner, config)) {
                    return trainer.train(rows, rows, null, new TrainingListener() {});
                }
            });
            assertThat(plan.total()).isEqualTo(backend.peakBytes());
        }
    }

    /// How a recorded step is replayed: another batch written into the same memory gives that batch's loss.
    @ParameterizedTest
    @MethodSource("cases")
    void anotherBatchIsWrittenOverTheFirst(Case c) {
        try (Backend backend = new ReferenceBackend()) {
            learner(backend, DType.F64, c, learner -> {
                Examples rows = withReference(learner, examples(c.task, 12, 1));
                List<Batch> batches =
                        new DataLoader(rows, new DataLoader.Options(2, false, 0, true, false, 20)).epoch(0);
                try (Scope scope = Scope.open();
                        Learner.Inputs inputs = Objects.requireNonNull(learner.inputs(batches.get(0)))) {
                    for (int i : new int[] {0, 3, 1}) {
                        inputs.write(batches.get(i));
                        assertThat(inputs.loss().item())
                                .isEqualTo(learner.loss(batches.get(i)).item());
                    }
                }
                return rows;
            });
        }
    }

    static Stream<Case> shared() {
        return cases().filter(c -> c.method instanceof LoraConfig);
    }

    /// Several runs in one pass: the base is asked once for all.
    @ParameterizedTest
    @MethodSource("shared")
    void aSharedPassGivesTheBitsOfARunOfItsOwn(Case c) {
        Examples rows = examples(c.task, 32, 1);
        Examples heldOut = examples(c.task, 16, 2);
        List<Configuration> all = Stream.of(2, 4)
                .map(r -> new Configuration(LoraConfig.defaults().withRank(r, 8), CONFIG.withSeed(3)))
                .toList();
        try (Backend backend = new SimdBackend(2)) {
            List<Evaluation> together = new ArrayList<>();
            try (Model model = Tiny.causal(backend, DType.F32);
                    SharedBaseTrainer trainer = new SharedBaseTrainer(model, c.card(), all)) {
                trainer.train(rows, heldOut, List.of(new Run(), new Run()))
                        .forEach(o -> together.add(Objects.requireNonNull(
                                Objects.requireNonNull(o.report()).best())));
            }
            for (int i = 0; i < 2; i++) {
                Evaluation alone =
                        learner(backend, DType.F32, new Case(all.get(i).method(), c.task), learner -> {
                            try (Trainer trainer = new Trainer(learner, CONFIG.withSeed(3))) {
                                return Objects.requireNonNull(
                                        trainer.train(rows, heldOut, null, new TrainingListener() {})
                                                .best());
                            }
                        });
                assertThat(together.get(i)).isEqualTo(alone);
            }
        }
    }

    // ---- rows

    @Test
    void promptsAreThoseOfTaskGenerate() {
        Examples rows = examples(List.of(new Preference("query red shoes", "buy", "run online")), Tiny.POSITIONS);
        try (Tokenizer tokenizer = TinyTokenizers.wordPiece()) {
            int[] prompt = tokenizer
                    .encodePrompt("query red shoes", Tiny.POSITIONS, rows.answerRoom())
                    .ids();
            for (int answer = 0; answer < 2; answer++) {
                assertThat(rows.row(0).texts().get(answer).ids())
                        .startsWith(prompt)
                        .endsWith(tokenizer.eosId().orElseThrow());
            }
            assertThat(rows.target(0)).containsExactly(prompt.length);
        }
    }

    @Test
    void whatIsCutOrTheSameIsSaid() {
        Examples rows = examples(
                List.of(
                        new Preference("red", "buy buy buy buy buy buy buy", "buy buy buy buy buy buy buy red"),
                        new Preference("red", "buy", "run")),
                8);
        assertThat(rows.truncated()).isEqualTo(1);
        assertThat(rows.notices(null))
                .contains(
                        "rows: 1 rows have the same answer as chosen and rejected: nothing is learned from them",
                        "rows: 1 rows have an answer that ends after 8 tokens, or a prompt of more than 4, and were cut");
    }

    /// As TRL unpairs them: with the k-th answer to the prompt before, so that chosen ones meet chosen ones.
    @Test
    void answersAreJudgedBesideThoseToOtherPrompts() {
        Examples rows = examples(
                new PreferTask(Loss.KTO, 0.1, 0),
                List.of(
                        new Preference("red", "buy", "run"),
                        new Judgement("cheap", "online", true),
                        new Judgement("cheap", "red red", false),
                        new Judgement("shoes", "cheap", false)),
                Tiny.POSITIONS);
        List<String> texts = new ArrayList<>();
        List<Integer> judged = new ArrayList<>();
        for (int i = 0; i < rows.size(); i++) {
            texts.addAll(rows.texts(i));
            judged.add(rows.target(i)[1]);
        }
        assertThat(texts)
                .containsExactly(
                        "red buy",
                        "red cheap",
                        "red run",
                        "red cheap",
                        "cheap online",
                        "cheap buy",
                        "cheap red red",
                        "cheap run",
                        "shoes cheap",
                        "shoes online");
        assertThat(judged).containsExactly(1, 0, 1, 0, 0);
        assertThat(rows.notices(null))
                .contains("rows: 2 answers are desirable, 3 are not; times --desirable-weight and --undesirable-weight,"
                        + " the former should count 1 to 1.33 times as much");
        assertThatThrownBy(() -> examples(KTO, List.of(new Preference("red", "buy", "run")), Tiny.POSITIONS))
                .isInstanceOf(InputException.class)
                .hasMessage("rows: the loss kto compares answers to different prompts, and all rows have the same"
                        + " prompt; add others");
    }

    @Test
    void whatHasNoReferenceIsRefused() {
        Examples rows = examples(4, 1);
        assertThatThrownBy(() -> new DataLoader(rows, DataLoader.Options.evaluation(2))
                        .epoch(0)
                        .getFirst())
                .isInstanceOf(IllegalStateException.class)
                .hasMessageContaining("withReference");
        try (Backend backend = new ReferenceBackend()) {
            try (Model model = Tiny.causal(backend, DType.F32);
                    PeftModel peft = new PeftModel(model, 3);
                    TaskModel bare = TaskModel.of(peft, TaskCard.of(new PreferTask(), Tiny.POSITIONS), 3)) {
                assertThatThrownBy(() -> Evaluation.of(bare, rows, 2))
                        .isInstanceOf(InputException.class)
                        .hasMessageContaining("nothing says what that was; use a model with an adapter");
            }
            learner(backend, DType.F32, new Case(null, new PreferTask()), learner -> {
                try (Trainer trainer = new Trainer(learner, CONFIG.withSteps(1))) {
                    trainer.train(rows, null, null, new TrainingListener() {});
                }
                assertThatThrownBy(() -> Evaluation.of(learner, rows, 2))
                        .isInstanceOf(InputException.class)
                        .hasMessageContaining("which is gone");
                return rows;
            });
        }
    }
}
