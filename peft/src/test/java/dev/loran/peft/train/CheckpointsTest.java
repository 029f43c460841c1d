package dev.loran.peft.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import com.fasterxml.jackson.databind.ObjectMapper;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.io.SafeTensors;
import dev.loran.peft.io.Checksums;
import dev.loran.peft.io.InputException;
import dev.loran.peft.train.TrainerConfig.Rate;
import dev.loran.peft.train.TrainerConfig.Schedule;
import java.io.BufferedReader;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledOnOs;
import org.junit.jupiter.api.condition.OS;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/// A run that is killed and resumed produces the same bits as one that was never killed.
class CheckpointsTest {
    private static final TrainingListener NOBODY = new TrainingListener() {};

    @TempDir
    Path folder;

    private RunFolder run(String name) {
        return RunFolder.create(folder.resolve(name));
    }

    /// Starts a run in a separate process and kills it (SIGKILL) once it has printed `step N`, which it does during the
    /// following step; with `stopped`, it does not run any further than that.
    private static void runAndKill(String method, RunFolder run, int saveSteps, int step, boolean stopped)
            throws IOException, InterruptedException {
        Process child = new ProcessBuilder(
                        Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                        "-XX:TieredStopAtLevel=1",
                        "-cp",
                        System.getProperty("java.class.path"),
                        KilledRun.class.getName(),
                        method,
                        run.path().toString(),
                        String.valueOf(saveSteps),
                        String.valueOf(stopped ? step : 0))
                .redirectError(ProcessBuilder.Redirect.DISCARD)
                .start();
        List<String> lines = new ArrayList<>();
        try (BufferedReader out = child.inputReader(StandardCharsets.UTF_8)) {
            for (String line = out.readLine(); line != null && !line.equals("step " + step); line = out.readLine()) {
                lines.add(line);
            }
            child.destroyForcibly();
        }
        assertThat(child.waitFor()).as("exit code after %s", lines).isEqualTo(128 + 9);
    }

    /// Compares every file of the adapters, byte for byte, and the metrics except for the times.
    private static void assertSame(RunFolder actual, RunFolder expected) throws IOException {
        for (Path part : List.of(Path.of("last"), Path.of("best"))) {
            List<Path> files = files(expected.path().resolve(part));
            assertThat(files).hasSizeGreaterThan(2);
            assertThat(files(actual.path().resolve(part))).isEqualTo(files);
            for (Path file : files) {
                assertThat(actual.path().resolve(part).resolve(file))
                        .hasSameBinaryContentAs(expected.path().resolve(part).resolve(file));
            }
        }
        assertThat(metrics(actual)).isEqualTo(metrics(expected)).hasSize(12 + 4);
    }

    private static List<Path> files(Path folder) throws IOException {
        try (Stream<Path> all = Files.list(folder)) {
            return all.map(Path::getFileName).sorted().toList();
        }
    }

    private static List<String> metrics(RunFolder run) throws IOException {
        return Files.readAllLines(run.path().resolve("metrics.jsonl")).stream()
                .map(line -> line.replaceAll(",\"(data_)?seconds\":[^,}]*", ""))
                .collect(Collectors.toCollection(ArrayList::new));
    }

    /// AdaLoRA allocates at steps 4 and 6, and for the last time at 7; evaluations are at 3, 6, 9 and 12.
    @ParameterizedTest
    @CsvSource({
        "lora, 4, 9, 8",
        "dora, 5, 6, 5",
        "adalora, 5, 7, 5",
        "adalora, 8, 10, 8",
        "adalora-masked, 8, 10, 8",
        "p-tuning, 3, 5, 3",
        "prefix, 2, 9, 8",
    })
    void aKilledRunGoesOnToTheSameBits(String method, int saveSteps, int killedAt, int from)
            throws IOException, InterruptedException {
        RunFolder straight = run("straight");
        TrainingReport expected = KilledRun.train(method, straight, 0, NOBODY);
        assertThat(straight.checkpoints()).doesNotExist();
        RunFolder killed = run("killed");
        runAndKill(method, killed, saveSteps, killedAt, true);
        assertThat(killed.last()).doesNotExist();
        List<Integer> begun = new ArrayList<>();
        TrainingReport report = KilledRun.train(method, killed, saveSteps, new TrainingListener() {
            @Override
            public void begun(int step, int totalSteps) {
                begun.add(step);
                begun.add(totalSteps);
            }
        });
        assertThat(begun).containsExactly(from, 12);
        assertSame(killed, straight);
        assertThat(report.steps()).isEqualTo(12);
        assertThat(report.tokens()).isEqualTo(expected.tokens());
        assertThat(report.trainLoss()).isEqualTo(expected.trainLoss());
        assertThat(report.best()).isEqualTo(expected.best());
        assertThat(report.bestStep()).isEqualTo(expected.bestStep());
    }

