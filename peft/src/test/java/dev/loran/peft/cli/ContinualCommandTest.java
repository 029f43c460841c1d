package dev.loran.peft.cli;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import dev.loran.peft.train.RunFiles;
import dev.loran.peft.train.RunFolder;
import java.io.BufferedReader;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.DisabledOnOs;
import org.junit.jupiter.api.condition.OS;

class ContinualCommandTest extends CommandLineTest {
    private static final List<String> WORDS = List.of("shoes", "red", "query", "online", "cheap", "running");

    /// Forty rows of two classes; each is the word that names its class, and others.
    private Path task(int number) throws IOException {
        StringBuilder lines = new StringBuilder();
        for (int i = 0; i < 40; i++) {
            String word = WORDS.get(2 * number + i % 2);
            lines.append("{\"text\": \"%s%s\", \"label\": \"%s\"}%n".formatted("buy ".repeat(i % 4), word, word));
        }
        return Files.writeString(folder.resolve("task-" + number + ".jsonl"), lines);
    }

    private String tasks() throws IOException {
        return task(0) + "," + task(1) + "," + task(2);
    }

    private List<String> arguments(Path out, Object... more) throws IOException {
        List<String> args = new ArrayList<>(List.of("continual", "--model", encoder.toString(), "--tasks", tasks()));
        args.addAll(List.of("--out", out.toString(), "--threads", "1", "--batch-size", "8", "--max-length", "20"));
        args.addAll(List.of("--steps", "12", "--lr", "1e-2", "--head-lr", "2e-2", "--json"));
        List.of(more).forEach(o -> args.add(o.toString()));
        return args;
    }

    private Result continual(Object... more) throws IOException {
        return loran(arguments(folder.resolve("run"), more).toArray());
    }

    @Test
    void theScoresArePrintedAndKept() throws IOException {
        Result result = continual("--strategy", "rehearsal", "--memory", 10);
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(result.err()).contains("task 1 of 3: task-0, ", "task 3 of 3: task-2, ", "classes cheap, running");
        assertThat(result.out()).contains("accuracy, class-incremental:", "after", "accuracy, task-incremental:");
        JsonNode json = result.json();
        assertThat(json.path("strategy").asText()).isEqualTo("rehearsal");
        assertThat(json.path("steps").asInt()).isEqualTo(36);
        assertThat(json.has("forgetting") && json.has("task_incremental_forgetting"))
                .isTrue();
        assertThat(json.path("forward_transfer").isNull()).isTrue();
        Path run = folder.resolve("run");
        JsonNode kept = JSON.readTree(run.resolve("continual.json").toFile());
        assertThat(kept.at("/strategy/memory").asInt()).isEqualTo(10);
        assertThat(kept.at("/class_incremental/average")).isEqualTo(json.path("average_accuracy"));
        assertThat(kept.at("/class_incremental/matrix")).hasSize(3);
        assertThat(kept.at("/tasks/1/classes").toString()).isEqualTo("[\"online\",\"query\"]");
        assertThat(run.resolve("continual.svg")).content().startsWith("<svg");
        Result eval = eval("--model", encoder, "--adapter", run, "--data", task(2));
        assertThat(eval.code()).as(eval.err()).isZero();
        assertRefused(
                continual(),
                "loran: " + run + ": holds a run already, a finished one; go on with it (--resume " + run
                        + "), replace it (--overwrite), or choose another folder (--out)");
        Result again = continual("--strategy", "separate", "--overwrite");
        assertThat(again.code()).as(again.err()).isZero();
        assertThat(again.json().path("forgetting").asDouble()).isZero();
        assertThat(run.resolve("last")).as("that of the run before").doesNotExist();
    }

    @Test
    void theShippedDataIsSplitByOneOption() {
        Result result = loran(
                "continual",
                "--model",
                encoder,
                "--tasks",
                "shipped",
                "--split-classes",
                5,
                "--rows",
                50,
                "--steps",
                1,
                "--threads",
                1,
                "--max-length",
                8,
                "--batch-size",
                64,
                "--strategy",
                "sequential",
                "--out",
                folder.resolve("shipped"));
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(result.err()).contains("task 1 of 5: act+artifact, 10 rows, classes act, artifact");
    }

