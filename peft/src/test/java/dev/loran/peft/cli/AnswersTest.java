package dev.loran.peft.cli;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.data.TinyTokenizers;
import dev.loran.peft.io.JsonFile;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;

/// A model trained to answer prompts does so as in training: prompts are cut in the same way, and answers end.
class AnswersTest extends CommandLineTest {
    private static final int LONGEST = 16;
    private static final List<String> KEYS = List.of("buy", "run", "online", "query", "cheap shoes", "red query");

    /// Prompts with different beginnings, every second one too long, with targets of two to five words.
    private Path pairs() throws IOException {
        StringBuilder lines = new StringBuilder();
        for (int i = 0; i < KEYS.size(); i++) {
            ObjectNode row = JSON.createObjectNode()
                    .put("source", KEYS.get(i) + " red".repeat(i % 2 == 0 ? 2 : 40))
                    .put("target", "shoes online" + " cheap".repeat(i % 4));
            lines.append(row).append('\n');
        }
        return Files.writeString(folder.resolve("pairs.jsonl"), lines);
    }

    private Result trained(Path model, Path rows, Path run, Object... more) {
        return loran(Stream.concat(
                        Stream.of(
                                "train",
                                "--model",
                                model,
                                "--task",
                                "generate",
                                "--method",
                                "full",
                                "--train",
                                rows,
                                "--eval",
                                rows,
                                "--out",
                                run,
                                "--epochs",
                                150,
                                "--batch-size",
                                8,
                                "--lr",
                                1e-2,
                                "--max-length",
                                LONGEST,
                                "--threads",
                                1,
                                "--json"),
                        Stream.of(more))
                .toArray());
    }

    @Test
    void memorisedRowsAreAnsweredWordForWordThoughTheyWereCut() throws IOException {
        Path rows = pairs();
        Path run = folder.resolve("run");
        Result result = trained(causal, rows, run);
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(result.json().get("truncated").intValue()).isEqualTo(6);
        assertThat(result.err()).contains("3 rows are longer than 16 tokens, or their prompts than 10, and were cut");
        JsonNode card = JsonFile.read(run.resolve("last/loran.json"));
        // Five words and the end token.
        assertThat(card.get("answer_room").intValue()).isEqualTo(6);
        assertThat(card.get("eos_token").asText()).isEqualTo("[SEP]");

        Result evaluated = eval("--adapter", run, "--data", rows);
        assertThat(evaluated.code()).as(evaluated.err()).isZero();
        assertThat(evaluated.json().get("perplexity").doubleValue()).isLessThan(1.1);
        assertThat(evaluated.json().get("rouge_l").doubleValue()).isEqualTo(1);
        assertThat(evaluated.json().get("ended").doubleValue()).isEqualTo(1);
        assertThat(evaluated.json().get("mean_chars").doubleValue()).isBetween(12.0, 30.0);
        assertThat(evaluated.json().has("within_limit")).isFalse();
        assertThat(evaluated.json().get("truncated").intValue()).isEqualTo(3);
        assertThat(evaluated.err())
                .contains("3 rows are longer than 16 tokens, or their prompts than 10, and were cut");

        for (int i = 0; i < KEYS.size(); i++) {
            Result answer = loran(
                    "generate",
                    "--adapter",
                    run,
                    "--prompt",
                    KEYS.get(i) + " red".repeat(i % 2 == 0 ? 2 : 40),
                    "--max-new-tokens",
                    12,
                    "--threads",
                    1,
                    "--json");
            assertThat(answer.code()).as(answer.err()).isZero();
            assertThat(answer.json().get("text").asText()).isEqualTo("shoes online" + " cheap".repeat(i % 4));
            assertThat(answer.json().get("truncated").intValue()).isEqualTo(i % 2);
        }
    }

