package dev.loran.peft.continual;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.peft.continual.TaskSequence.Source;
import dev.loran.peft.continual.TaskSequence.Stage;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Labels;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.RowSource;
import dev.loran.peft.data.TinyTokenizers;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import dev.loran.peft.task.ClassifyTask;
import dev.loran.peft.task.LmTask;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.task.TextClassifier.Pooling;
import dev.loran.peft.train.RunFolder;
import dev.loran.peft.train.TaskModel;
import dev.loran.peft.train.Tiny;
import dev.loran.peft.train.TrainerConfig;
import dev.loran.peft.train.TrainerConfig.Rate;
import dev.loran.peft.train.TrainerConfig.Schedule;
import dev.loran.peft.train.TrainingListener;
import dev.loran.peft.tuner.AdaLoraConfig;
import dev.loran.peft.tuner.LoraConfig;
import dev.loran.peft.tuner.PeftModel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Random;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/// Three tasks of two classes each, of which one word in each row determines the class.
class ContinualTrainerTest {
    private static final List<String> WORDS = List.of("shoes", "red", "query", "online", "cheap", "running");
    private static final TrainerConfig CONFIG =
            TrainerConfig.defaults().withSteps(24).withBatch(8, 1).withRate(new Rate(5e-2, 1, Schedule.LINEAR, 2));

    private final ReferenceBackend backend = new ReferenceBackend();

    @TempDir
    Path folder;

    @AfterEach
    void nothingIsLeft() {
        assertThat(backend.liveBuffers()).isZero();
    }

    /// Rows of the classes from `from` to `to`; a class is named after its word.
    static List<Row.Classify> rows(int n, int from, int to, long seed) {
        Random random = new Random(seed);
        List<Row.Classify> rows = new ArrayList<>();
        for (int i = 0; i < n; i++) {
            String word = WORDS.get(from + i % (to - from));
            List<String> words = new ArrayList<>(List.of("buy", "buy", "buy").subList(0, random.nextInt(4)));
            words.add(random.nextInt(words.size() + 1), word);
            rows.add(new Row.Classify(String.join(" ", words), word));
        }
        return rows;
    }

    private static Source source(String name, int from, int to) {
        return new Source(name, RowSource.of(rows(32, from, to, 1)), RowSource.of(rows(16, from, to, 2)));
    }

    private static TaskSequence tasks(boolean shared) {
        return read(List.of(source("one", 0, 2), source("two", 2, 4), source("three", 4, 6)), shared);
    }

    private static TaskSequence read(List<Source> sources, boolean shared) {
        try (Tokenizer tokenizer = TinyTokenizers.wordPiece()) {
            return TaskSequence.read(
                    sources, new ClassifyTask(), tokenizer, Examples.Options.of(Tiny.POSITIONS), shared);
        }
    }

    private static TaskCard card() {
        return TaskCard.classify(new Labels(List.of("any", "other")), Tiny.POSITIONS);
    }

    private ContinualTrainer.Report train(Strategy strategy, TaskSequence tasks, Path out) {
        try (Model model = Tiny.encoder(backend, DType.F32)) {
            ContinualTrainer trainer = new ContinualTrainer(
                    model, steps -> LoraConfig.defaults().withRank(4, 8), card(), CONFIG, strategy);
            return Objects.requireNonNull(
                    trainer.train(tasks, RunFolder.create(out), stage -> new TrainingListener() {}));
        }
    }

    private ScoreMatrix among(Strategy strategy, Scenario scenario) {
        boolean shared = !(strategy instanceof Strategy.Separate);
        Map<Scenario, ScoreMatrix> scores =
                train(strategy, tasks(shared), folder.resolve(strategy.name())).scores();
        assertThat(scores.keySet())
                .containsExactlyElementsOf(
                        shared
                                ? List.of(Scenario.CLASS_INCREMENTAL, Scenario.TASK_INCREMENTAL)
                                : List.of(Scenario.TASK_INCREMENTAL));
        return Objects.requireNonNull(scores.get(scenario));
    }