    /// In each strategy something else must survive: the rows in memory, the Fisher information, the earlier LoRAs.
    @Test
    @DisabledOnOs(OS.WINDOWS)
    void aRunThatWasEndedInItsThirdTaskEndsAsIfNobodyHadEndedIt() throws IOException, InterruptedException {
        List<String> strategies = List.of("rehearsal", "ewc", "olora");
        for (String strategy : strategies) {
            Object[] options = {"--strategy", strategy, "--save-steps", 2, "--dropout", 0.1, "--overwrite"};
            Path unbroken = folder.resolve("unbroken-" + strategy);
            Path run = folder.resolve("run-" + strategy);
            Result whole = loran(arguments(unbroken, options).toArray());
            assertThat(whole.code()).as(whole.err()).isZero();
            boolean term = strategy.equals("ewc");
            List<String> lines = ended(started(arguments(run, options)), "task 3 of 3", term);
            assertThat(RunFolder.isRun(run)).as("%s", lines).isTrue();
            assertThat(run.resolve("continual.json")).doesNotExist();
            if (term) {
                assertThat(lines.getLast()).isEqualTo("stopped; it goes on by: loran continual --resume " + run);
            }
            Result rest = loran("continual", "--resume", run, "--json");
            assertThat(rest.code()).as(rest.err()).isZero();
            assertThat(rest.err()).doesNotContain("task 2 of 3");
            assertThat(RunFiles.difference(files(run), files(unbroken)))
                    .as(strategy)
                    .isEmpty();
        }
    }

    /// Without the older checkpoints, of which a run that was asked to end may have kept another one.
    private static Map<String, String> files(Path run) throws IOException {
        Map<String, String> files = RunFiles.of(run);
        files.keySet().removeIf(f -> f.contains("/checkpoints/step-") && !f.contains("/checkpoints/step-12"));
        return files;
    }

    private static List<String> ended(Process child, String until, boolean term)
            throws IOException, InterruptedException {
        List<String> lines = new ArrayList<>();
        try (BufferedReader err = child.errorReader(StandardCharsets.UTF_8)) {
            boolean there = false;
            for (String line = err.readLine(); line != null; line = err.readLine()) {
                lines.add(line);
                there |= line.startsWith(until);
                if (there && line.startsWith("step 3/")) {
                    break;
                }
            }
            if (term) {
                child.toHandle().destroy();
            } else {
                child.toHandle().destroyForcibly();
            }
            err.lines().forEach(lines::add);
        }
        assertThat(child.waitFor()).as("%s", lines).isEqualTo(128 + (term ? 15 : 9));
        return lines;
    }

    @Test
    void optionsThatDoNotApplyAreRefused() throws IOException {
        assertRefused(
                continual("--strategy", "ewc", "--memory", 5),
                "loran: --memory is an option of strategy rehearsal; --strategy is ewc");
        assertRefused(
                continual("--lambda", 5),
                "loran: --lambda is an option of strategy l2, ewc, olora; --strategy is rehearsal");
        assertRefused(
                continual("--strategy", "l2", "--fisher-rows", 5),
                "loran: --fisher-rows is an option of strategy ewc; --strategy is l2");
        assertRefused(
                continual("--strategy", "replay"),
                "loran: strategy \"replay\" is not known; choose sequential, separate, rehearsal, l2, ewc or olora");
        assertRefused(
                continual("--strategy", "olora", "--method", "ia3"),
                "loran: strategy olora adds up LoRAs; choose method lora");
        assertRefused(
                continual("--method", "full"),
                "loran: --method full would keep a whole model for each task; choose an adapter");
        assertRefused(continual("--rows", 20), "loran: --rows is for the data that comes with Loran (--tasks shipped)");
        assertRefused(
                continual("--split-classes", 2), "loran: --split-classes makes tasks of one file; --tasks names 3");
        assertRefused(
                continual("--split-classes", 2, "--task", "lm"),
                "loran: --split-classes is for --task classify; rows of lm have no classes");
        assertRefused(
                continual("--tasks", "shipped"),
                "loran: --tasks shipped is one set of rows to classify; say into how many tasks it is split"
                        + " (--split-classes 5)");
        assertRefused(
                continual("--eval", held),
                "loran: --eval names 1 files and --tasks 3; give one for each task, or leave --eval out to hold out a"
                        + " tenth of the rows");
        assertRefused(continual("--memory", 0), "loran: strategy rehearsal: memory is 0, must be at least 1");
        assertRefused(
                continual("--tasks", task(0)),
                "loran: continual learning needs two tasks or more, not 1; name more of them (--tasks)");
        assertThat(folder.resolve("run")).doesNotExist();
        assertThat(continual("--steps", 1).code()).isZero();
        assertRefused(
                loran("continual", "--resume", folder.resolve("run"), "--config", folder.resolve("run/run.json")),
                "loran: --resume takes the options that the run was begun with; leave --config out");
        assertRefused(
                loran("continual", "--resume", folder.resolve("run"), "--memory", 20),
                "loran: " + folder.resolve("run")
                        + ": was begun with --memory 200, not with --memory 20; leave it out, or begin another run");
    }
}