    /// Kills a run at arbitrary moments, most likely while it writes one of its many checkpoints, and more than once.
    @Test
    void aRunMayBeKilledAnywhereAndAgain() throws IOException, InterruptedException {
        RunFolder straight = run("straight");
        KilledRun.train("lora", straight, 0, NOBODY);
        RunFolder killed = run("killed");
        runAndKill("lora", killed, 1, 3, false);
        runAndKill("lora", killed, 1, 8, false);
        KilledRun.train("lora", killed, 1, NOBODY);
        assertSame(killed, straight);
        assertThat(files(killed.checkpoints()))
                .containsExactly(Path.of("step-10"), Path.of("step-11"), Path.of("step-12"));
    }

    @Test
    void whatIsHalfWrittenOrDamagedIsPassedOver() throws IOException {
        RunFolder straight = run("straight");
        KilledRun.train("lora", straight, 5, NOBODY);
        assertThat(files(straight.checkpoints()))
                .containsExactly(Path.of("step-10"), Path.of("step-12"), Path.of("step-5"));
        RunFolder again = run("again");
        Path good = copy(
                straight.checkpoints().resolve("step-5"), again.checkpoints().resolve("step-5"));
        // One that was never renamed; one without its text; one that is truncated.
        Files.createDirectories(again.checkpoints().resolve(".loran-draft/step-11"));
        Path lacking = copy(good, again.checkpoints().resolve("step-11"));
        Files.delete(lacking.resolve("state.json"));
        Path cut = copy(good, again.checkpoints().resolve("step-10"));
        byte[] bytes = Files.readAllBytes(good.resolve("state.safetensors"));
        Files.write(cut.resolve("state.safetensors"), Arrays.copyOf(bytes, bytes.length - 1));
        List<Integer> begun = new ArrayList<>();
        KilledRun.train("lora", again, 5, new TrainingListener() {
            @Override
            public void begun(int step, int totalSteps) {
                begun.add(step);
            }
        });
        assertThat(begun).containsExactly(5);
        for (String file : List.of("adapter_model.safetensors", "head.safetensors")) {
            assertThat(again.last().resolve(file))
                    .hasSameBinaryContentAs(straight.last().resolve(file));
        }
    }

    private static Path copy(Path from, Path to) throws IOException {
        Files.createDirectories(to);
        for (Path file : files(from)) {
            Files.copy(from.resolve(file), to.resolve(file));
        }
        return to;
    }

    /// Whatever is wrong with a checkpoint, its contents do not get into the run: the one before it is used.
    @ParameterizedTest
    @CsvSource({
        "lora, flipped",
        "lora, renamed",
        "lora, no moment",
        "lora, another shape",
        "lora, another step",
        "adalora, no moment",
        "adalora, another shape",
        "adalora, no ranks",
    })
    void theCheckpointBeforeADamagedOneIsTaken(String method, String damage) throws IOException {
        RunFolder straight = run("straight");
        KilledRun.train(method, straight, 5, NOBODY);
        RunFolder again = run("again");
        copy(straight.checkpoints().resolve("step-5"), again.checkpoints().resolve("step-5"));
        boolean moved = damage.equals("another step");
        Path damaged = copy(
                straight.checkpoints().resolve("step-10"), again.checkpoints().resolve(moved ? "step-11" : "step-10"));
        if (!moved) {
            damage(damaged, damage);
        }
        List<Integer> begun = new ArrayList<>();
        KilledRun.train(method, again, 5, new TrainingListener() {
            @Override
            public void begun(int step, int totalSteps) {
                begun.add(step);
            }
        });
        assertThat(begun).containsExactly(5);
        for (Path file : files(straight.last())) {
            assertThat(again.last().resolve(file))
                    .hasSameBinaryContentAs(straight.last().resolve(file));
        }
    }

