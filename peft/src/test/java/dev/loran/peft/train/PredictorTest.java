package dev.loran.peft.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.peft.Threads;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.DataLoader;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Labels;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.TinyTokenizers;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.model.Guard;
import dev.loran.peft.model.Model;
import dev.loran.peft.task.ClassifyTask;
import dev.loran.peft.task.LmTask;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.train.Predictor.Answer;
import dev.loran.peft.tuner.BottleneckConfig;
import dev.loran.peft.tuner.LoraConfig;
import dev.loran.peft.tuner.PeftConfig;
import dev.loran.peft.tuner.PeftModel;
import dev.loran.peft.tuner.PrefixTuningConfig;
import dev.loran.peft.tuner.PromptTuningConfig;
import dev.loran.peft.tuner.Targets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.ConcurrentModificationException;
import java.util.List;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class PredictorTest {
    private final ReferenceBackend backend = new ReferenceBackend();
    private final Tokenizer tokenizer = TinyTokenizers.wordPiece();
    private final Model model = Tiny.encoder(backend, DType.F64);
    private final PeftModel peft = new PeftModel(model, 7);
    private final TaskModel classifier;

    PredictorTest() {
        peft.addAdapter("default", PrefixTuningConfig.of(3));
        classifier = TaskModel.of(peft, TaskCard.classify(Tiny.LABELS, 16), 11);
    }

    @AfterEach
    void nothingIsLeft() {
        classifier.close();
        peft.close();
        model.close();
        tokenizer.close();
        assertThat(backend.liveBuffers()).isZero();
        backend.close();
    }

    private static List<String> texts(int n, long seed) {
        return Tiny.rows(n, seed).stream().map(Row.Classify::text).toList();
    }

    @ParameterizedTest
    @ValueSource(ints = {1, 7, 33})
    void answersAreThoseOfEachTextByItselfInTheOrderOfTheTexts(int n) {
        List<String> texts = texts(n, 4);
        List<Answer> together = Predictor.answers(classifier, tokenizer, texts, 4);
        assertThat(together).extracting(Answer::text).containsExactlyElementsOf(texts);
        for (int i = 0; i < n; i++) {
            Answer a = together.get(i);
            Answer alone = Predictor.answers(classifier, tokenizer, List.of(texts.get(i)), 1)
                    .getFirst();
            assertThat(a.label()).isEqualTo(alone.label());
            assertThat(a.probabilities()).containsExactly(alone.probabilities(), within(1e-5));
            assertThat(a.embedding()).hasSize(16).containsExactly(alone.embedding(), within(1e-5f));
            assertThat(Arrays.stream(a.probabilities()).sum()).isCloseTo(1, within(1e-12));
            int likeliest = Tiny.LABELS.id(a.label());
            assertThat(a.probability())
                    .isEqualTo(a.probabilities()[likeliest])
                    .isGreaterThanOrEqualTo(a.probabilities()[1 - likeliest]);
        }
        if (n == 33) {
            // A model that gives the same answer to everything would pass all of the above.
            assertThat(together.stream().map(Answer::probability).distinct().count())
                    .isGreaterThan(5);
        }
    }

    @Test
    void pairsAreAnsweredAsPairs() {
        List<Answer> answers = new ArrayList<>();
        Predictor predictor = new Predictor(classifier, tokenizer, 4, answers::add);
        predictor.add(new Row.Unlabelled("red shoes", "buy"));
        predictor.add("red shoes");
        predictor.add(new Row.Unlabelled("red", "shoes buy"));
        predictor.finish();
        assertThat(answers).extracting(Answer::textPair).containsExactly("buy", null, "shoes buy");
        assertThat(answers).extracting(Answer::probability).doesNotHaveDuplicates();
        List<Row.Classify> rows =
                List.of(new Row.Classify("red shoes", "buy", "sport"), new Row.Classify("red", "shoes buy", "sport"));
        Examples examples = Examples.of(new ClassifyTask(), rows, tokenizer, Examples.Options.of(16), Tiny.LABELS);
        Batch batch = new DataLoader(examples, DataLoader.Options.evaluation(2))
                .epoch(0)
                .getFirst();
        try (Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.noGrad()) {
            double[] logits = classifier.logits(batch).toDoubles();
            for (int i = 0; i < 2; i++) {
                double sport = 1 / (1 + Math.exp(logits[2 * i] - logits[2 * i + 1]));
                assertThat(answers.get(2 * i).probabilities()[1]).isCloseTo(sport, within(1e-9));
            }
        }
    }

    @Test
    void whatWaitsIsFiftyBatchesAndNoMore() {
        List<Answer> answered = new ArrayList<>();
        Predictor predictor = new Predictor(classifier, tokenizer, 1, answered::add);
        List<String> texts = texts(120, 5);
        texts.subList(0, 49).forEach(predictor::add);
        assertThat(answered).isEmpty();
        predictor.add(texts.get(49));
        assertThat(answered).hasSize(50);
        texts.subList(50, 120).forEach(predictor::add);
        assertThat(answered).hasSize(100);
        predictor.finish();
        predictor.finish();
        assertThat(answered).extracting(Answer::text).containsExactlyElementsOf(texts);
        assertThat(predictor.truncated()).isZero();
        predictor.add("red ".repeat(40));
        predictor.finish();
        assertThat(predictor.truncated()).isEqualTo(1);
    }

    /// Classifiers of several tenants on one base model, each with its own adapter, labels and head.
    @Test
    void manyThreadsAskAdaptersWithHeadsOfTheirOwn(@TempDir Path folder) {
        List<PeftConfig> methods = List.of(
                LoraConfig.defaults().withTargets(Targets.allLinear()),
                PrefixTuningConfig.of(3),
                PromptTuningConfig.of(2),
                BottleneckConfig.houlsby().withSize(4));
        List<TaskModel> tenants = new ArrayList<>();
        List<List<Answer>> alone = new ArrayList<>();
        List<String> texts = texts(6, 4);
        for (int i = 0; i < methods.size(); i++) {
            List<String> labels = List.of("a" + i, "b" + i, "c" + i).subList(0, 2 + i % 2);
            Path saved = folder.resolve("tenant" + i);
            try (Model own = Tiny.encoder(backend, DType.F64);
                    PeftModel one = new PeftModel(own, i)) {
                one.addAdapter("default", methods.get(i));
                try (TaskModel trained = TaskModel.of(one, TaskCard.classify(new Labels(labels), 16), i);
                        Trainer trainer =
                                new Trainer(trained, TrainerConfig.defaults().withSteps(2))) {
                    trainer.trainStep(batch(labels.size()));
                    trainer.trainStep(batch(labels.size()));
                    trained.save(saved);
                }
            }
            try (Model own = Tiny.encoder(backend, DType.F64);
                    PeftModel one = new PeftModel(own, 0);
                    TaskModel loaded = TaskModel.load(one, saved)) {
                alone.add(Predictor.answers(loaded, tokenizer, texts, 4));
            }
            tenants.add(TaskModel.load(peft, "tenant" + i, saved));
        }
        List<Answer> ofActive = Predictor.answers(classifier, tokenizer, texts, 4);
        Threads.run(4, thread -> {
            for (int i = 0; i < tenants.size(); i++) {
                int which = (thread + i) % tenants.size();
                same(Predictor.answers(tenants.get(which), tokenizer, texts, 4), alone.get(which));
                same(Predictor.answers(classifier, tokenizer, texts, 4), ofActive);
            }
        });
        assertThat(peft.activeAdapters()).containsExactly("default");
        assertThatThrownBy(() -> tenants.getFirst().parameters())
                .isInstanceOf(IllegalStateException.class)
                .hasMessage("this TaskModel has adapter tenant0, but active are [default];"
                        + " call setAdapter(\"tenant0\") to train or save it");
        peft.setAdapter("tenant0");
        assertThat(tenants.getFirst().parameters()).isNotEmpty();
        tenants.forEach(TaskModel::close);
    }

    private static void same(List<Answer> actual, List<Answer> expected) {
        for (int i = 0; i < expected.size(); i++) {
            assertThat(actual.get(i).label()).isEqualTo(expected.get(i).label());
            assertThat(actual.get(i).probabilities()).isEqualTo(expected.get(i).probabilities());
            assertThat(actual.get(i).embedding()).isEqualTo(expected.get(i).embedding());
        }
    }

    private static Batch batch(int classes) {
        int[] ids = {2, 5, 6, 3, 2, 7, 8, 3};
        int[] ones = new int[ids.length];
        Arrays.fill(ones, 1);
        return new Batch(ids, ones, new int[] {0, classes - 1}, new int[] {0, 1}, 2, 4, ids.length, 2);
    }

    /// Predictions are made in evaluation mode, whatever mode the model is in, without any change that other threads
    /// can see.
    @Test
    void aPredictorLeavesTheModelInItsMode() {
        List<Answer> before = Predictor.answers(classifier, tokenizer, texts(5, 4), 4);
        model.train(true);
        Threads.run(3, thread -> same(Predictor.answers(classifier, tokenizer, texts(5, 4), 4), before));
        assertThat(model.isTraining()).isTrue();
    }

    @Test
    void aStepOfATrainerIsTakenByOneThreadAlone() {
        TrainerConfig config = TrainerConfig.defaults().withSteps(3);
        try (Trainer trainer = new Trainer(classifier, config)) {
            trainer.trainStep(batch(2));
            try (Guard.Use use = model.reading("predict")) {
                assertThatThrownBy(() -> trainer.trainStep(batch(2)))
                        .isInstanceOf(ConcurrentModificationException.class)
                        .hasMessageStartingWith("trainStep: the model is being read (predict)");
            }
            assertThat(trainer.step()).isEqualTo(1);
        }
        List<String> said = new ArrayList<>();
        Trainer[] same = new Trainer[1];
        try (Trainer trainer = new Trainer(new Met(classifier, () -> same[0].trainStep(batch(2)), said), config);
                Trainer other = new Trainer(new Met(classifier, () -> classifier.logits(batch(2)), said), config)) {
            same[0] = trainer;
            trainer.trainStep(batch(2));
            other.trainStep(batch(2));
        }
        String owner = Thread.currentThread().getName();
        assertThat(said).hasSize(2);
        assertThat(said.getFirst())
                .startsWith("trainStep: the trainer is being changed by thread " + owner + " (trainStep)");
        assertThat(said.getLast()).contains("the model is being changed by thread " + owner + " (trainStep)");
    }

    /// Lets another thread do something in the middle of a step.
    private static final class Met extends Around {
        private final Runnable meanwhile;
        private final List<String> said;

        Met(TaskModel model, Runnable meanwhile, List<String> said) {
            super(model);
            this.meanwhile = meanwhile;
            this.said = said;
        }

        @Override
        public Tensor loss(Batch batch) {
            Threads.run(
                    1,
                    thread -> assertThatThrownBy(meanwhile::run)
                            .isInstanceOf(ConcurrentModificationException.class)
                            .satisfies(e -> said.add(e.getMessage())));
            return super.loss(batch);
        }
    }

    @Test
    void anotherTaskIsRefused() {
        try (Model causal = Tiny.causal(backend, DType.F32);
                TaskModel lm = TaskModel.full(causal, TaskCard.of(new LmTask(), 16), 1)) {
            assertThatThrownBy(() -> new Predictor(lm, tokenizer, 4, a -> {}))
                    .isInstanceOf(IllegalArgumentException.class)
                    .hasMessage("predictor: the model is for task lm, not classify");
        }
    }
}
