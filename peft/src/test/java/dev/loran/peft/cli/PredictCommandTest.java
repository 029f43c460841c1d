package dev.loran.peft.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import com.fasterxml.jackson.databind.JsonNode;
import dev.loran.peft.data.Row;
import dev.loran.peft.train.Tiny;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;

class PredictCommandTest extends CommandLineTest {
    private Result predict(Object... more) {
        List<Object> args = new ArrayList<>(List.of("predict", "--threads", 1, "--json", "--batch-size", 3));
        args.addAll(List.of("--out", folder.resolve("answers.jsonl")));
        args.addAll(List.of(more));
        return loran(args.toArray());
    }

    private List<JsonNode> answers() throws IOException {
        List<JsonNode> answers = new ArrayList<>();
        for (String line : Files.readAllLines(folder.resolve("answers.jsonl"))) {
            answers.add(JSON.readTree(line));
        }
        return answers;
    }

    @Test
    void aTrainedClassifierAnswersTextsWithoutLabels() throws IOException {
        JsonNode trained = train("--eval", held, "--epochs", 8, "--lr", 1e-2).json();
        List<Row.Classify> rows = Tiny.rows(20, 2);
        // Only the texts of labeled rows are read.
        Result fromRows = predict("--model", encoder, "--adapter", folder.resolve("run"), "--data", held);
        assertThat(fromRows.code()).as(fromRows.err()).isZero();
        assertThat(fromRows.json().get("texts").intValue()).isEqualTo(20);
        List<JsonNode> answers = answers();
        int right = 0;
        for (int i = 0; i < rows.size(); i++) {
            JsonNode a = answers.get(i);
            assertThat(a.get("text").asText()).isEqualTo(rows.get(i).text());
            double sport = a.at("/probabilities/sport").doubleValue();
            assertThat(sport + a.at("/probabilities/purchase").doubleValue()).isCloseTo(1, within(1e-9));
            assertThat(a.get("label").asText()).isEqualTo(sport > 0.5 ? "sport" : "purchase");
            assertThat(a.has("embedding")).isFalse();
            right += a.get("label").asText().equals(rows.get(i).label()) ? 1 : 0;
        }
        assertThat(right / 20.0).isEqualTo(trained.get("eval_accuracy").doubleValue());

        Path lines = Files.writeString(
                folder.resolve("texts.txt"),
                "\ufeff" + rows.get(0).text() + "\r\n\n  " + rows.get(1).text() + "\n"
                        + rows.get(2).text());
        Result fromLines =
                predict("--model", encoder, "--adapter", folder.resolve("run/best"), "--data", lines, "--embeddings");
        assertThat(fromLines.code()).as(fromLines.err()).isZero();
        assertThat(answers()).hasSize(3);
        for (int i = 0; i < 3; i++) {
            JsonNode a = answers().get(i);
            assertThat(a.get("text")).isEqualTo(answers.get(i).get("text"));
            assertThat(a.get("probability").doubleValue())
                    .isCloseTo(answers.get(i).get("probability").doubleValue(), within(1e-5));
            assertThat(a.get("embedding")).hasSize(16);
        }
    }

    /// The classes differ only in which of the two texts contains the word.
    @Test
    void pairsOfTextsAreTrainedEvaluatedAndPredicted() throws IOException {
        Path pairs = Tiny.write(folder.resolve("pairs.jsonl"), Tiny.pairs(64, 1));
        Path heldPairs = Tiny.write(folder.resolve("held-pairs.jsonl"), Tiny.pairs(20, 2));
        JsonNode trained = train("--train", pairs, "--eval", heldPairs, "--epochs", 16, "--lr", 1e-2)
                .json();
        double accuracy = trained.get("eval_accuracy").doubleValue();
        assertThat(accuracy).isGreaterThan(0.9);
        Result evaluated =
                eval("--model", encoder, "--adapter", folder.resolve("run"), "--task", "classify", "--data", heldPairs);
        assertThat(evaluated.json().get("accuracy").doubleValue()).isEqualTo(accuracy);
        Result result = predict("--model", encoder, "--adapter", folder.resolve("run"), "--data", heldPairs);
        assertThat(result.code()).as(result.err()).isZero();
        int right = 0;
        List<Row.Classify> rows = Tiny.pairs(20, 2);
        for (int i = 0; i < 20; i++) {
            JsonNode a = answers().get(i);
            assertThat(a.get("text_pair").asText()).isEqualTo(rows.get(i).textPair());
            right += a.get("label").asText().equals(rows.get(i).label()) ? 1 : 0;
        }
        assertThat(right / 20.0).isEqualTo(accuracy);
    }