    @Test
    void rehearsalForgetsLessThanPlainFineTuning() {
        ScoreMatrix plain = among(new Strategy.Sequential(), Scenario.CLASS_INCREMENTAL);
        ScoreMatrix rehearsal = among(new Strategy.Rehearsal(12), Scenario.CLASS_INCREMENTAL);
        assertThat(plain.scores()[0][0]).isEqualTo(1);
        assertThat(plain.scores()[0][1]).as("none of its classes is known").isNaN();
        assertThat(plain.forgetting()).isGreaterThan(0.5);
        assertThat(rehearsal.forgetting()).isLessThan(plain.forgetting() - 0.4);
        assertThat(rehearsal.average()).isGreaterThan(plain.average() + 0.2);
    }

    @Test
    void anAdapterForEachTaskForgetsNothing() {
        ScoreMatrix separate = among(new Strategy.Separate(), Scenario.TASK_INCREMENTAL);
        assertThat(separate.forgetting()).isZero();
        assertThat(separate.average()).isEqualTo(1);
        assertThat(separate.forwardTransfer()).isNaN();
        assertThat(folder.resolve("separate/last")).doesNotExist();
        assertThat(TaskCard.read(folder.resolve("separate/tasks/2/last")).labels())
                .hasToString("[online, query]");
    }

    @Test
    void penaltiesHoldTheParametersBack() {
        Path plain = folder.resolve("sequential");
        train(new Strategy.Sequential(), tasks(true), plain);
        double free = moved(plain);
        for (Strategy strategy : List.of(new Strategy.L2(0.5), new Strategy.Ewc(1e4, 0.9, 32))) {
            train(strategy, tasks(true), folder.resolve(strategy.name()));
            assertThat(moved(folder.resolve(strategy.name())))
                    .as(strategy.name())
                    .isLessThan(0.8 * free);
        }
        assertThat(folder.resolve("ewc/tasks/1/fisher/fisher.safetensors")).exists();
        assertThat(folder.resolve("ewc/tasks/3/fisher")).as("no task follows").doesNotExist();
    }

    /// The distance of the parameters after task 3 from those after task 1, without the head.
    private double moved(Path run) {
        try (Model model = Tiny.encoder(backend, DType.F32);
                Anchor first = values(model, run.resolve("tasks/1/last"));
                Anchor last = values(model, run.resolve("tasks/3/last"))) {
            double sum = 0;
            for (Map.Entry<String, Tensor> e : first.values().entrySet()) {
                if (e.getKey().contains("lora")) {
                    double[] a = e.getValue().toDoubles();
                    double[] b = Objects.requireNonNull(last.values().get(e.getKey()))
                            .toDoubles();
                    for (int i = 0; i < a.length; i++) {
                        sum += (a[i] - b[i]) * (a[i] - b[i]);
                    }
                }
            }
            return Math.sqrt(sum);
        }
    }

    private static Anchor values(Model model, Path adapter) {
        try (PeftModel peft = new PeftModel(model, 1);
                TaskModel trained = TaskModel.load(peft, adapter)) {
            return Anchor.of(trained);
        }
    }

    /// The last task's score is measured with three LoRAs side by side, that of the files with their sum.
    @Test
    void orthogonalLorasAreSavedAsTheirSum() {
        TaskSequence tasks = tasks(true);
        ScoreMatrix scores =
                Objects.requireNonNull(train(new Strategy.OrthogonalLora(0.5), tasks, folder.resolve("olora"))
                        .scores()
                        .get(Scenario.CLASS_INCREMENTAL));
        try (Model model = Tiny.encoder(backend, DType.F32);
                PeftModel peft = new PeftModel(model, 1);
                TaskModel sum = TaskModel.load(peft, folder.resolve("olora/last"))) {
            assertThat(((LoraConfig) peft.active().config()).r()).isEqualTo(12);
            for (int i = 0; i < 3; i++) {
                Stage stage = tasks.stages().get(i);
                double[] found = Scenario.scores(
                        sum, stage, sum.card().labels(), List.of(Scenario.CLASS_INCREMENTAL), 8, () -> false);
                assertThat(Objects.requireNonNull(found)[0]).isEqualTo(scores.scores()[2][i]);
            }
            assertThat(scores.scores()[2][2]).isGreaterThan(0.5);
        }
    }

