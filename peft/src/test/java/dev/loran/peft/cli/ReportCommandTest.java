package dev.loran.peft.cli;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;

class ReportCommandTest extends CommandLineTest {
    private Path run(String method) throws IOException {
        Path run = folder.resolve(method);
        Result trained = train("--method", method, "--steps", 20, "--eval", held, "--eval-every", 5, "--out", run);
        assertThat(trained.code()).as(trained.err()).isZero();
        return run;
    }

    private Result report(Object... arguments) {
        List<Object> all = new ArrayList<>(List.of("report", "--out", folder.resolve("report"), "--json"));
        all.addAll(List.of(arguments));
        return loran(all.toArray());
    }

    @Test
    void aReportOfARunShowsItsCourse() throws IOException {
        Path run = run("adalora");
        Result result = report(run);
        assertThat(result.code()).as(result.err()).isZero();
        JsonNode method = result.json().at("/methods/0");
        JsonNode trained = JSON.readTree(run.resolve("result.json").toFile());
        assertThat(method.get("name").asText()).isEqualTo("adalora");
        assertThat(method.get("accuracy")).isEqualTo(trained.get("eval_accuracy"));
        assertThat(method.get("peak_tensor_mib")).isEqualTo(trained.get("peak_tensor_mib"));
        assertThat(method.at("/curve/loss")).hasSize(20);
        assertThat(method.get("evaluations").findValuesAsText("step")).containsExactly("5", "10", "15", "20");
        assertThat(result.json().get("held_out").intValue()).isEqualTo(20);
        // 12 triplets in each of 4 layers at first; on average 8 from step 16 on.
        JsonNode ranks = method.get("ranks");
        assertThat(ranks.findValuesAsText("step")).startsWith("5").endsWith("16");
        List<Integer> totals = new ArrayList<>();
        ranks.forEach(r -> totals.add(
                r.get("ranks").valueStream().mapToInt(JsonNode::intValue).sum()));
        assertThat(totals).isSortedAccordingTo((a, b) -> b - a).last().isEqualTo(4 * 8);
        assertThat(ranks.at("/0/ranks").fieldNames())
                .toIterable()
                .hasSize(4)
                .contains("encoder.layer.0.attention.self.query");
        assertThat(folder.resolve("report/plots/ranks.svg")).exists();
        assertThat(folder.resolve("report/report.html")).content().contains("after each allocation");
    }

    @Test
    void runsSweepsAndComparisonsStandInOneReport() throws IOException {
        Path run = run("lora");
        Result swept = loran(
                "sweep",
                "--model",
                encoder,
                "--task",
                "classify",
                "--train",
                train,
                "--eval",
                held,
                "--steps",
                4,
                "--threads",
                1,
                "--grid",
                "rank=2,4",
                "--out",
                folder.resolve("sweep"));
        assertThat(swept.code()).as(swept.err()).isZero();
        Result compared = loran(
                "compare",
                "--model",
                encoder,
                "--methods",
                "lora,ia3",
                "--train",
                train,
                "--eval",
                held,
                "--steps",
                4,
                "--threads",
                1,
                "--out",
                folder.resolve("comparison"));
        assertThat(compared.code()).as(compared.err()).isZero();
        Result result = report(run, folder.resolve("sweep"), folder.resolve("comparison"));
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(result.json().get("methods").findValuesAsText("name"))
                .containsExactlyInAnyOrder("lora", "rank=2", "rank=4", "lora (2)", "ia3");
        assertThat(result.json().get("headline").asText()).isEqualTo("accuracy");
        // A report is a comparison too; what is there is replaced only if that is asked for.
        Result again = report(folder.resolve("report"));
        assertThat(again.err().strip())
                .isEqualTo("loran: " + folder.resolve("report")
                        + ": holds a comparison or a report already; replace it (--overwrite), or choose another folder"
                        + " (--out)");
        again = report(folder.resolve("report"), "--overwrite");
        assertThat(again.json()).isEqualTo(result.json());
    }

    @Test
    void aKilledRunIsReportedAsFarAsItCame() throws IOException {
        Path run = run("lora");
        Files.delete(run.resolve("result.json"));
        Path metrics = run.resolve("metrics.jsonl");
        String text = Files.readString(metrics);
        Files.writeString(metrics, text.substring(0, text.length() - 10));
        Result result = report(run);
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(result.json().at("/methods/0/finished").asBoolean()).isFalse();
        assertThat(result.json().at("/methods/0/evaluations")).hasSize(3);
        assertThat(folder.resolve("report/report.html")).content().contains("lora is not finished");
    }

    private void assertRefused(String message, Object... arguments) {
        Result result = report(arguments);
        CommandLineTest.assertRefused(result, "loran: " + message);
        assertThat(folder.resolve("report")).doesNotExist();
    }

    @Test
    void whatHoldsNoRunIsRefused() throws IOException {
        Path missing = folder.resolve("missing");
        assertRefused(missing + ": no such folder", missing);
        assertRefused(
                encoder + ": holds neither a run (run.json), nor a sweep with runs (sweep.json), nor a comparison"
                        + " (results.json); name one of these",
                encoder);
        Path damaged = Files.createDirectories(folder.resolve("damaged"));
        Files.writeString(damaged.resolve("results.json"), "{\"methods\": [");
        assertThat(report(damaged).err()).startsWith("loran: " + damaged.resolve("results.json") + ": is no JSON (");
        Files.writeString(damaged.resolve("results.json"), "{\"methods\": []}");
        assertRefused(
                damaged.resolve("results.json") + ": holds no results: a list \"methods\" is missing or empty",
                damaged);
        Files.writeString(damaged.resolve("results.json"), "{\"methods\": [7]}");
        assertRefused(damaged.resolve("results.json") + ": an entry of \"methods\" names no method", damaged);
    }

    @Test
    void aDamagedRunIsRefused() throws IOException {
        Path run = run("ia3");
        Path metrics = run.resolve("metrics.jsonl");
        List<String> lines = new ArrayList<>(Files.readAllLines(metrics));
        lines.set(3, lines.get(3).substring(5));
        Files.write(metrics, lines);
        assertRefused(metrics + ":4: is no line of a run's metrics; the file is damaged", run);
        Files.delete(metrics);
        assertRefused(metrics + ": no such file", run);
    }

    @Test
    void otherFilesAreNotReplaced() throws IOException {
        Path run = run("ia3");
        Path mine = Files.createDirectories(folder.resolve("report/plots")).resolve("mine.png");
        Files.writeString(mine, "mine");
        Result result = report(run, "--overwrite");
        CommandLineTest.assertRefused(
                result,
                "loran: " + folder.resolve("report") + ": holds other files; choose a new or empty folder (--out)");
        assertThat(mine).hasContent("mine");
    }

    /// A run of a task that is not on the class path is told by its loss.
    @Test
    void aRunOfAnUnknownTaskIsToldByItsLoss() throws IOException {
        Path run = run("ia3");
        ObjectNode options = (ObjectNode) JSON.readTree(run.resolve("run.json").toFile());
        Files.writeString(
                run.resolve("run.json"), options.put("task", "com.acme.Tagging").toString());
        Result result = report(run);
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(result.json().get("headline").asText()).isEqualTo("loss");
        result = report(run, run("lora"), "--overwrite");
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(result.json().at("/notices/0").asText())
                .isEqualTo("the runs differ in task: not all of their numbers compare");
    }
}
