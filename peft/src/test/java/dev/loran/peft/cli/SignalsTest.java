package dev.loran.peft.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import dev.loran.peft.train.RunFiles;
import dev.loran.peft.train.Tiny;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.Reader;
import java.io.Writer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.DisabledOnOs;
import org.junit.jupiter.api.condition.EnabledOnOs;
import org.junit.jupiter.api.condition.OS;
import org.junit.jupiter.api.io.TempDir;

/// Commands that are asked to end, each in a separate process, leave everything that was finished, and say how to
/// resume.
@DisabledOnOs(OS.WINDOWS)
class SignalsTest extends CommandLineTest {
    private static final int TERMINATED = 128 + 15;
    private static final long SECONDS = 30;

    @TempDir
    private Path place;

    /// Asks a process to end once it has printed a line that begins with `until`. Returns all lines that it prints.
    private static List<String> terminated(Process child, String until) throws IOException, InterruptedException {
        List<String> lines = new ArrayList<>();
        try (BufferedReader err = child.errorReader(StandardCharsets.UTF_8)) {
            for (String line = err.readLine(); line != null; line = err.readLine()) {
                lines.add(line);
                if (line.startsWith(until)) {
                    break;
                }
            }
            child.toHandle().destroy();
            err.lines().forEach(lines::add);
        }
        assertThat(child.waitFor()).as("%s", lines).isEqualTo(TERMINATED);
        return lines;
    }

    private List<String> training(Path out, String... more) {
        List<String> args = new ArrayList<>(List.of("train", "--task", "classify", "--model", encoder.toString()));
        args.addAll(List.of("--train", train.toString(), "--out", out.toString(), "--threads", "1"));
        args.addAll(List.of(more));
        return args;
    }

    /// In an endless step the first signal is received but cannot take effect; the second one does not need the
    /// command.
    @Test
    void aSecondSignalEndsATrainingAtOnce() throws IOException, InterruptedException {
        Path out = place.resolve("run");
        Process child = started(training(out, "--accumulation", "10000000", "--steps", "2"));
        List<String> lines = new ArrayList<>();
        try (BufferedReader err = child.errorReader(StandardCharsets.UTF_8)) {
            for (String line = err.readLine(); line != null && !line.contains(" steps; "); line = err.readLine()) {
                lines.add(line);
            }
            int signals = 0;
            while (child.isAlive() && signals < 20 * SECONDS) {
                child.toHandle().destroy();
                signals++;
                child.waitFor(50, TimeUnit.MILLISECONDS);
            }
            boolean ended = !child.isAlive();
            child.toHandle().destroyForcibly();
            err.lines().forEach(lines::add);
            assertThat(ended).as("after %d signals: %s", signals, lines).isTrue();
            assertThat(signals).isGreaterThan(1);
        }
        assertThat(child.waitFor()).as("%s", lines).isEqualTo(TERMINATED);
        assertThat(lines).noneMatch(line -> line.startsWith("stopped after"));
    }

    /// The library that draws the bar could take Ctrl-C for itself. `script` gives the process a terminal.
    @Test
    @EnabledOnOs(OS.LINUX)
    void ctrlCStopsARunThatShowsABar() throws IOException, InterruptedException {
        Path script = Path.of("/usr/bin/script");
        assumeTrue(Files.isExecutable(script), "needs script, of util-linux");
        String typed = command(training(place.resolve("run"), "--steps", "20000")).stream()
                .map(argument -> "'" + argument + "'")
                // The tests may run where Ctrl-C is ignored, as in the background of a shell.
                .collect(Collectors.joining(" ", "exec env --default-signal=INT ", ""));
        Process child = new ProcessBuilder(script.toString(), "-qefc", typed, "/dev/null")
                .redirectErrorStream(true)
                .start();
        StringBuilder shown = new StringBuilder();
        try (Reader out = child.inputReader(StandardCharsets.UTF_8);
                Writer keys = child.outputWriter(StandardCharsets.UTF_8)) {
            boolean typedC = false;
            for (int c = out.read(); c >= 0; c = out.read()) {
                shown.append((char) c);
                if (!typedC && shown.indexOf(" left") > 0) {
                    keys.write(3);
                    keys.flush();
                    typedC = true;
                }
            }
        }
        assertThat(child.waitFor()).as("%s", shown).isEqualTo(Main.STOPPED);
        assertThat(shown).contains("stopped after");
    }