    /// The answers have 12, 18, 24 and 30 characters; two of six are longer than 18.
    @Test
    void answersKeepALimitOfCharacters() throws IOException {
        Path rows = pairs();
        Path run = folder.resolve("run");
        assertThat(trained(causal, rows, run).code()).isZero();
        Result evaluated = eval("--adapter", run, "--data", rows, "--max-chars", 18);
        assertThat(evaluated.code()).as(evaluated.err()).isZero();
        assertThat(evaluated.json().get("within_limit").doubleValue()).isEqualTo(4 / 6.0);
        assertThat(evaluated.json().get("ended").doubleValue()).isEqualTo(4 / 6.0);
        assertThat(evaluated.json().get("mean_chars").doubleValue()).isEqualTo((12 + 18 + 18 + 18 + 12 + 18) / 6.0);

        Result one = loran(
                "generate",
                "--adapter",
                run,
                "--prompt",
                KEYS.get(3) + " red".repeat(40),
                "--max-new-tokens",
                12,
                "--max-chars",
                17,
                "--threads",
                1,
                "--json");
        assertThat(one.code()).as(one.err()).isZero();
        assertThat(one.json().get("text").asText()).isEqualTo("shoes online");
        assertThat(one.json().get("ended").booleanValue()).isFalse();
        // The third word passes the limit.
        assertThat(one.json().get("tokens").intValue()).isEqualTo(3);

        StringBuilder lines = new StringBuilder();
        KEYS.forEach(key -> lines.append(key).append(" red red\n"));
        Path prompts = Files.writeString(folder.resolve("prompts.txt"), lines);
        Path answers = folder.resolve("answers.jsonl");
        Result all = loran(
                "predict",
                "--adapter",
                run,
                "--data",
                prompts,
                "--out",
                answers,
                "--max-chars",
                18,
                "--batch-size",
                4,
                "--threads",
                1,
                "--json");
        assertThat(all.code()).as(all.err()).isZero();
        assertThat(all.json().get("texts").intValue()).isEqualTo(6);
        List<String> written = Files.readAllLines(answers);
        for (int i = 0; i < KEYS.size(); i += 2) {
            JsonNode line = JSON.readTree(written.get(i));
            assertThat(line.get("text").asText()).isEqualTo(KEYS.get(i) + " red red");
            assertThat(line.get("answer").asText()).isEqualTo("shoes online" + (i == 2 ? " cheap" : ""));
            assertThat(line.get("ended").booleanValue()).isEqualTo(i != 2);
        }
        // The same prompts as rows of the forms that are trained on, with their answers or without.
        String key = KEYS.getFirst();
        Path forms = Files.writeString(folder.resolve("forms.jsonl"), """
                {"id":1,"source":"%1$s red red","target":"cheap"}
                {"id":2,"prompt":"%1$s red red"}
                {"id":3,"instruction":"%1$s","input":"red red","output":"cheap"}
                {"id":4,"text":"%1$s red red","answer":"cheap"}
                """.formatted(key));
        Result fromRows = loran(
                "predict", "--adapter", run, "--data", forms, "--out", answers, "--max-chars", 18, "--threads", 1);
        assertThat(fromRows.code()).as(fromRows.err()).isZero();
        written = Files.readAllLines(answers);
        assertThat(written).hasSize(4);
        for (int i = 0; i < 4; i++) {
            JsonNode line = JSON.readTree(written.get(i));
            assertThat(line.get("id").intValue()).isEqualTo(i + 1);
            assertThat(line.get("answer").asText()).as(written.get(i)).isEqualTo("shoes online");
            assertThat(line.has("ended")).isTrue();
        }
        assertThat(JSON.readTree(written.getFirst()).get("target").asText()).isEqualTo("cheap");
        Path bad = Files.writeString(folder.resolve("bad.jsonl"), "{\"source\":\"red\"}\n{\"sauce\":\"red\"}\n");
        assertRefused(
                loran("predict", "--adapter", run, "--data", bad, "--out", answers),
                "loran: " + bad + ":2: field \"text\" is missing, found \"sauce\"; a row of task generate is "
                        + "{\"source\"}, {\"prompt\"}, {\"instruction\",\"input\"} or {\"text\"}");
        assertRefused(
                eval("--adapter", run, "--data", rows, "--max-chars", 0), "loran: --max-chars 0 must be at least 1");
    }

    @Test
    void withoutAnEndNothingIsTrainedToAnswerUntilOneIsNamed() throws IOException {
        Path rows = pairs();
        ObjectNode words = (ObjectNode) new ObjectMapper().readTree(TinyTokenizers.wordPieceJson());
        words.set("post_processor", null);
        Files.writeString(causal.resolve("tokenizer.json"), words.toString());
        assertRefused(
                trained(causal, rows, folder.resolve("none")),
                "loran: " + causal.resolve("tokenizer.json")
                        + ": nothing says which token ends a text, so an answer would never end; name one by"
                        + " --eos-token TOKEN, or as eos_token in tokenizer_config.json");
        Path run = folder.resolve("named");
        Result result = trained(causal, rows, run, "--eos-token", "[PAD]");
        assertThat(result.code()).as(result.err()).isZero();
        // The token was stored: it need not be given again.
        Result evaluated = eval("--adapter", run, "--data", rows);
        assertThat(evaluated.json().get("rouge_l").doubleValue()).isEqualTo(1);
        assertRefused(
                loran("eval", "--adapter", run, "--data", rows, "--eos-token", "stop"),
                "loran: end token \"stop\" is no token of " + run.resolve("best/tokenizer.json")
                        + "; name one of its vocabulary (--eos-token)");
    }
}
