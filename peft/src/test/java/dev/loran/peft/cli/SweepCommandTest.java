package dev.loran.peft.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.JsonNode;
import dev.loran.peft.cli.sweep.SweepSpace;
import dev.loran.peft.cli.sweep.SweepSpace.Values;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;

class SweepCommandTest extends CommandLineTest {
    private Result sweep(Object... more) {
        List<Object> args = new ArrayList<>(List.of("sweep", "--out", folder.resolve("sweep"), "--json"));
        args.addAll(List.of("--model", encoder, "--task", "classify", "--train", train, "--threads", 1));
        args.addAll(List.of("--batch-size", 8, "--max-length=24"));
        args.addAll(List.of(more));
        return loran(args.toArray());
    }

    @Test
    void everyCombinationIsTrainedAndTheBestStandsFirst() throws IOException {
        Object[] grid = {
            "--eval", held, "--steps", 6, "--save-steps", 2, "--grid", "lr=1e-5,1e-2", "--grid", "rank=2, 4"
        };
        Result result = sweep(grid);
        assertThat(result.code()).as(result.err()).isZero();
        JsonNode runs = result.json().get("runs");
        assertThat(runs).hasSize(4);
        assertThat(runs.findValuesAsText("run"))
                .containsExactlyInAnyOrder(
                        place("lr=1e-5,rank=2"),
                        place("lr=1e-5,rank=4"),
                        place("lr=1e-2,rank=2"),
                        place("lr=1e-2,rank=4"));
        assertThat(result.json().get("best")).isEqualTo(runs.get(0).get("run"));
        for (int i = 0; i < 3; i++) {
            double a = runs.get(i).get("eval_accuracy").doubleValue();
            double b = runs.get(i + 1).get("eval_accuracy").doubleValue();
            assertThat(a).isGreaterThanOrEqualTo(b);
            if (a == b) {
                assertThat(runs.get(i).get("eval_loss").doubleValue())
                        .isLessThanOrEqualTo(runs.get(i + 1).get("eval_loss").doubleValue());
            }
        }
        List<String> lines = result.out().lines().toList();
        assertThat(lines).hasSize(1 + 4 + 1);
        assertThat(lines.getFirst()).matches("lr +rank +loss +accuracy +trainable +seconds +run");
        assertThat(lines.get(1)).endsWith(runs.get(0).get("run").asText());
        // A run gives the same result as loran train with the same options.
        JsonNode best = runs.get(0);
        JsonNode alone = train(
                        "--eval",
                        held,
                        "--steps",
                        6,
                        "--lr",
                        best.at("/options/lr").asText(),
                        "--rank",
                        best.at("/options/rank").asText())
                .json();
        assertThat(best.get("eval_loss")).isEqualTo(alone.get("eval_loss"));

        // One was killed before its end, one never began: the others are not trained again.
        Path killed = folder.resolve("sweep/lr=1e-2,rank=2");
        Files.delete(killed.resolve("result.json"));
        Files.delete(killed.resolve("checkpoints/step-6/state.json"));
        Result again = sweep(grid);
        assertThat(again.code()).as(again.err()).isZero();
        assertThat(again.err()).contains("going on after step 4 of 6").containsOnlyOnce("step 6/6");
        assertThat(again.err().lines().filter(l -> l.endsWith(", done already")))
                .hasSize(3);
        assertThat(again.json().get("runs").findValuesAsText("eval_loss"))
                .isEqualTo(runs.findValuesAsText("eval_loss"));
        Result other = sweep("--eval", held, "--steps", 7, "--save-steps", 2, "--grid", "lr=1e-5");
        assertRefused(
                other,
                "loran: " + folder.resolve("sweep")
                        + ": holds a sweep with steps 6, not 7; choose another --out, or the same options");
    }

    private String place(String name) {
        return folder.resolve("sweep").resolve(name).toString();
    }

    @Test
    void aRunThatCannotBeDoneDoesNotStopTheOthers() throws IOException {
        Path space = Files.writeString(
                folder.resolve("space.json"),
                "{\"rank\": [0, 2], \"targets\": [\"query,value\"], \"method\": \"lora\"}");
        Result result = sweep("--eval", held, "--steps", 1, "--space", space);
        assertThat(result.code()).as(result.err()).isZero();
        JsonNode failed = result.json().at("/runs/1");
        assertThat(failed.at("/options/rank").asText()).isEqualTo("0");
        assertThat(failed.get("error").asText()).isEqualTo("LoraConfig: r is 0, must be at least 1");
        assertThat(result.json().at("/runs/0/options/targets").asText()).isEqualTo("query,value");
        assertThat(result.json().at("/best").asText()).contains("rank=2");
    }

