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
                "loran: end token \"stop\" is no token of " + run.resolve("best/tokenizer.json"));
    }
}