    @Test
    void aSweepKeepsItsFinishedRunsAndGoesOn() throws IOException, InterruptedException {
        Path out = place.resolve("sweep");
        List<String> sweep = new ArrayList<>(List.of("sweep", "--task", "classify", "--model", encoder.toString()));
        sweep.addAll(List.of("--train", train.toString(), "--eval", held.toString(), "--out", out.toString()));
        sweep.addAll(List.of("--threads", "1", "--steps", "60", "--batch-size", "4", "--grid", "lr=1e-3,1e-2"));
        List<String> lines = terminated(started(sweep), "run 2 of 2");
        Path first;
        try (Stream<Path> runs = Files.list(out)) {
            first = runs.filter(r -> Files.exists(r.resolve("result.json")))
                    .findFirst()
                    .orElseThrow(() -> new AssertionError(lines));
        }
        Map<String, String> finished = RunFiles.of(first);
        Result rest = loran(sweep.toArray());
        assertThat(rest.code()).as(rest.err()).isZero();
        assertThat(rest.err()).contains(first.getFileName() + ", done already");
        assertThat(RunFiles.of(first)).isEqualTo(finished);
        assertThat(JSON.readTree(out.resolve("report.json").toFile()).path("runs"))
                .hasSize(2)
                .allMatch(run -> run.has("eval_accuracy"));
    }

    @Test
    void aComparisonKeepsWhatItMeasured() throws IOException, InterruptedException {
        Path out = place.resolve("compared");
        List<String> compare = new ArrayList<>(List.of("compare", "--task", "classify", "--model", encoder.toString()));
        compare.addAll(List.of("--methods", "ia3,lora", "--train", train.toString(), "--eval", held.toString()));
        compare.addAll(List.of("--out", out.toString(), "--threads", "1", "--epochs", "300"));
        List<String> lines = terminated(started(compare), "lora: ");
        assertThat(lines.getLast()).isEqualTo("stopped; it goes on by the same command, with --out " + out);
        assertThat(JSON.readTree(out.resolve("results.json").toFile()).path("methods"))
                .singleElement()
                .satisfies(m -> assertThat(m.path("method").asText()).isEqualTo("ia3"));
        Result rest = loran(compare.toArray());
        assertThat(rest.code()).as(rest.err()).isZero();
        assertThat(rest.err()).contains("ia3: done already").contains("lora: 900 steps");
        assertThat(JSON.readTree(out.resolve("results.json").toFile()).path("methods"))
                .hasSize(2)
                .allMatch(m -> m.path("steps").intValue() == 900);
    }

    @Test
    void aPredictionKeepsItsFirstAnswers() throws IOException, InterruptedException {
        Path run = place.resolve("run");
        assertThat(loran(training(run, "--steps", "2").toArray()).code()).isZero();
        Path texts = Tiny.write(place.resolve("texts.jsonl"), Tiny.rows(200_000, 3));
        Path out = place.resolve("answers.jsonl");
        Process child = started(List.of(
                "predict",
                "--model",
                encoder.toString(),
                "--adapter",
                run.toString(),
                "--threads",
                "1",
                "--data",
                texts.toString(),
                "--out",
                out.toString()));
        Path part = place.resolve("answers.jsonl.part");
        while (child.isAlive() && !(Files.exists(part) && Files.size(part) > 0)) {
            child.waitFor(5, TimeUnit.MILLISECONDS);
        }
        List<String> lines = terminated(child, "");
        assertThat(out).doesNotExist();
        List<String> answers = Files.readAllLines(part);
        assertThat(answers).isNotEmpty().allMatch(line -> line.endsWith("}"));
        assertThat(lines.getLast())
                .isEqualTo("stopped; the first %,d answers are in %s".formatted(answers.size(), part));
    }

    /// Whenever a merge is asked to end, `--out` is the whole model or does not exist, and the merge can be repeated.
    @Test
    void aMergeLeavesAWholeModelOrNothing() throws IOException, InterruptedException {
        Path run = place.resolve("run");
        assertThat(loran(training(run, "--steps", "2").toArray()).code()).isZero();
        Path out = place.resolve("merged");
        List<String> merge = new ArrayList<>(List.of("merge", "--model", encoder.toString()));
        merge.addAll(List.of("--adapter", run.toString(), "--out", out.toString()));
        Process child = started(merge);
        Path draft = out.resolve(".loran-draft");
        while (child.isAlive() && !Files.exists(draft)) {
            child.waitFor(1, TimeUnit.MILLISECONDS);
        }
        child.toHandle().destroy();
        int code = child.waitFor();
        assertThat(code).isIn(0, TERMINATED);
        assertThat(draft).doesNotExist();
        // A signal that comes while the finished files are moved into place no longer stops them.
        if (!Files.exists(out)) {
            assertThat(code).isEqualTo(TERMINATED);
            assertThat(loran(merge.toArray()).code()).isZero();
        }
        assertThat(out.resolve("config.json")).isRegularFile();
        assertThat(loran("eval", "--model", out, "--data", held, "--threads", "1")
                        .code())
                .isZero();
    }
}
