package dev.loran.peft.cli;

import static java.util.Objects.requireNonNull;
import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import org.junit.jupiter.api.Test;

/// Sweeps whose runs train in one pass, and sweeps that stop runs early.
class OnePassTest extends CommandLineTest {
    private Result sweep(String name, Object... more) {
        List<Object> args = new ArrayList<>(List.of("sweep", "--out", folder.resolve(name), "--json"));
        args.addAll(List.of("--model", encoder, "--task", "classify", "--train", train, "--eval", held));
        args.addAll(List.of("--threads", 1, "--batch-size", 8, "--max-length=24"));
        args.addAll(List.of(more));
        return loran(args.toArray());
    }

    private static Map<String, JsonNode> byName(Result result, String key) throws IOException {
        return result.json()
                .get("runs")
                .valueStream()
                .collect(Collectors.toMap(
                        r -> String.valueOf(Path.of(r.get("run").asText()).getFileName()), r -> r.path(key)));
    }

    @Test
    void onePassGivesTheResultsOfSeparateRunsAndGoesOnAfterAKill() throws IOException {
        Object[] grid = {
            "--steps",
            6,
            "--save-steps",
            2,
            "--grid",
            "lr=1e-3,1e-2",
            "--grid",
            "rank=2,4",
            "--grid",
            "method=lora,prefix"
        };
        Result apart = sweep("apart", grid);
        assertThat(apart.code()).as(apart.err()).isZero();
        List<Object> args = new ArrayList<>(List.of(grid));
        args.addAll(List.of("--one-pass", 8));
        Result one = sweep("one", args.toArray());
        assertThat(one.code()).as(one.err()).isZero();
        assertThat(one.err())
                .contains("4 of 8 runs in one pass: lr=1e-3,rank=2,method=lora; lr=1e-3,rank=4,method=lora; "
                        + "lr=1e-2,rank=2,method=lora; lr=1e-2,rank=4,method=lora")
                .contains("run 2 of 8: lr=1e-3,rank=2,method=prefix");
        for (String key : List.of("eval_loss", "eval_accuracy", "train_loss", "trainable_parameters", "steps")) {
            assertThat(byName(one, key)).isEqualTo(byName(apart, key));
        }
        assertThat(one.json().at("/runs/0/runs_in_pass").asInt(4)).isEqualTo(4);
        Path run = folder.resolve("one/lr=1e-2,rank=2,method=lora");
        Path alone = folder.resolve("apart/lr=1e-2,rank=2,method=lora");
        for (String file : List.of("best/adapter_model.safetensors", "last/head.safetensors", "run.json")) {
            assertThat(run.resolve(file)).hasSameBinaryContentAs(alone.resolve(file));
        }

        // Two runs were killed at different steps: they go on together, and the others are kept.
        Path other = folder.resolve("one/lr=1e-3,rank=4,method=lora");
        Files.delete(run.resolve("result.json"));
        Files.delete(run.resolve("checkpoints/step-6/state.json"));
        Files.delete(other.resolve("result.json"));
        Result again = sweep("one", args.toArray());
        assertThat(again.code()).as(again.err()).isZero();
        assertThat(again.err())
                .contains("2 of 8 runs in one pass: lr=1e-3,rank=4,method=lora; lr=1e-2,rank=2,method=lora")
                .contains("going on after step 4 of 6");
        assertThat(byName(again, "eval_loss")).isEqualTo(byName(apart, "eval_loss"));
    }

    @Test
    void aConfigurationThatCannotBeDoesNotStopItsPass() throws IOException {
        Result result = sweep("sweep", "--steps", 2, "--grid", "rank=0,2,4", "--one-pass", 3);
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(result.err())
                .contains("LoraConfig: r is 0, must be at least 1; these runs train one after the other");
        assertThat(byName(result, "error")).containsKeys("rank=0", "rank=2", "rank=4");
        assertThat(requireNonNull(byName(result, "error").get("rank=0")).asText())
                .contains("r is 0");
        assertThat(requireNonNull(byName(result, "eval_loss").get("rank=4")).isNumber())
                .isTrue();
    }

    @Test
    void halvingTrainsTheBestToTheEndInOnePassAsInSeparateRuns() throws IOException {
        Object[] grid = {"--steps", 8, "--eval-every", 2, "--halving", 2, "--grid", "lr=1e-6,1e-3,1e-2,3e-2"};
        Result apart = sweep("apart", grid);
        assertThat(apart.code()).as(apart.err()).isZero();
        List<Object> args = new ArrayList<>(List.of(grid));
        args.addAll(List.of("--one-pass", 4));
        Result one = sweep("one", args.toArray());
        assertThat(one.code()).as(one.err()).isZero();
        assertThat(byName(one, "steps")).isEqualTo(byName(apart, "steps"));
        assertThat(byName(one, "eval_loss")).isEqualTo(byName(apart, "eval_loss"));
        assertThat(byName(one, "steps").values().stream().map(JsonNode::asInt).sorted())
                .containsExactly(2, 2, 4, 8);
        assertThat(byName(one, "stopped").values().stream()
                        .map(s -> s.path("why").asText()))
                .contains("number 3 of 4 at cut 1 of the halving; the best 2 went on");
        assertThat(one.out()).contains(": stopped after step 4");
        // Everything is decided: nothing trains again.
        Result again = sweep("one", args.toArray());
        assertThat(again.err().lines().filter(l -> !l.startsWith("the report: ")))
                .hasSize(4)
                .allMatch(l -> l.endsWith(", done already"));
        assertThat(folder.resolve("one/report.html"))
                .content()
                .contains("<th>lr</th>", "<td>3e-2</td>", "was stopped after step 4: number 2 of 2", "aria-sort");
        assertThat(byName(again, "steps")).isEqualTo(byName(one, "steps"));
        assertRefused(
                sweep("one", "--steps", 8, "--eval-every", 2, "--halving", 3, "--grid", "lr=1e-6"),
                "loran: " + folder.resolve("one")
                        + ": holds a sweep with halving 2, not 3; choose another --out, or the same options");
    }

    @Test
    void medianStoppingEndsRunsThatAreWorseThanMost() throws IOException {
        for (int together : List.of(1, 5)) {
            Result result = sweep(
                    "sweep-" + together,
                    "--steps",
                    30,
                    "--eval-every",
                    5,
                    "--median-stopping",
                    "--one-pass",
                    together,
                    "--grid",
                    "lr=1e-2,2e-2,3e-2,1e-7,5e-3",
                    "--head-lr",
                    "1e-3");
            assertThat(result.code()).as(result.err()).isZero();
            assertThat(result.json().at("/runs/0/steps").asInt()).isEqualTo(30);
            JsonNode stopped = requireNonNull(byName(result, "stopped").get("lr=1e-7"));
            assertThat(stopped.path("step").asInt()).isBetween(6, 29);
            assertThat(stopped.path("why").asText()).startsWith("its best accuracy by step ");
        }
    }
}
