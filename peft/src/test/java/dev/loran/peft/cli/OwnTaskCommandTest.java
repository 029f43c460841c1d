package dev.loran.peft.cli;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import dev.loran.peft.data.Row;
import dev.loran.peft.task.Tagging;
import dev.loran.peft.train.Tiny;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.stream.Collectors;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/// A task that does not come with Loran, given on the command line by the name of its class.
class OwnTaskCommandTest extends CommandLineTest {
    private static final String TAGGING = Tagging.class.getName();

    @BeforeEach
    void rows() {
        train = write(folder.resolve("tags.jsonl"), Tiny.rows(48, 1));
        held = write(folder.resolve("held-tags.jsonl"), Tiny.rows(20, 2));
    }

    private static Path write(Path file, List<Row.Classify> rows) {
        try {
            return Files.writeString(
                    file,
                    rows.stream()
                            .map(row -> {
                                String[] words = row.text().split(" ");
                                return "{\"words\":%s,\"tags\":%s}"
                                        .formatted(
                                                JSON.valueToTree(words),
                                                JSON.valueToTree(Arrays.stream(words)
                                                        .map(w -> w.equals("running") || w.equals("shoes")
                                                                ? "THING"
                                                                : "O")
                                                        .toArray()));
                            })
                            .collect(Collectors.joining("\n")));
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    private Result tag(Object... more) {
        List<Object> args = new ArrayList<>(List.of(more));
        args.addAll(0, List.of("--task", TAGGING, "--eval", held, "--lr", 1e-2));
        return train(args.toArray());
    }

    @Test
    void isTrainedResumedAndEvaluated() throws IOException {
        Result trained = tag("--steps", 24, "--save-steps", 8);
        assertThat(trained.code()).as(trained.err()).isZero();
        assertThat(trained.err())
                .containsPattern("after step 24: loss 0\\.\\d{4}, right [01]\\.\\d{4} \\(best so far\\)");
        JsonNode result = trained.json();
        assertThat(result.get("eval_accuracy").isNull()).isTrue();
        assertThat(result.get("eval_right").doubleValue()).isGreaterThan(0.8);
        assertThat(result.get("planned_tensor_mib").doubleValue())
                .isGreaterThanOrEqualTo(result.get("peak_tensor_mib").doubleValue());
        Path run = folder.resolve("run");
        JsonNode card = JSON.readTree(Files.readString(run.resolve("best/loran.json")));
        assertThat(card.get("task").asText()).isEqualTo(TAGGING);
        assertThat(card.get("labels")).hasToString("[\"O\",\"THING\"]");

        Result evaluated =
                loran("eval", "--model", encoder, "--adapter", run, "--data", held, "--json", "--threads", 1);
        assertThat(evaluated.code()).as(evaluated.err()).isZero();
        assertThat(evaluated.json().get("right")).isEqualTo(result.get("eval_right"));
        assertThat(evaluated.json().get("loss").doubleValue())
                .isEqualTo(result.get("eval_loss").doubleValue());
        assertRefused(
                loran("eval", "--model", encoder, "--adapter", run, "--task", "classify", "--data", held),
                "loran: " + run + ": was trained for task " + TAGGING + ", not classify; leave --task out");
        assertRefused(
                loran("predict", "--model", encoder, "--adapter", run, "--data", train, "--out", folder.resolve("p")),
                "loran: " + run + ": was trained for task " + TAGGING + ", which does not say the class of a text;"
                        + " measure it with loran eval");

        Result longer = loran("train", "--resume", run, "--steps", 30, "--json");
        assertThat(longer.code()).as(longer.err()).isZero();
        assertThat(longer.err()).contains("going on after step 24 of 30");
    }

    @Test
    void isComparedAndSwept() throws IOException {
        Result compared = loran(
                "compare",
                "--model",
                encoder,
                "--task",
                TAGGING,
                "--train",
                train,
                "--eval",
                held,
                "--methods",
                "lora,ia3",
                "--steps",
                6,
                "--threads",
                1,
                "--json",
                "--out",
                folder.resolve("compared"));
        assertThat(compared.code()).as(compared.err()).isZero();
        for (JsonNode method : compared.json().get("methods")) {
            assertThat(method.get("right").doubleValue()).isBetween(0.0, 1.0);
        }
        assertThat(compared.out()).contains("right");

        Result swept = loran(
                "sweep",
                "--model",
                encoder,
                "--task",
                TAGGING,
                "--train",
                train,
                "--eval",
                held,
                "--grid",
                "lr=1e-5,1e-2",
                "--steps",
                20,
                "--threads",
                1,
                "--json",
                "--out",
                folder.resolve("swept"));
        assertThat(swept.code()).as(swept.err()).isZero();
        JsonNode runs = swept.json().get("runs");
        assertThat(runs.get(0).get("eval_right").doubleValue())
                .isGreaterThan(runs.get(1).get("eval_right").doubleValue());
        assertThat(runs.get(0).get("options").get("lr").asText()).isEqualTo("1e-2");
    }

    @Test
    void refusalsAreOneLine() throws IOException {
        assertRefused(
                train("--task", "com.acme.Missing"),
                "loran: task \"com.acme.Missing\": no such class on the class path; choose classify, regress, tag, embed, rerank, generate, chat, prefer or lm, or add it");
        Path bad = Files.writeString(folder.resolve("bad.jsonl"), "{\"words\":[\"red\"],\"tags\":[]}");
        assertRefused(tag("--train", bad), "loran: " + bad + ":1: there are 1 words but 0 tags");
        Path none = Files.writeString(folder.resolve("none.jsonl"), "{\"words\":[\"red\"]}");
        assertRefused(
                tag("--train", none),
                "loran: " + none + ":1: field \"tags\" is missing, found \"words\"; a row of task " + TAGGING
                        + " is {\"words\",\"tags\"}");
    }
}