    /// Damages the tensors. Except for the flipped bit, the checksums are valid, as if a program had written the file.
    private static void damage(Path checkpoint, String how) throws IOException {
        Path file = checkpoint.resolve("state.safetensors");
        if (how.equals("flipped")) {
            byte[] bytes = Files.readAllBytes(file);
            bytes[bytes.length - 3] ^= 4;
            Files.write(file, bytes);
            return;
        }
        try (ReferenceBackend backend = new ReferenceBackend();
                Scope scope = Scope.open()) {
            Map<String, Tensor> state = new LinkedHashMap<>();
            try (SafeTensors old = SafeTensors.open(file)) {
                for (String name : old.names()) {
                    state.put(
                            name,
                            old.copy(backend, name, old.entry(name).dtype().dtype()));
                }
            }
            List<Tensor> all = List.copyOf(state.values());
            String parameter = state.keySet().stream()
                    .filter(n -> n.startsWith("parameter.") && n.contains("lora_A"))
                    .reduce((a, b) -> b)
                    .orElseThrow();
            String moment = parameter.substring("parameter.".length()) + ".exp_avg";
            Tensor value = java.util.Objects.requireNonNull(state.get(parameter));
            switch (how) {
                case "renamed" -> state.put(parameter + "x", state.remove(parameter));
                case "no moment" -> state.remove(moment);
                case "another shape" -> state.put(parameter, Tensor.zeros(backend, value.dtype(), 3, 5));
                case "no ranks" -> state.keySet().removeIf(n -> n.startsWith("learner.rank_pattern."));
                default -> throw new IllegalArgumentException(how);
            }
            SafeTensors.write(file, state);
            all.forEach(Tensor::close);
        }
        Files.delete(checkpoint.resolve("SHA256SUMS"));
        Checksums.write(checkpoint);
    }

    /// The disk fails at each write of a run in turn. With `-Dloran.steps=2`, the run is longer, and
    /// each write also fails on its own.
    @Test
    @EnabledOnOs(OS.LINUX)
    void aRunGoesOnFromWhereverTheDiskFailed() throws IOException, InterruptedException {
        Path library = folder.resolve("failing_disk.so");
        Process compiler = new ProcessBuilder(
                        "gcc", "-shared", "-fPIC", "-O1", "-o", library.toString(), "src/test/c/failing_disk.c", "-ldl")
                .inheritIO()
                .start();
        assertThat(compiler.waitFor()).isZero();
        ProcessBuilder child = new ProcessBuilder(
                        Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                        "--enable-native-access=ALL-UNNAMED",
                        "-XX:TieredStopAtLevel=1",
                        "-cp",
                        System.getProperty("java.class.path"),
                        FailingDisk.class.getName(),
                        library.toString(),
                        Files.createDirectory(folder.resolve("runs")).toString(),
                        "lora",
                        System.getProperty("loran.steps", "1"))
                .redirectErrorStream(true);
        child.environment().put("LD_PRELOAD", library.toString());
        Process process = child.start();
        List<String> lines = process.inputReader(StandardCharsets.UTF_8).lines().toList();
        assertThat(process.waitFor()).as("%s", lines).isZero();
        assertThat(lines.getLast()).matches("[1-9]\\d+ failures");
    }

    // ---- more steps than before

    private static TrainerConfig config(int epochs, Rate rate) {
        return KilledRun.CONFIG
                .withEpochs(epochs)
                .withRate(rate)
                .withCheckpoints(new TrainerConfig.Checkpoints(500, 1));
    }

    @ParameterizedTest
    @ValueSource(strings = {"lora", "p-tuning"})
    void aFinishedRunIsProlongedToTheBitsOfALongerOne(String method) throws IOException {
        Rate rate = new Rate(2e-2, 2, Schedule.CONSTANT, 2);
        RunFolder straight = run("straight");
        TrainingReport expected = KilledRun.train(method, straight, config(3, rate), NOBODY);
        RunFolder prolonged = run("prolonged");
        // Steps 8 and 12 are the last ones; evaluations are made at 3, 6, 9 and 12, and after a last step.
        KilledRun.train(method, prolonged, config(2, rate), NOBODY);
        assertThat(files(prolonged.checkpoints())).containsExactly(Path.of("step-8"));
        TrainingReport report = KilledRun.train(method, prolonged, config(3, rate), NOBODY);
        assertThat(files(prolonged.checkpoints())).containsExactly(Path.of("step-12"));
        for (Path file : files(straight.last())) {
            assertThat(prolonged.last().resolve(file))
                    .hasSameBinaryContentAs(straight.last().resolve(file));
        }
        List<String> lines = metrics(prolonged);
        lines.removeIf(line -> line.startsWith("{\"step\":8,\"eval_loss"));
        assertThat(lines).isEqualTo(metrics(straight));
        assertThat(report.steps()).isEqualTo(12);
        assertThat(report.tokens()).isEqualTo(expected.tokens());
    }

