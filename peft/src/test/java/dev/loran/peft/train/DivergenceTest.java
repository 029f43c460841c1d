package dev.loran.peft.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.kernels.Backends;
import dev.loran.kernels.cuda.CudaBackend;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.DataLoader;
import dev.loran.peft.data.TinyTokenizers;
import dev.loran.peft.model.Model;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.train.TrainerConfig.Checkpoints;
import dev.loran.peft.train.TrainerConfig.Rate;
import dev.loran.peft.train.TrainerConfig.Schedule;
import dev.loran.peft.tuner.AdaLoraConfig;
import dev.loran.peft.tuner.LoraConfig;
import dev.loran.peft.tuner.PeftConfig;
import dev.loran.peft.tuner.PeftModel;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.function.Consumer;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/// Steps whose values are not finite are never taken, and nothing derived from them gets onto the disk.
class DivergenceTest {
    private static final TrainerConfig CONFIG =
            TrainerConfig.defaults().withSteps(20).withBatch(4, 1).withRate(new Rate(1e-2, 5, Schedule.CONSTANT, 0));

    @TempDir
    Path folder;

    private static Backend open(String backend) throws IOException {
        return switch (backend) {
            case "reference" -> new ReferenceBackend();
            case "simd" -> Backends.simd(1);
            default -> {
                Path standIn = Path.of("..", "kernels", "target", "standin");
                assumeTrue(Files.isDirectory(standIn) && !Files.exists(standIn.resolve("why-not")), "no stand-in");
                yield CudaBackend.standIn(standIn, DType.F32);
            }
        };
    }

    /// A model in which the embedding of one word is NaN.
    private static void withModel(String name, int badWord, Consumer<TaskModel> test) throws IOException {
        withModel(name, badWord, LoraConfig.defaults().withRank(3, 6).withDropout(0), test);
    }

    private static void withModel(String name, int badWord, PeftConfig method, Consumer<TaskModel> test)
            throws IOException {
        try (Backend backend = open(name)) {
            try (Model base = Tiny.encoder(backend, DType.F32);
                    PeftModel peft = new PeftModel(base, 7)) {
                Tensor words = Objects.requireNonNull(base.namedParameters().get("embeddings.word_embeddings.weight"));
                int width = words.shape().dim(1);
                backend.fill(words.buffer().slice((long) badWord * width, width), Double.NaN);
                peft.addAdapter("default", method);
                try (TaskModel model = TaskModel.of(peft, TaskCard.classify(Tiny.LABELS, Tiny.POSITIONS), 11)) {
                    test.accept(model);
                }
            }
        }
    }

    private static Map<String, List<Double>> values(TaskModel model) {
        Map<String, List<Double>> values = new LinkedHashMap<>();
        model.parameters()
                .forEach((name, t) ->
                        values.put(name, Arrays.stream(t.toDoubles()).boxed().toList()));
        return values;
    }

    private static List<Batch> batches() {
        return new DataLoader(Tiny.examples(16, 3), DataLoader.Options.training(4, 5)).epoch(0);
    }

    /// A word that occurs in no batch.
    private static int unused(List<Batch> batches) {
        return IntStream.range(0, TinyTokenizers.WORDS.size())
                .filter(w -> batches.stream()
                        .flatMapToInt(b -> Arrays.stream(b.inputIds()))
                        .noneMatch(id -> id == w))
                .max()
                .orElseThrow();
    }

    private static Batch with(Batch b, int word) {
        int[] ids = b.inputIds().clone();
        ids[1] = word;
        return new Batch(
                ids, b.attentionMask(), b.labels(), b.rows(), b.batchSize(), b.length(), b.tokens(), b.lossTerms());
    }

    @ParameterizedTest
    @ValueSource(strings = {"reference", "simd", "cuda"})
    void badStepsAreLeftOutAsIfTheirBatchesHadNeverBeen(String backend) throws IOException {
        List<Batch> good = batches();
        int word = unused(good);
        List<Map<String, List<Double>>> results = new ArrayList<>();
        for (boolean met : new boolean[] {false, true}) {
            withModel(backend, word, model -> {
                List<StepResult> left = new ArrayList<>();
                try (Trainer trainer = new Trainer(model, CONFIG.withSkippedBadSteps(3))) {
                    for (int i = 0; i < 9; i++) {
                        // At the very first step, at one among recorded ones, and at the last.
                        if (met && (i == 0 || i == 5 || i == 8)) {
                            left.add(trainer.trainStep(with(good.get(i % 2), word)));
                        }
                        trainer.trainStep(good.get(i % 2));
                    }
                    trainer.settle();
                    left.forEach(r -> assertThat(r.problem())
                            .contains("at step " + r.step() + ", in rows ")
                            .contains(": first in the output of operation 1, EmbeddingOp"));
                    assertThat(trainer.step()).isEqualTo(met ? 12 : 9);
                }
                results.add(values(model));
            });
        }
        assertThat(results.get(1)).isEqualTo(results.get(0));
    }

