package dev.loran.peft.cli;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.io.SafeTensors;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.TinyTokenizers;
import dev.loran.peft.io.Drafts;
import dev.loran.peft.train.Tiny;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/// `loran train --init-adapter`: runs that start from another adapter's weights.
class InitAdapterTest extends CommandLineTest {
    private static final Path FIXTURES = Path.of("src/test/resources/fixtures/seqcls");

    /// A rate so small that it changes no bit: a run ends with the weights that it begins with.
    private static final List<Object> STANDING_STILL = List.of("--steps", 1, "--lr", 1e-30, "--max-length", 20);

    private Path first(String method) {
        assertThat(train(
                                "--steps",
                                6,
                                "--lr",
                                1e-2,
                                "--method",
                                method,
                                "--rank",
                                4,
                                "--virtual-tokens",
                                3,
                                "--max-length",
                                20)
                        .code())
                .isZero();
        return folder.resolve("run");
    }

    private Result next(List<Object> more, Object... last) {
        List<Object> args = new ArrayList<>(List.of("--out", folder.resolve("next")));
        args.addAll(more);
        args.addAll(List.of(last));
        return train(args.toArray());
    }

    private static void assertSame(Path actual, Path expected, String... files) {
        for (String file : files) {
            assertThat(actual.resolve(file)).hasSameBinaryContentAs(expected.resolve(file));
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"lora", "dora", "p-tuning", "prompt", "adapter", "ia3", "bitfit", "adalora"})
    void aRunBeginsWithTheWeightsOfAnother(String method) throws IOException {
        Path run = first(method);
        Result result = next(STANDING_STILL, "--init-adapter", run);
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(result.err()).contains("begins with the adapter in " + run.resolve("last") + System.lineSeparator());
        assertSame(
                folder.resolve("next/last"),
                run.resolve("last"),
                "adapter_model.safetensors",
                "adapter_config.json",
                "head.safetensors");
        JsonNode options = JSON.readTree(folder.resolve("next/run.json").toFile());
        assertThat(options.get("method").asText()).isEqualTo(method);
        assertThat(options.get("init-adapter").asText()).isEqualTo(run.toString());
        if (method.equals("lora")) {
            assertThat(options.get("rank").intValue()).isEqualTo(4);
        }
        // And it can be trained.
        assertThat(next(List.of("--steps", 3, "--lr", 1e-2, "--max-length", 20), "--init-adapter", run.resolve("last"))
                        .code())
                .isZero();
        assertThat(Files.mismatch(
                        folder.resolve("next/last/adapter_model.safetensors"),
                        run.resolve("last/adapter_model.safetensors")))
                .isNotNegative();
    }

    @Test
    void whatTheAdapterSaysIsNotSaidOtherwise() {
        Path run = first("lora");
        String own = run.resolve("last") + " has ";
        String advice = ", or begin without --init-adapter";
        assertRefused(
                next(STANDING_STILL, "--init-adapter", run, "--method", "prefix"),
                "loran: --method prefix: the adapter in " + own + "lora; leave --method out" + advice);
        assertRefused(
                next(STANDING_STILL, "--init-adapter", run, "--rank", 8),
                "loran: --rank 8: the adapter in " + own + "4; leave --rank out" + advice);
        assertRefused(
                next(STANDING_STILL, "--init-adapter", run, "--targets", "key"),
                "loran: --targets key: the adapter in " + own + "[\"query\",\"value\"]; leave --targets out" + advice);
        assertThat(next(STANDING_STILL, "--init-adapter", run, "--method", "lora", "--rank", 4)
                        .code())
                .isZero();
        Result other = next(
                STANDING_STILL, "--init-adapter", run, "--model", FIXTURES.resolve("bert"), "--tokenizer", encoder);
        assertThat(other.code()).isEqualTo(2);
        assertThat(other.err()).startsWith("loran: " + run.resolve("last") + ": the adapter was trained on " + encoder);
        assertRefused(
                next(STANDING_STILL, "--init-adapter", folder),
                "loran: " + folder
                        + ": holds neither an adapter (adapter_config.json) nor a finished run; name one of these");
    }