    /// A separate head, and one of the family's own kind.
    @Test
    void theHeadGainsRowsAndKeepsTheOthers() {
        for (Pooling pooling : List.of(Pooling.MEAN, Pooling.LAST)) {
            try (Model model =
                    pooling == Pooling.MEAN ? Tiny.encoder(backend, DType.F32) : Tiny.causal(backend, DType.F32)) {
                Labels two = new Labels(List.of("a", "b"));
                TaskCard small = TaskCard.classify(two, 8).withPooling(pooling);
                Anchor before;
                try (PeftModel peft = adapted(model);
                        TaskModel learner = TaskModel.of(peft, small, 1)) {
                    before = Anchor.of(learner);
                }
                TaskCard large = small.withLabels(new Labels(List.of("a", "b", "c")));
                try (PeftModel peft = adapted(model);
                        TaskModel learner = TaskModel.of(peft, large, 2);
                        Scope scope = Scope.open()) {
                    Map<String, double[]> fresh = new HashMap<>();
                    learner.parameters().forEach((name, p) -> fresh.put(name, p.toDoubles()));
                    before.copyTo(learner, name -> true);
                    int heads = 0;
                    for (Map.Entry<String, Tensor> e : learner.parameters().entrySet()) {
                        double[] now = e.getValue().toDoubles();
                        double[] old = Objects.requireNonNull(before.values().get(e.getKey()))
                                .toDoubles();
                        assertThat(now).as(e.getKey()).startsWith(old);
                        if (learner.isHead(e.getKey())) {
                            heads++;
                            int added = now.length - old.length;
                            assertThat(added).isEqualTo(now.length / 3);
                            double[] drawn = Objects.requireNonNull(fresh.get(e.getKey()));
                            assertThat(now).endsWith(Arrays.copyOfRange(drawn, old.length, drawn.length));
                        }
                    }
                    assertThat(heads).isPositive();
                }
                before.close();
            }
        }
    }

    private static PeftModel adapted(Model model) {
        PeftModel peft = new PeftModel(model, 3);
        peft.addAdapter("default", LoraConfig.defaults().withRank(2, 4));
        return peft;
    }

    @Test
    void tasksWithTheSameClassesTransferForward() {
        TaskSequence tasks = read(List.of(source("one", 0, 2), source("two", 0, 2)), true);
        Map<Scenario, ScoreMatrix> scores =
                train(new Strategy.Sequential(), tasks, folder.resolve("run")).scores();
        assertThat(scores.keySet()).containsExactly(Scenario.DOMAIN_INCREMENTAL);
        ScoreMatrix matrix = Objects.requireNonNull(scores.get(Scenario.DOMAIN_INCREMENTAL));
        assertThat(matrix.scores()[0][1]).isEqualTo(1);
        assertThat(matrix.forwardTransfer()).isCloseTo(1 - matrix.initial()[1], within(1e-12));
    }

    @Test
    void oneFileIsSplitByItsClasses() {
        Source all = source("all", 0, 6);
        TaskSequence tasks = read(all.byClass(4), true);
        assertThat(tasks.stages())
                .extracting(Stage::classes)
                .containsExactly(
                        List.of("cheap", "online"), List.of("query", "red"), List.of("running"), List.of("shoes"));
        assertThat(tasks.stages()).extracting(stage -> stage.train().size()).containsExactly(10, 11, 5, 6);
        assertThat(tasks.labelsAfter(3)).hasToString("[cheap, online, query, red, running]");
        assertThat(tasks.stages().get(2).train().target(0)).containsExactly(4);
        assertThatThrownBy(() -> all.byClass(6))
                .isInstanceOf(InputException.class)
                .hasMessage("rows: 6 classes cannot be split into 6 tasks; from 2 to 5 are possible");
        assertThatThrownBy(() -> read(List.of(source("one", 0, 1), source("two", 1, 3)), true))
                .hasMessage("rows: the first task has one class, \"shoes\"; it needs two, since a classifier does;"
                        + " put another class, or another task, first");
        assertThatThrownBy(() -> read(List.of(all), true))
                .hasMessage("continual learning needs two tasks or more, not 1; name more of them (--tasks)");
        Source other = new Source("one", RowSource.of(rows(8, 0, 2, 1)), RowSource.of(rows(8, 2, 4, 1)));
        assertThatThrownBy(() -> read(List.of(other, source("two", 2, 4)), true))
                .hasMessage("rows: a row has label \"query\", which the training rows of task one lack: [red, shoes]");
    }