    /// It leaves AdaLoRA's importances and budget unchanged too, both at a step that only smooths them and at one that
    /// allocates.
    @ParameterizedTest
    @ValueSource(strings = {"reference", "cuda"})
    void aBadStepOfAdaLoraSpoilsNoStatistics(String backend) throws IOException {
        List<Batch> good = batches();
        int word = unused(good);
        AdaLoraConfig method =
                AdaLoraConfig.defaults().withRanks(4, 2).withSchedule(2, 5, 2).withShrink(false);
        withModel(backend, word, method, model -> {
            try (Trainer trainer = new Trainer(model, CONFIG.withSkippedBadSteps(2))) {
                for (int i = 0; i < 12; i++) {
                    Batch batch = good.get(i % 2);
                    trainer.trainStep(i == 4 || i == 5 ? with(batch, word) : batch);
                }
                trainer.settle();
            }
            assertThat(model.trainingState()).isNotEmpty();
            model.trainingState()
                    .forEach((name, t) -> assertThat(t.toDoubles()).as(name).doesNotContain(Double.NaN));
            values(model).forEach((name, v) -> assertThat(v).as(name).doesNotContain(Double.NaN));
        });
    }

    @ParameterizedTest
    @ValueSource(strings = {"reference", "cuda"})
    void aBadStepIsNotTakenAndEndsTheRun(String backend) throws IOException {
        List<Batch> good = batches();
        int word = unused(good);
        withModel(backend, word, model -> {
            try (Trainer trainer = new Trainer(model, CONFIG)) {
                for (int i = 0; i < 4; i++) {
                    trainer.trainStep(good.getFirst());
                }
                Map<String, List<Double>> before = values(model);
                assertThatThrownBy(() -> {
                            trainer.trainStep(with(good.getFirst(), word));
                            trainer.trainStep(good.getFirst());
                        })
                        .isInstanceOf(DivergedException.class)
                        .hasMessageStartingWith("the loss is NaN at step 5, in rows ");
                assertThat(values(model)).isEqualTo(before);
                assertThat(trainer.step()).isEqualTo(4);
            }
        });
    }

    /// The parameters stay finite for one step, but no longer give a finite loss.
    @Test
    void nothingOfARunThatDivergesIsWritten() throws IOException {
        withModel("simd", unused(batches()), model -> {
            RunFolder run = RunFolder.create(folder.resolve("run"));
            TrainerConfig config = CONFIG.withSteps(2).withCheckpoints(new Checkpoints(1, 1));
            try (Trainer trainer = new Trainer(model, config)) {
                trainer.train(Tiny.examples(16, 3), null, run, new TrainingListener() {});
            }
            Map<String, Tensor> parameters = model.parameters();
            List<Path> kept = files(run.checkpoints());
            assertThat(kept).extracting(Path::getFileName).containsExactly(Path.of("step-2"));
            try (Trainer trainer = new Trainer(model, CONFIG.withSteps(2).withCheckpoints(new Checkpoints(1, 1)))) {
                assertThatThrownBy(() -> trainer.train(
                                Tiny.examples(16, 3),
                                null,
                                RunFolder.create(folder.resolve("spoilt")),
                                new TrainingListener() {
                                    @Override
                                    public void step(StepResult result, int totalSteps, double seconds) {
                                        Tensor head = Objects.requireNonNull(parameters.get("head.weight"));
                                        model.backend().fill(head.buffer(), Double.POSITIVE_INFINITY);
                                    }
                                }))
                        .isInstanceOf(DivergedException.class)
                        .hasMessageContaining(" after step 1, in rows ")
                        .hasMessageContaining("LinearOp (4, 2), with head.weight");
            }
            assertThat(files(folder.resolve("spoilt")))
                    .extracting(Path::getFileName)
                    .doesNotContain(Path.of("last"));
            assertThat(folder.resolve("spoilt/checkpoints")).doesNotExist();
        });
    }

    private static List<Path> files(Path in) {
        try (Stream<Path> all = Files.list(in)) {
            return all.toList();
        } catch (IOException e) {
            throw new java.io.UncheckedIOException(e);
        }
    }
}