    @Test
    void aRunThatBeganWithAnAdapterGoesOnWithoutIt() throws IOException {
        Path run = first("lora");
        List<Object> options = List.of("--steps", 6, "--lr", 1e-2, "--save-steps", 2);
        assertThat(next(options, "--init-adapter", run).code()).isZero();
        Path next = folder.resolve("next");
        Path straight = Files.move(next, folder.resolve("straight"));
        assertThat(next(options, "--init-adapter", run).code()).isZero();
        Drafts.delete(run);
        // First from a checkpoint; then, as if it had been killed before the first checkpoint, from its beginning.
        Drafts.delete(next.resolve("checkpoints/step-6"));
        for (String going : List.of("going on after step 4 of 6", "begins with")) {
            Drafts.delete(next.resolve("last"));
            Result result = loran("train", "--resume", next);
            assertThat(result.code()).as(result.err()).isZero();
            assertThat(result.err()).contains(going);
            assertSame(
                    next.resolve("last"),
                    straight.resolve("last"),
                    "adapter_model.safetensors",
                    "head.safetensors",
                    "adapter_config.json");
            Drafts.delete(next.resolve("checkpoints"));
        }
        assertRefused(
                loran("train", "--resume", next, "--init-adapter", straight),
                "loran: --resume goes on with the run's own weights; leave --init-adapter out");
    }

    @Test
    void otherClassesGetANewHead() throws IOException {
        Path run = first("lora");
        List<Row.Classify> rows = Tiny.rows(30, 3).stream()
                .map(r -> new Row.Classify(r.text(), r.label().equals("sport") ? "leisure" : r.label()))
                .toList();
        Path others = Tiny.write(folder.resolve("others.jsonl"), rows);
        Result result = next(STANDING_STILL, "--init-adapter", run, "--train", others);
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(result.err())
                .contains("begins with the adapter in " + run.resolve("last") + ", but with a new head: it tells"
                        + " [purchase, sport] apart, the rows [leisure, purchase]");
        assertSame(folder.resolve("next/last"), run.resolve("last"), "adapter_model.safetensors");
        assertThat(Files.mismatch(folder.resolve("next/last/head.safetensors"), run.resolve("last/head.safetensors")))
                .isNotNegative();
    }

    /// An adapter made by peft, with the family's head for three classes.
    @Test
    void anAdapterOfPeftIsTrainedOn() throws IOException {
        Path tokenizer = Files.write(folder.resolve("tokenizer.json"), TinyTokenizers.wordPieceJson());
        List<Object> base = new ArrayList<>(List.of("--model", FIXTURES.resolve("bert"), "--tokenizer", tokenizer));
        base.addAll(List.of("--init-adapter", FIXTURES.resolve("bert-adapter")));
        List<Row.Classify> rows = new ArrayList<>(Tiny.rows(30, 3));
        rows.add(new Row.Classify("query", "search"));
        Path three = Tiny.write(folder.resolve("three.jsonl"), rows);
        base.addAll(STANDING_STILL);
        base.addAll(List.of("--max-length", 12));
        Result same = next(base, "--train", three);
        assertThat(same.code()).as(same.err()).isZero();
        assertThat(same.err()).contains("begins with the adapter in " + FIXTURES.resolve("bert-adapter"));
        assertThat(tensors(folder.resolve("next/last"))).isEqualTo(tensors(FIXTURES.resolve("bert-adapter")));
        Result other = next(base);
        assertThat(other.code()).as(other.err()).isZero();
        assertThat(other.err()).contains("but with a new head: it tells 3 classes apart, the rows [purchase, sport]");
        JsonNode config =
                JSON.readTree(folder.resolve("next/last/adapter_config.json").toFile());
        assertThat(config.get("task_type").asText()).isEqualTo("SEQ_CLS");
        assertThat(config.get("r").intValue()).isEqualTo(2);
    }

    /// The tensors by name, as text.
    private static Map<String, String> tensors(Path adapter) {
        Map<String, String> all = new TreeMap<>();
        try (ReferenceBackend backend = new ReferenceBackend();
                SafeTensors file = SafeTensors.open(adapter.resolve("adapter_model.safetensors"))) {
            for (String name : file.names()) {
                try (Tensor t = file.copy(backend, name, DType.F32)) {
                    all.put(name, Arrays.toString(t.toFloats()));
                }
            }
        }
        return all;
    }
}
