package dev.loran.peft.cli;

import static dev.loran.peft.cli.CommandLineTest.assertRefused;
import static dev.loran.peft.cli.CommandLineTest.loran;
import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.peft.cli.CommandLineTest.Result;
import dev.loran.peft.model.Model;
import dev.loran.peft.train.Tiny;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class CompareCommandTest {
    @TempDir
    Path folder;

    private Path encoder = Path.of("");
    private Path train = Path.of("");
    private Path held = Path.of("");
    private Path out = Path.of("");

    @BeforeEach
    void model() {
        try (ReferenceBackend backend = new ReferenceBackend();
                Model bert = Tiny.encoder(backend, DType.F32)) {
            encoder = Tiny.save(bert, folder.resolve("encoder"));
        }
        train = Tiny.write(folder.resolve("train.jsonl"), Tiny.rows(32, 1));
        held = Tiny.write(folder.resolve("held.jsonl"), Tiny.rows(20, 2));
        out = folder.resolve("out");
    }

    private Result compare(Object... more) {
        List<Object> args = new ArrayList<>(List.of("compare", "--model", encoder, "--out", out, "--threads", 1));
        args.addAll(List.of("--json", "--max-length", 20, "--virtual-tokens", 3));
        args.addAll(List.of(more));
        return loran(args.toArray());
    }

    @Test
    void everyMethodStandsInOneTable() throws IOException {
        String all = Arrays.stream(Method.values()).map(Method::toString).collect(Collectors.joining(","));
        Result result = compare("--methods", all, "--train", train, "--eval", held, "--batch-size", 8, "--epochs", 2);
        assertThat(result.code()).as(result.err()).isZero();
        Result doctor = loran("doctor", out.resolve("lora"), "--json");
        assertThat(doctor.code()).as(doctor.err()).isZero();
        assertThat(doctor.json().get("not_checked").toString()).doesNotContain("facts.json", "memory");
        JsonNode report = result.json();
        assertThat(report.get("rows").intValue()).isEqualTo(32);
        assertThat(report.get("held_out").intValue()).isEqualTo(20);
        assertThat(new ObjectMapper().readTree(Files.readString(out.resolve("results.json"))))
                .isEqualTo(report);
        assertThat(out.resolve("report.html")).exists();
        assertThat(out.resolve("plots/tradeoff.svg")).exists();
        // Each rank adds two rows of 16 to query and value of two layers.
        JsonNode byRank = report.get("parameters_by_rank");
        assertThat(byRank.findValuesAsText("rank")).containsExactly("4", "8", "16", "32", "64");
        assertThat(byRank.findValuesAsText("trainable_parameters"))
                .containsExactly("546", "1058", "2082", "4130", "8226");
        assertThat(report.get("parameters_by_bottleneck").findValuesAsText("bottleneck"))
                .containsExactly("32", "64", "128", "256", "512");
        // The runs of the methods are never resumed.
        assertThat(out.resolve("lora").resolve("checkpoints")).doesNotExist();
        List<String> lines = result.out().lines().toList();
        assertThat(lines).hasSize(1 + Method.values().length + 1);
        assertThat(lines.getFirst()).startsWith("method").endsWith("best for");
        Map<String, JsonNode> byName = new LinkedHashMap<>();
        report.get("methods").forEach(m -> byName.put(m.get("method").asText(), m));
        int line = 1;
        for (Method method : Method.values()) {
            JsonNode m = Objects.requireNonNull(byName.get(method.toString()));
            assertThat(lines.get(line++)).startsWith(method + " ").endsWith(method.bestFor);
            assertThat(m.get("learning_rate").doubleValue()).isEqualTo(method.learningRate);
            assertThat(m.get("steps").intValue()).isEqualTo(8);
            assertThat(m.at("/curve/loss")).hasSize(8);
            assertThat(m.get("evaluations").findValuesAsText("step")).containsExactly("4", "8");
            assertThat(m.get("ranks").isEmpty()).isEqualTo(method != Method.ADALORA);
            assertThat(m.get("loss").doubleValue()).isBetween(0.0, 3.0);
            assertThat(m.get("accuracy").doubleValue()).isBetween(0.2, 1.0);
            assertThat(m.get("latency_ms").doubleValue()).isPositive();
            assertThat(m.get("latency_merged_ms").isNumber())
                    .as(method.toString())
                    .isEqualTo(method.merges());
            assertThat(m.get("peak_tensor_mib").doubleValue()).isBetween(0.01, 100.0);
            double planned = m.get("planned_tensor_mib").doubleValue();
            assertThat(m.get("peak_tensor_mib").doubleValue()).isBetween(0.8 * planned, planned);
            assertThat(m.get("peak_memory_mib").doubleValue())
                    .isGreaterThan(m.get("peak_tensor_mib").doubleValue());
        }
        // Query and value of two layers with rank 8, and the head; F32 on disk, preceded by the names.
        JsonNode lora = Objects.requireNonNull(byName.get("lora"));
        assertThat(lora.get("trainable_parameters").intValue()).isEqualTo(4 * 2 * 8 * 16 + 2 * 16 + 2);
        assertThat(lora.get("adapter_bytes").intValue()).isBetween(4 * 4 * 2 * 8 * 16, 4 * 4 * 2 * 8 * 16 + 2000);
        assertThat(Objects.requireNonNull(byName.get("full"))
                        .get("trainable_percentage")
                        .doubleValue())
                .isEqualTo(100);
        // The adapter that was measured is the one that was saved.
        Result evaluated = loran(
                "eval", "--model", encoder, "--adapter", out.resolve("lora"), "--data", held, "--threads", 1, "--json");
        assertThat(evaluated.json().get("loss")).isEqualTo(lora.get("loss"));
        assertThat(evaluated.json().get("accuracy")).isEqualTo(lora.get("accuracy"));
    }

    @Test
    void theShippedTaskStandsInWhereNoRowsAreGiven() throws IOException {
        Result result = compare("--methods", "lora, ia3", "--rows", 20, "--steps", 2);
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(result.json().get("rows").intValue()).isEqualTo(20);
        assertThat(result.json().get("held_out").intValue()).isEqualTo(1000);
        assertThat(result.json().get("methods")).hasSize(2);
    }

    @Test
    void aComparisonGoesOnByTheSameCommand() throws IOException {
        Object[] rows = {"--train", train, "--eval", held, "--steps", 2};
        Result first = compare(with(rows, "--methods", "lora"));
        assertThat(first.code()).as(first.err()).isZero();
        JsonNode lora = first.json().at("/methods/0");
        Result more = compare(with(rows, "--methods", "lora,ia3"));
        assertThat(more.code()).as(more.err()).isZero();
        assertThat(more.err()).contains("lora: done already");
        assertThat(more.json().at("/methods/0")).isEqualTo(lora);
        assertThat(more.json().get("methods")).hasSize(2);
        assertRefused(
                compare(with(rows, "--methods", "lora", "--rank", 2)),
                "loran: " + out + ": holds a comparison with rank 8, not 2; choose another --out, or the same options");
        Result anew = compare(with(rows, "--methods", "lora", "--rank", 2, "--overwrite"));
        assertThat(anew.code()).as(anew.err()).isZero();
        assertThat(anew.json().at("/methods/0/trainable_parameters").intValue())
                .isLessThan(lora.get("trainable_parameters").intValue());
    }

    private static Object[] with(Object[] some, Object... more) {
        return Stream.concat(Arrays.stream(some), Arrays.stream(more)).toArray();
    }

    /// All methods get the same number of steps: those of the one that usually trains longest.
    @Test
    void theBudgetIsTheSameForAll() throws IOException {
        Result result = compare("--methods", "lora,prefix", "--train", train, "--eval", held, "--batch-size", 16);
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(result.json().get("methods").findValuesAsText("steps")).containsExactly("12", "12");
        Result quick = compare("--quick", "--methods", "ia3", "--train", train, "--eval", held, "--overwrite");
        assertThat(quick.code()).as(quick.err()).isZero();
        assertThat(quick.json().at("/methods/0/steps").intValue()).isEqualTo(120);
    }

    @Test
    void whatCannotBeComparedIsRefused() {
        assertRefused(
                compare("--methods", "lora,magic"),
                "loran: method \"magic\" is not known; choose one of full, lora, dora, adalora, "
                        + "p-tuning, prompt, prefix, adapter, ia3, ln-tuning, bitfit");
        assertRefused(
                compare("--train", train),
                "loran: --train needs --eval, or --split 0.1: what is compared is the held-out rows");
    }

    @Test
    void ratesAndDurationsAreInTheHelp() {
        for (String command : List.of("train", "compare")) {
            assertThat(loran(command, "--help").out())
                    .contains("lora       --lr 5e-04 (1e-4 to 5e-4)  --epochs 3")
                    .contains("prefix     --lr 3e-03 (1e-3 to 5e-3)  --epochs 6");
        }
    }
}