    /// Over more rows than are in memory at once, from a table and from JSON.
    @Test
    void rowsKeepWhateverElseTheyHave() throws IOException {
        train("--steps", 1);
        StringBuilder table = new StringBuilder("id;body;label\n");
        StringBuilder lines = new StringBuilder();
        for (int i = 0; i < 200; i++) {
            table.append("%d;red shoes %d;sport\n".formatted(i, i % 7));
            lines.append("{\"id\":{\"n\":%d},\"text\":\"red shoes %d\",\"seen\":null}\n".formatted(i, i % 7));
        }
        Path csv = Files.writeString(folder.resolve("rows.csv"), table);
        Path run = folder.resolve("run");
        Result typed = predict("--model", encoder, "--adapter", run, "--data", csv, "--columns", "text=body");
        assertThat(typed.code()).as(typed.err()).isZero();
        List<JsonNode> fromTable = answers();
        Path jsonl = Files.writeString(folder.resolve("rows.jsonl"), lines);
        assertThat(predict("--model", encoder, "--adapter", run, "--data", jsonl)
                        .code())
                .isZero();
        List<JsonNode> fromLines = answers();
        assertThat(fromTable).hasSize(200);
        assertThat(fromLines).hasSize(200);
        for (int i = 0; i < 200; i++) {
            JsonNode row = fromTable.get(i);
            assertThat(row.get("id").textValue()).isEqualTo(String.valueOf(i));
            assertThat(row.get("text").textValue()).isEqualTo("red shoes " + i % 7);
            // The answer, not what the row says.
            assertThat(row.get("label").textValue())
                    .isEqualTo(row.at("/probabilities/sport").doubleValue() > 0.5 ? "sport" : "purchase");
            JsonNode line = fromLines.get(i);
            assertThat(line.at("/id/n").intValue()).isEqualTo(i);
            assertThat(line.get("text").textValue()).isEqualTo("red shoes " + i % 7);
            assertThat(line.get("seen").isNull()).isTrue();
            assertThat(line.get("probability").doubleValue())
                    .isCloseTo(row.get("probability").doubleValue(), within(1e-5));
        }
    }

    @Test
    void aModelThatWasTrainedWholeNeedsNoOther() throws IOException {
        train("--method", "full", "--steps", 1);
        Result result = predict("--adapter", folder.resolve("run"), "--data", held);
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(answers()).hasSize(20);
    }

    @Test
    void whatCannotBeAnsweredLeavesNoFile() throws IOException {
        train("--steps", 1);
        Path bad = Files.writeString(folder.resolve("bad.jsonl"), "{\"text\": \"red\"}\n{\"txt\": \"red\"}\n");
        String form = "a row of task classify is {\"text\"} or {\"text\",\"text_pair\"}";
        assertRefused(
                predict("--model", encoder, "--adapter", folder.resolve("run"), "--data", bad),
                "loran: " + bad + ":2: field \"text\" is missing, found \"txt\"; " + form);
        Path empty = Files.writeString(folder.resolve("empty.txt"), "\n \n");
        assertRefused(
                predict("--model", encoder, "--adapter", folder.resolve("run"), "--data", empty),
                "loran: " + empty + ": no rows; " + form);
        assertThat(folder).isDirectoryNotContaining("glob:**answers*");
        Path nowhere = folder.resolve("nowhere/answers.jsonl");
        assertThat(predict("--model", encoder, "--adapter", folder.resolve("run"), "--data", held, "--out", nowhere)
                        .err())
                .startsWith("loran: " + nowhere + ": cannot be written (")
                .endsWith(" does not exist)\n");
        assertRefused(
                eval("--model", encoder, "--adapter", folder.resolve("run"), "--data", held, "--answers", nowhere),
                "loran: --answers is for tasks generate and chat; leave it out for task classify");
        Result noClasses = predict("--model", encoder, "--data", held);
        assertThat(noClasses.err()).startsWith("loran: --task classify: nothing says which classes " + encoder);
    }
}
