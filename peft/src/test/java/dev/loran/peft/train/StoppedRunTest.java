package dev.loran.peft.train;

import static org.assertj.core.api.Assertions.assertThat;

import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.peft.model.Model;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.train.TrainingReport.End;
import dev.loran.peft.tuner.LoraConfig;
import dev.loran.peft.tuner.PeftModel;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/// A run that is stopped leaves a checkpoint, and after resuming gives the same bits as one that was never stopped.
class StoppedRunTest {
    @TempDir
    Path folder;

    private RunFolder run(String name) {
        return RunFolder.create(folder.resolve(name));
    }

    /// Every file of the best and the last adapter, byte for byte, and the metrics except for the times.
    static Map<String, String> contents(RunFolder run) throws IOException {
        Map<String, String> all = new TreeMap<>();
        for (Path part : List.of(run.best(), run.last())) {
            try (Stream<Path> files = Files.list(part)) {
                files.forEach(f -> all.put(run.path().relativize(f).toString(), bytes(f)));
            }
        }
        all.put(
                "metrics",
                Files.readAllLines(run.path().resolve("metrics.jsonl")).stream()
                        .map(line -> line.replaceAll(",\"(data_)?seconds\":[^,}]*", ""))
                        .collect(Collectors.joining("\n")));
        return all;
    }

    private static String bytes(Path file) {
        try {
            return new java.math.BigInteger(1, Files.readAllBytes(file)).toString(16);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /// Interrupts its own thread the `n`-th time it is asked whether to stop: before a step, between the micro-batches
    /// of one, or in an evaluation.
    private static final class Interrupting implements TrainingListener {
        private final int n;
        private int asked;
        private final List<Path> saved = new ArrayList<>();
        private final List<TrainingReport> ended = new ArrayList<>();

        Interrupting(int n) {
            this.n = n;
        }

        @Override
        public boolean wantsStop() {
            if (++asked == n) {
                Thread.currentThread().interrupt();
            }
            return false;
        }

        @Override
        public void saved(int step, Path where) {
            saved.add(where.getFileName());
        }

        @Override
        public void ended(TrainingReport report) {
            ended.add(report);
        }
    }

    @ParameterizedTest
    @CsvSource({"lora, 0, 7", "adalora, 2, 6"})
    void aRunThatIsInterruptedAgainAndAgainGoesOnToTheSameBits(String method, int saveSteps, int n) throws IOException {
        RunFolder straight = run("straight");
        TrainingReport expected = KilledRun.train(method, straight, 0, new TrainingListener() {});
        RunFolder run = run("stopped");
        int stops = 0;
        TrainingReport report;
        while (true) {
            Interrupting listener = new Interrupting(n);
            report = KilledRun.train(method, run, saveSteps, listener);
            // At the very end, an interrupt comes too late and is left to the caller.
            assertThat(Thread.interrupted() || !report.stopped()).isTrue();
            assertThat(listener.ended).containsExactly(report);
            assertThat(listener.saved).endsWith(Path.of("last"));
            if (!report.stopped()) {
                break;
            }
            assertThat(run.path().resolve("checkpoints/step-" + report.steps())).isDirectory();
            assertThat(run.last().resolve("head.safetensors")).isRegularFile();
            assertThat(++stops).as("stops, now after step %d", report.steps()).isLessThan(40);
        }
        assertThat(stops).isGreaterThan(2);
        assertThat(report.end()).isEqualTo(End.FINISHED);
        assertThat(contents(run)).isEqualTo(contents(straight));
        assertThat(report.tokens()).isEqualTo(expected.tokens());
        assertThat(report.trainLoss()).isEqualTo(expected.trainLoss());
        assertThat(report.best()).isEqualTo(expected.best());
    }

    /// Files are written, forced and mapped although the thread is interrupted all the time.
    @Test
    void whatIsSavedByAnInterruptedThreadIsWhole() throws IOException {
        RunFolder straight = run("straight");
        KilledRun.train("lora", straight, 0, new TrainingListener() {});
        RunFolder run = run("interrupted");
        TrainingReport report = KilledRun.train("lora", run, 1, new TrainingListener() {
            @Override
            public void step(StepResult result, int totalSteps, double seconds) {
                if (result.step() == 5) {
                    Thread.currentThread().interrupt();
                }
            }
        });
        // The thread is still interrupted while the checkpoint is read and the adapter is loaded.
        assertThat(report.end()).isEqualTo(End.STOPPED);
        try (ReferenceBackend backend = new ReferenceBackend();
                Model base = Tiny.encoder(backend, DType.F32);
                PeftModel peft = new PeftModel(base, 7);
                TaskModel loaded = TaskModel.load(peft, run.last())) {
            assertThat(loaded.parameters()).isNotEmpty();
        }
        assertThat(Thread.currentThread().isInterrupted()).isTrue();
        TrainingReport none = KilledRun.train("lora", run, 1, new TrainingListener() {});
        assertThat(none.end()).isEqualTo(End.STOPPED);
        assertThat(none.steps()).isEqualTo(report.steps());
        assertThat(Thread.interrupted()).isTrue();
        assertThat(KilledRun.train("lora", run, 1, new TrainingListener() {}).end())
                .isEqualTo(End.FINISHED);
        assertThat(contents(run)).isEqualTo(contents(straight));
    }

    @Test
    void stopIsAWishOfAnyThreadForOneRun() {
        try (ReferenceBackend backend = new ReferenceBackend();
                Model base = Tiny.encoder(backend, DType.F32);
                PeftModel peft = new PeftModel(base, 7)) {
            peft.addAdapter("default", LoraConfig.defaults());
            TaskCard card = TaskCard.classify(Tiny.LABELS, Tiny.POSITIONS);
            try (TaskModel model = TaskModel.of(peft, card, 11);
                    Trainer trainer = new Trainer(model, KilledRun.CONFIG.withSteps(4))) {
                trainer.stop();
                TrainingReport none = trainer.train(Tiny.examples(30, 1), null, null, new TrainingListener() {});
                assertThat(none.stopped()).isTrue();
                assertThat(none.steps()).isZero();
                TrainingReport some = trainer.train(Tiny.examples(30, 1), null, null, new TrainingListener() {
                    @Override
                    public void step(StepResult result, int totalSteps, double seconds) {
                        Thread other = Thread.startVirtualThread(trainer::stop);
                        try {
                            other.join();
                        } catch (InterruptedException e) {
                            throw new IllegalStateException(e);
                        }
                    }
                });
                assertThat(some.stopped()).isTrue();
                // Steps are reported one step late.
                assertThat(some.steps()).isEqualTo(2);
                assertThat(Thread.currentThread().isInterrupted()).isFalse();
                assertThat(trainer.train(Tiny.examples(30, 1), null, null, new TrainingListener() {})
                                .end())
                        .isEqualTo(End.FINISHED);
            }
        }
    }

    @Test
    void listenersLearnThatARunFailed() {
        List<End> ends = new ArrayList<>();
        TrainingListener failing = new TrainingListener() {
            @Override
            public void step(StepResult result, int totalSteps, double seconds) {
                throw new IllegalStateException("no more");
            }

            @Override
            public void ended(TrainingReport report) {
                ends.add(report.end());
            }
        };
        org.assertj.core.api.Assertions.assertThatThrownBy(() -> KilledRun.train("lora", run("run"), 0, failing))
                .hasMessage("no more");
        assertThat(ends).containsExactly(End.FAILED);
    }
}
