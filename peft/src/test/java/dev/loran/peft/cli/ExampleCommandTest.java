package dev.loran.peft.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import com.fasterxml.jackson.databind.JsonNode;
import dev.loran.peft.data.ShippedData;
import dev.loran.peft.generation.RougeL;
import dev.loran.peft.seo.SeoTask;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;

class ExampleCommandTest extends CommandLineTest {
    @Test
    void withoutANameTheExamplesAreListed() {
        Result result = loran("example");
        assertThat(result.code()).isZero();
        assertThat(result.out().lines()).hasSize(1 + SeoTask.values().length);
        for (SeoTask task : SeoTask.values()) {
            assertThat(result.out()).contains(task + " ", task.summary());
        }
    }

    @Test
    void theRowsAreFilesForEveryCommand() {
        Path out = folder.resolve("example");
        Result result = loran("example", "search-intent", "--data-only", "--out", out);
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(result.err()).contains("SYNTHETIC");
        assertThat(out.resolve("data/README.md")).exists();
        assertThat(out.resolve("compare")).doesNotExist();
    }

    @Test
    void classesAreComparedWithTheFrozenModelAndWithNone() throws IOException {
        Path out = folder.resolve("example");
        Object[] command = {
            "example",
            "search-intent",
            "--model",
            encoder,
            "--methods",
            "lora,ia3",
            "--steps",
            2,
            "--max-length",
            12,
            "--threads",
            1,
            "--out",
            out,
            "--json"
        };
        Result result = loran(command);
        assertThat(result.code()).as(result.err()).isZero();
        JsonNode json = result.json();
        assertThat(json.get("methods").findValuesAsText("method"))
                .containsExactly("most frequent", "nearest neighbor", "frozen model", "lora", "ia3");
        for (JsonNode method : json.get("methods")) {
            assertThat(method.get("accuracy").doubleValue()).isBetween(0.1, 1.0);
        }
        assertThat(JSON.readTree(Files.readString(out.resolve("results.json")))).isEqualTo(json);
        assertThat(out.resolve("compare/report.html")).exists();
        // The same command goes on, and finds that all is done.
        Result again = loran(command);
        assertThat(again.err()).contains("lora: done already", "ia3: done already");
        assertThat(again.json()).isEqualTo(json);
    }

    /// By a new model of Llama's kind, which has learned nothing yet.
    @Test
    void textsAreGeneratedAndScored() throws IOException {
        StringBuilder lines = new StringBuilder();
        ShippedData.load()
                .train()
                .subList(0, 60)
                .forEach(noun -> lines.append(JSON.createObjectNode().put("text", noun.text()))
                        .append('\n'));
        Path texts = Files.writeString(folder.resolve("texts.jsonl"), lines);
        Path model = folder.resolve("llama");
        Result made = loran(
                "pretrain",
                "--train",
                texts,
                "--eval",
                texts,
                "--out",
                model,
                "--hidden",
                16,
                "--heads",
                2,
                "--layers",
                1,
                "--max-length",
                64,
                "--vocab-size",
                320,
                "--steps",
                1,
                "--threads",
                1);
        assertThat(made.code()).as(made.err()).isZero();
        // A model that says what it was trained for does nothing else; that of the catalogue does not say it.
        Files.delete(model.resolve("best/loran.json"));
        Path out = folder.resolve("example");
        Result result = loran(
                "example",
                "title",
                "--model",
                model.resolve("best"),
                "--methods",
                "lora,prefix",
                "--steps",
                2,
                "--max-length",
                48,
                "--virtual-tokens",
                2,
                "--threads",
                1,
                "--out",
                out,
                "--json");
        assertThat(result.code()).as(result.err()).isZero();
        JsonNode methods = result.json().get("methods");
        assertThat(methods.findValuesAsText("method"))
                .containsExactly("first sentence", "nearest neighbor", "frozen model", "lora", "prefix");
        for (JsonNode method : methods) {
            assertThat(method.get("rouge_l").doubleValue()).isBetween(0.0, 0.5);
            assertThat(method.get("mean_chars").doubleValue()).isBetween(0.0, 60.0);
        }
        for (int i = 2; i < methods.size(); i++) {
            assertThat(methods.get(i).get("ended").doubleValue()).isBetween(0.0, 1.0);
            assertThat(methods.get(i).get("within_limit").doubleValue()).isBetween(0.0, 1.0);
            assertThat(methods.get(i).get("perplexity").doubleValue()).isGreaterThan(1);
        }
        // What the score is of.
        List<String> answers = Files.readAllLines(out.resolve("compare/lora/answers.jsonl"));
        assertThat(answers).hasSize(SeoTask.TITLE.heldOut().size());
        double score = 0;
        for (String line : answers) {
            JsonNode answer = JSON.readTree(line);
            assertThat(answer.get("source").textValue()).isNotBlank();
            score += RougeL.score(
                    answer.get("answer").textValue(), answer.get("target").textValue());
        }
        assertThat(score / answers.size())
                .isCloseTo(methods.get(3).get("rouge_l").doubleValue(), within(1e-9));
    }

    @Test
    void whatCannotBeIsRefused() {
        assertThat(List.of(loran("example", "page-type", "--epoch", 3).code())).containsExactly(2);
        assertRefused(
                loran("example", "headline"),
                "loran: example \"headline\" is not known; choose one of page-type, search-intent, title, description, "
                        + "instructions");
        assertThat(folder.resolve("loran-example-page-type")).doesNotExist();
    }
}
