package dev.loran.peft.cli;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;

/// Real runs with a fault, and what `loran doctor` finds in them.
class DoctorCommandTest extends CommandLineTest {
    private JsonNode doctor() throws IOException {
        Result result = loran("doctor", folder.resolve("run"), "--json");
        assertThat(result.code()).as(result.err()).isZero();
        return result.json();
    }

    private static List<String> names(JsonNode doctor) {
        return doctor.get("findings")
                .valueStream()
                .map(f -> f.get("name").asText())
                .toList();
    }

    @Test
    void aGoodRun() throws IOException {
        assertThat(train("--eval", held, "--epochs", 12, "--lr", 1e-2, "--rank", 4, "--seed", 1)
                        .code())
                .isZero();
        JsonNode json = doctor();
        assertThat(json.get("method").asText()).isEqualTo("lora");
        assertThat(json.get("steps").intValue()).isEqualTo(72);
        assertThat(json.get("finished").booleanValue()).isTrue();
        assertThat(names(json)).doesNotContain("rate_too_high", "majority_class", "without_gradient", "truncated");
    }

    @Test
    void aRateThatIsTooHigh() throws IOException {
        Result trained = train("--eval", held, "--epochs", 12, "--lr", 10, "--head-lr", 10);
        assertThat(trained.code()).as(trained.err()).isZero();
        JsonNode json = doctor();
        assertThat(names(json)).contains("rate_too_high");
        JsonNode first = json.get("findings").get(0);
        assertThat(first.get("area").asText()).isEqualTo("stability");
        assertThat(first.get("serious").booleanValue()).isTrue();
        assertThat(first.get("advice").asText()).startsWith("--lr 5e-4 (it was 10; ");
        String text = loran("doctor", folder.resolve("run")).out();
        assertThat(text).contains("PROBLEM rate too high (stability)", "  seen: ", "  try:  --lr 5e-4");
    }

    @Test
    void aRunThatDiverged() throws IOException {
        Result trained = train("--optimizer", "sgd", "--steps", 60, "--lr", 9e5, "--max-grad-norm", 1e9);
        assertThat(trained.code()).as(trained.err()).isEqualTo(1);
        JsonNode json = doctor();
        assertThat(names(json)).startsWith("diverged");
        assertThat(json.get("diverged").asText()).contains(" step ", ", in row").doesNotContain("\n");
        assertThat(trained.err()).contains(json.get("diverged").asText());
        assertThat(json.get("finished").booleanValue()).isFalse();
    }

    @Test
    void aRunOfQuickstart() throws IOException {
        Result trained =
                loran("quickstart", "--model", encoder, "--rows", 40, "--epochs", 1, "--out", folder.resolve("run"));
        assertThat(trained.code()).as(trained.err()).isIn(0, 1);
        JsonNode json = doctor();
        assertThat(json.get("finished").booleanValue()).isTrue();
        assertThat(json.get("not_checked").toString()).doesNotContain("facts.json", "memory");
        assertThat(names(json)).contains("unknown_tokens");
    }

    @Test
    void textsThatDoNotSayWhatTheLabelsMean() throws IOException {
        Path rows = folder.resolve("same.jsonl");
        Files.write(
                rows,
                IntStream.range(0, 48)
                        .mapToObj(
                                i -> "{\"text\":\"the same text\",\"label\":\"%s\"}".formatted(i % 12 == 0 ? "b" : "a"))
                        .toList());
        train = rows;
        held = rows;
        assertThat(train("--eval", rows, "--epochs", 8, "--max-length", 4).code())
                .isZero();
        JsonNode json = doctor();
        assertThat(names(json)).contains("majority_class", "unbalanced", "truncated");
        assertThat(json.get("findings").get(0).get("evidence").asText())
                .contains("0.917 ± 0.080 of the 48 held-out rows");
    }

    @Test
    void aTargetThatNoGradientReaches() throws IOException {
        Result trained = train("--model", causal, "--steps", 4, "--targets", "w_q,lm_head");
        assertThat(trained.code()).as(trained.err()).isZero();
        JsonNode json = doctor();
        assertThat(names(json)).contains("without_gradient");
    }

    @Test
    void whatIsNoRunIsRefused() throws IOException {
        assertRefused(loran("doctor", folder.resolve("none")), "loran: " + folder.resolve("none") + ": no such folder");
        assertRefused(loran("doctor", folder), "loran: " + folder + ": holds no run (run.json); name the --out of one");
    }

    @Test
    void withoutARunItDescribesTheMachine() throws IOException {
        assertThat(loran("doctor", "--json").json().has("vector_api")).isTrue();
    }
}