    /// The ranks are kept; if they are masked rather than removed from the tensors, they stay masked.
    @ParameterizedTest
    @ValueSource(strings = {"adalora", "adalora-masked"})
    void ranksThatWereCutStayInAProlongedRun(String method) throws IOException {
        Rate rate = new Rate(2e-2, 2, Schedule.CONSTANT, 2);
        RunFolder run = run("run");
        KilledRun.train(method, run, config(2, rate), NOBODY);
        String pattern = pattern(run);
        KilledRun.train(method, run, config(4, rate), NOBODY);
        assertThat(pattern(run)).isEqualTo(pattern).contains("true", "false");
    }

    private static String pattern(RunFolder run) throws IOException {
        return new ObjectMapper()
                .readTree(run.last().resolve("adapter_config.json").toFile())
                .path("rank_pattern")
                .toString();
    }

    /// The default warm-up is a fifth of a short run: 1 step of 8, 3 of 16.
    @Test
    void theRateGoesOnByTheLongerScheduleAndDoesNotWarmUpAgain() {
        Rate rate = new Rate(2e-2, 2, Schedule.LINEAR, null);
        RunFolder run = run("run");
        KilledRun.train("lora", run, config(2, rate), NOBODY);
        List<Double> rates = new ArrayList<>();
        TrainingListener stopping = new TrainingListener() {
            @Override
            public void step(StepResult result, int totalSteps, double seconds) {
                rates.add(result.learningRate());
            }

            @Override
            public boolean wantsStop() {
                return rates.size() >= 3;
            }
        };
        // Stopping and resuming makes no difference.
        assertThat(KilledRun.train("lora", run, config(4, rate), stopping).stopped())
                .isTrue();
        KilledRun.train("lora", run, config(4, rate), new TrainingListener() {
            @Override
            public void step(StepResult result, int totalSteps, double seconds) {
                rates.add(result.learningRate());
            }
        });
        assertThat(rates).hasSize(8);
        for (int i = 0; i < rates.size(); i++) {
            assertThat(rates.get(i)).isCloseTo(2e-2 * (16 - (8 + i)) / 15, within(1e-12));
        }
    }

    @Test
    void aRunCanOnlyBecomeLonger() throws IOException {
        RunFolder run = run("run");
        KilledRun.train("lora", run, KilledRun.CONFIG, NOBODY);
        Map<String, String> before = RunFiles.of(run.path());
        assertThatThrownBy(() -> KilledRun.train("lora", run, KilledRun.CONFIG.withEpochs(2), NOBODY))
                .isInstanceOf(InputException.class)
                .hasMessage(
                        "trainer: 8 steps are fewer than the 12 of the run that is to go on, of which 12 are done; it"
                                + " can only become longer (epochs, steps)");
        assertThat(RunFiles.of(run.path())).isEqualTo(before);
    }

    /// An evaluation without a better loss ends the run; an extended run continues until there is another one.
    @Test
    void aRunWithoutPatienceGetsItAnewWhereItIsProlonged() throws IOException {
        TrainerConfig config =
                KilledRun.CONFIG.withRate(new Rate(1, 1, Schedule.CONSTANT, 0)).withEvaluation(1, 1);
        RunFolder run = run("run");
        TrainingReport first = KilledRun.train("lora", run, config, NOBODY);
        assertThat(first.end()).isEqualTo(TrainingReport.End.PATIENCE);
        assertThat(files(run.checkpoints())).containsExactly(Path.of("step-" + first.steps()));
        TrainingReport second = KilledRun.train("lora", run, config.withEpochs(5), NOBODY);
        assertThat(second.steps()).isGreaterThan(first.steps());
    }

    @Test
    void aRunDoesNotGoOnAsAnother() throws IOException {
        RunFolder run = run("run");
        KilledRun.train("lora", run, 5, NOBODY);
        byte[] last = Files.readAllBytes(run.last().resolve("adapter_model.safetensors"));
        assertThatThrownBy(() -> KilledRun.train("adalora", run, 5, NOBODY))
                .isInstanceOf(InputException.class)
                .hasMessageContaining("step-12: is of a run with learner.method.")
                .hasMessageEndingWith("; resume with what the run was begun with, or begin another one");
        assertThat(Files.readAllBytes(run.last().resolve("adapter_model.safetensors")))
                .isEqualTo(last);
        assertThatThrownBy(() -> RunFolder.resume(folder))
                .isInstanceOf(InputException.class)
                .hasMessage(folder + ": holds no run that could go on (run.json); name the --out of one");
    }
}