    /// Killed while its folder was created: without options, as earlier versions left it, and before the folder is
    /// complete.
    @Test
    void aRunThatWasKilledAsItBeganBeginsAnew() throws IOException {
        Object[] grid = {"--eval", held, "--steps", 2, "--grid", "rank=2,4"};
        Path first = Files.createDirectories(folder.resolve("sweep/rank=2"));
        Files.writeString(first.resolve("run.json"), "{ }");
        Files.createDirectories(folder.resolve("sweep/rank=4/.loran-draft"));
        Path shared = folder.resolve("sweep/sweep.json");
        Result without = sweep("--eval", held, "--steps", 2, "--grid", "rank=2,4", "--out", folder.resolve("other"));
        assertThat(without.code()).as(without.err()).isZero();
        Files.copy(folder.resolve("other/sweep.json"), shared);
        Result result = sweep(grid);
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(result.json().get("runs").findValuesAsText("error")).isEmpty();
        Files.writeString(first.resolve("run.json"), "{ }");
        assertRefused(
                loran("train", "--resume", first),
                "loran: " + first.resolve("run.json") + ": names no options: the run was killed as it began, or was not"
                        + " begun by loran train; begin it anew (--overwrite)");
        assertRefused(
                sweep("--overwrite", "--eval", held, "--grid", "rank=2"),
                "loran: --overwrite is for one run; a sweep replaces nothing: choose another folder (--out)");
    }

    @Test
    void sweepsThatCannotBeAreRefusedBeforeTheFirstRun() throws IOException {
        assertRefused(
                sweep("--eval", held, "--grid", "rnak=2,4"),
                "loran: [rnak] are no options that a sweep can vary; did you mean rank?");
        assertRefused(
                sweep("--eval", held),
                "loran: nothing varies; say which options do, as --grid lr=1e-4,3e-4 or in a --space file");
        assertRefused(
                sweep("--grid", "rank=2,4"),
                "loran: --eval or --split is missing: runs are compared by what they reach on held-out rows");
        assertRefused(
                sweep("--eval", held, "--grid", "rank=2,four"),
                "loran train: Invalid value for option '--rank': 'four' is not an int (see loran train --help)");
        assertRefused(
                sweep("--eval", held, "--grid", "lr=1e-5..1e-3"),
                "loran: lr: a range has no end of values; say how many to draw (--random)");
        assertThat(sweep("--eval", held, "--grid", "lr=1", "--epoch", 3).err())
                .contains("Unknown option", "did you mean --epochs?");
        assertThat(folder.resolve("sweep")).doesNotExist();
        Path other = Files.createDirectory(folder.resolve("other"));
        Files.writeString(other.resolve("file"), "mine");
        assertRefused(
                sweep("--eval", held, "--grid", "lr=1", "--out", other),
                "loran: " + other + ": holds other files; choose a new or empty folder for the sweep");
    }

    @Test
    void drawsAreTheSameForASeedAndLieInTheirRanges() {
        Map<String, Values> space = new LinkedHashMap<>();
        space.put("lr", Values.of("lr", List.of("1e-5..1e-2")));
        space.put("rank", Values.of("rank", List.of("2..64")));
        space.put("method", Values.of("method", List.of("lora", "dora")));
        List<Map<String, String>> some = SweepSpace.drawn(space, 33, 5);
        assertThat(some).hasSize(33).doesNotHaveDuplicates();
        assertThat(SweepSpace.drawn(space, 50, 5).subList(0, 33)).isEqualTo(some);
        assertThat(SweepSpace.drawn(space, 33, 6)).isNotEqualTo(some);
        for (Map<String, String> one : some) {
            assertThat(Double.parseDouble(String.valueOf(one.get("lr")))).isBetween(1e-5, 1e-2);
            assertThat(Integer.parseInt(String.valueOf(one.get("rank")))).isBetween(2, 64);
        }
        // Uniform in the logarithm: a third of them lies in each power of ten.
        assertThat(some.stream().filter(o -> Double.parseDouble(String.valueOf(o.get("lr"))) < 1e-4))
                .hasSizeBetween(4, 20);
        assertThat(SweepSpace.drawn(Map.of("method", Values.of("method", List.of("a", "b"))), 7, 1))
                .hasSize(2);
        assertThat(SweepSpace.name(some.getFirst())).matches("lr=[0-9.E-]+,rank=\\d+,method=\\w+");
        assertThat(SweepSpace.name(Map.of("targets", "/a.*/")))
                .startsWith("targets=_a._")
                .isNotEqualTo(SweepSpace.name(Map.of("targets", "_a.__")));
        assertThatThrownBy(() -> Values.of("lr", List.of("1..x")))
                .hasMessage("lr: 1..x is no range; needs two positive numbers, the lower one first, as 1e-5..1e-2");
        assertThatThrownBy(() -> Values.of("lr", List.of("1", ""))).hasMessage("lr: has an empty value");
    }
}