    @Test
    void aTenthIsHeldOutAtRandom() {
        Source halves = Source.heldOutOf("rows", RowSource.of(rows(1000, 0, 2, 1)), 5);
        TaskSequence tasks = read(List.of(halves, halves), true);
        Stage one = tasks.stages().getFirst();
        assertThat(one.heldOut().size()).isBetween(70, 130);
        assertThat(one.train().size() + one.heldOut().size()).isEqualTo(1000);
    }

    @Test
    void whatDoesNotFitIsRefused() throws Exception {
        try (Model model = Tiny.encoder(backend, DType.F32)) {
            assertThatThrownBy(() -> new ContinualTrainer(
                            model,
                            steps -> LoraConfig.defaults().withDora(true),
                            card(),
                            CONFIG,
                            new Strategy.OrthogonalLora(1)))
                    .isInstanceOf(InputException.class)
                    .hasMessage("strategy olora adds up LoRAs; choose method lora");
            assertThatThrownBy(() -> new ContinualTrainer(
                            model, steps -> AdaLoraConfig.defaults(), card(), CONFIG, new Strategy.L2(1)))
                    .hasMessage("adalora cuts ranks by a schedule over one run and cannot be trained on, as strategy l2"
                            + " does with each task; choose another method, or strategy separate");
        }
        Path run = folder.resolve("run");
        train(new Strategy.Sequential(), tasks(true), run);
        TaskSequence others = read(List.of(source("one", 0, 2), source("two", 2, 5), source("three", 4, 6)), true);
        try (Model model = Tiny.encoder(backend, DType.F32)) {
            ContinualTrainer trainer = new ContinualTrainer(
                    model, steps -> LoraConfig.defaults().withRank(4, 8), card(), CONFIG, new Strategy.Sequential());
            assertThatThrownBy(() -> trainer.train(others, RunFolder.resume(run), stage -> new TrainingListener() {}))
                    .isInstanceOf(InputException.class)
                    .hasMessage("%s: rows of task two have changed since it was trained; begin another run"
                            .formatted(run.resolve("tasks/2")));
        }
        assertThat(Files.exists(run.resolve("continual.json"))).isTrue();
        assertThatThrownBy(() -> new Strategy.Ewc(0, 1, 1))
                .hasMessage("strategy ewc: lambda is 0.0, must be positive and finite");
    }

    @Test
    void aTaskWithoutClassesIsMeasuredByItsOwnMetric() {
        List<Row.Text> texts =
                rows(16, 0, 2, 1).stream().map(r -> new Row.Text(r.text())).toList();
        List<Row.Text> more =
                rows(16, 2, 4, 1).stream().map(r -> new Row.Text(r.text())).toList();
        try (Tokenizer tokenizer = TinyTokenizers.wordPiece();
                Model model = Tiny.causal(backend, DType.F32)) {
            TaskSequence tasks = TaskSequence.read(
                    List.of(
                            new Source("one", RowSource.of(texts), RowSource.of(texts)),
                            new Source("two", RowSource.of(more), RowSource.of(more))),
                    new LmTask(),
                    tokenizer,
                    Examples.Options.of(Tiny.POSITIONS),
                    true);
            ContinualTrainer trainer = new ContinualTrainer(
                    model,
                    steps -> LoraConfig.defaults().withRank(4, 8),
                    TaskCard.of(new LmTask(), Tiny.POSITIONS),
                    CONFIG,
                    new Strategy.Ewc(10, 1, 4));
            ScoreMatrix scores = Objects.requireNonNull(Objects.requireNonNull(trainer.train(
                            tasks, RunFolder.create(folder.resolve("lm")), stage -> new TrainingListener() {}))
                    .scores()
                    .get(Scenario.DOMAIN_INCREMENTAL));
            assertThat(scores.metric().name()).isEqualTo("perplexity");
            assertThat(scores.scores()[1][1]).isLessThan(scores.initial()[1]);
        }
    }
}
