package dev.loran.peft.cli;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;

/// What all commands have in common: versions, files of options, fields of the method, more words or fewer.
class HabitsTest extends CommandLineTest {
    private JsonNode options() throws IOException {
        return JSON.readTree(Files.readString(folder.resolve("run/run.json")));
    }

    private JsonNode adapter() throws IOException {
        return JSON.readTree(Files.readString(folder.resolve("run/last/adapter_config.json")));
    }

    @Test
    void theVersionNamesLoranTheJdkAndTheBackend() {
        Result result = loran("--version");
        assertThat(result.code()).isZero();
        assertThat(result.out()).startsWith("loran ").contains(", JDK " + Runtime.version() + ", ", "backend: ");
        assertThat(result.out().lines()).hasSize(2);
    }

    // ---- files of options

    @Test
    void optionsMayBeYaml() throws IOException {
        Path file = Files.writeString(folder.resolve("options.yaml"), """
                # a comment
                steps: 2
                rank: 4
                lr: 1e-3
                targets: [query, key]
                set:
                  use_rslora: true
                """);
        Result result = train("--config", file, "--rank", 2);
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(options().get("steps").intValue()).isEqualTo(2);
        assertThat(options().get("rank").intValue()).isEqualTo(2);
        assertThat(options().get("targets").asText()).isEqualTo("query,key");
        assertThat(adapter().get("use_rslora").booleanValue()).isTrue();
    }

    @Test
    void damagedYamlIsRefusedWithItsLine() throws IOException {
        Path file = folder.resolve("options.yml");
        refused(file, "steps: 2\nranks: 4\n", ": [ranks] are no options of loran train; did you mean rank?");
        refused(file, "- 1\n", ": is no YAML object; write one \"name: value\" per line");
        refused(file, "", ": is no YAML object; write one \"name: value\" per line");
        refused(file, "steps: {a: 1}\n", ": steps is {\"a\":1}, needs one value");
        refused(file, "set: 1\n", ": set is 1, needs an object of fields and their values");
        String alias = "anchors and aliases (& and *) are not supported; write the value itself";
        refused(file, "steps: 1\na: &x [1, 2]\nb: [*x, *x]\n", ":2: " + alias);
        refused(file, "steps: *x\n", ":1: " + alias);
        assertThat(refusal(file, "steps: 1\nrank: [1,\n")).startsWith("loran: " + file + ": is no YAML (line 2: ");
        assertThat(refusal(file, "steps: 1\nsteps: 2\n")).startsWith("loran: " + file + ": is no YAML (line 2: Dupl");
        assertThat(refusal(file, "steps: 1\n---\nrank: 2\n")).startsWith("loran: " + file + ": is no YAML (");
        assertThat(refusal(file, "a: " + "[".repeat(5000))).startsWith("loran: " + file + ": is no YAML (");
    }

    private String refusal(Path file, String text) throws IOException {
        Files.writeString(file, text);
        Result result = train("--config", file);
        assertThat(result.code()).as(result.err()).isEqualTo(2);
        return result.err().strip();
    }

    private void refused(Path file, String text, String problem) throws IOException {
        assertThat(refusal(file, text)).isEqualTo("loran: " + file + problem);
    }

    // ---- fields of the method

    @Test
    void everyFieldOfTheMethodCanBeSet() throws IOException {
        Result result = train(
                "--method", "adalora", "--steps", 10, "--set", "beta1=0.9", "--set", "lora_alpha=32", "--set=bias=all");
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(adapter().get("beta1").doubleValue()).isEqualTo(0.9);
        assertThat(adapter().get("lora_alpha").doubleValue()).isEqualTo(32);
        assertThat(adapter().get("bias").asText()).isEqualTo("all");
        assertThat(options().get("set").get("beta1").asText()).isEqualTo("0.9");

        // The run goes on, and is repeated, with what was set; more can be set beside it.
        Path kept = Files.copy(folder.resolve("run/run.json"), folder.resolve("kept.json"));
        assertThat(loran("train", "--resume", folder.resolve("run")).code()).isZero();
        assertRefused(
                loran("train", "--resume", folder.resolve("run"), "--set", "beta2=0.5"),
                "loran: " + folder.resolve("run/checkpoints/step-10")
                        + ": is of a run with learner.method.beta2 0.85, not 0.5;"
                        + " resume with what the run was begun with, or begin another one");
        Result again =
                loran("train", "--config", kept, "--set", "beta2=0.5", "--out", folder.resolve("run"), "--overwrite");
        assertThat(again.code()).as(again.err()).isZero();
        assertThat(adapter().get("beta1").doubleValue()).isEqualTo(0.9);
        assertThat(adapter().get("beta2").doubleValue()).isEqualTo(0.5);
    }

    @Test
    void whatCannotBeSetIsRefused() {
        assertThat(train("--set", "lora_alfa=3").err())
                .startsWith("loran: --set lora_alfa=3: lora has no such field; did you mean lora_alpha?; choose one of"
                        + " alpha_pattern, bias, ");
        assertRefused(train("--set", "lora_alpha=x"), "loran: --set: lora_alpha is \"x\", needs a number");
        assertRefused(train("--set", "use_rslora=1"), "loran: --set: use_rslora is 1, needs true or false");
        assertRefused(
                train("--method", "prompt", "--set", "num_virtual_tokens=4"),
                "loran: --set num_virtual_tokens=4: cannot be set; say --virtual-tokens");
        assertRefused(
                train("--method", "full", "--set", "r=4"), "loran: --set r=4: full has no such field; leave it out");
    }

    @Test
    void aSweepVariesFields() throws IOException {
        Result result = loran(
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
                2,
                "--threads",
                1,
                "--grid",
                "set.use_rslora=true,false",
                "--out",
                folder.resolve("sweep"),
                "--json");
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(JSON.readTree(folder.resolve("sweep/set.use_rslora=true/last/adapter_config.json")
                                .toFile())
                        .get("use_rslora")
                        .booleanValue())
                .isTrue();
        assertThat(loran("sweep", "--task", "classify", "--train", train, "--grid", "set.alfa=1", "--eval", held)
                        .err())
                .startsWith("loran: --set alfa=1: lora has no such field");
    }

    // ---- more words or fewer

    @Test
    void quietPrintsTheResultAlone() {
        Result result = train("--steps", 2, "--quiet", "--eval", held);
        assertThat(result.code()).isZero();
        assertThat(result.err()).isEmpty();
        assertThat(result.out()).contains("train loss");
        assertRefused(train("--quiet", "--rank", 0), train("--rank", 0).err().strip());
        assertThat(loran("--quiet", "train", "--help").code()).isZero();
    }

    @Test
    void verbosePrintsTimesAndDetails() {
        Result result = train("--steps", 2, "--verbose");
        assertThat(result.code()).isZero();
        assertThat(result.err().lines()).allMatch(line -> line.matches("\\[ *\\d+\\.\\d\\d s\\] .*"));
        assertThat(result.err()).contains("options: {", "rank=8", "model: ", "rows: read");
    }
}
