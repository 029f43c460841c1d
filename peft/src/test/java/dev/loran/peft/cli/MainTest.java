package dev.loran.peft.cli;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.peft.data.TinyTokenizers;
import dev.loran.peft.model.Model;
import dev.loran.peft.train.Tiny;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import org.junit.jupiter.api.Test;

/// Command lines from end to end, in this process, on tiny models.
class MainTest extends CommandLineTest {
    private static final ObjectMapper JSON = new ObjectMapper();

    // ---- valid commands

    @Test
    void trainingThenEvaluatingAClassifier() throws IOException {
        Result result = train("--eval", held, "--epochs", 12, "--lr", 1e-2, "--rank", 4, "--seed", 1);
        assertThat(result.err()).doesNotContain("Exception");
        assertThat(result.code()).isZero();
        JsonNode json = result.json();
        assertThat(names(json))
                .containsExactly(
                        "method",
                        "dtype",
                        "device",
                        "steps",
                        "seconds",
                        "steps_per_second",
                        "tokens_per_second",
                        "trainable_parameters",
                        "trainable_percentage",
                        "peak_memory_mib",
                        "peak_tensor_mib",
                        "planned_tensor_mib",
                        "train_loss",
                        "eval_loss",
                        "eval_accuracy",
                        "rows",
                        "held_out",
                        "truncated",
                        "out",
                        "notices");
        assertThat(json.get("method").asText()).isEqualTo("lora");
        assertThat(json.get("steps").intValue()).isEqualTo(72);
        // Two layers of query and value with A (4, 16) and B (16, 4), and the head (2, 16) with its bias.
        assertThat(json.get("trainable_parameters").intValue()).isEqualTo(4 * 2 * 4 * 16 + 2 * 16 + 2);
        assertThat(json.get("trainable_percentage").doubleValue()).isBetween(1.0, 50.0);
        assertThat(json.get("eval_accuracy").doubleValue()).isGreaterThan(0.8);
        assertThat(json.get("train_loss").doubleValue()).isBetween(0.0, 0.6);
        assertThat(json.get("peak_memory_mib").doubleValue()).isGreaterThan(10);
        assertThat(json.get("peak_tensor_mib").doubleValue()).isBetween(0.01, 100.0);
        double planned = json.get("planned_tensor_mib").doubleValue();
        assertThat(json.get("peak_tensor_mib").doubleValue()).isBetween(0.9 * planned, planned);
        assertThat(json.get("truncated").intValue()).isZero();
        int repeated = 48 - new HashSet<>(Tiny.rows(48, 1)).size();
        assertThat(result.err())
                .contains(
                        train + ": " + repeated + " of 48 rows repeat another one",
                        "lora on 48 rows, 72 steps; 546 of ",
                        "tensors: weights 0.",
                        "at once",
                        "step 72/72");

        Path run = folder.resolve("run");
        for (String part : List.of("best", "last")) {
            assertThat(run.resolve(part)).isDirectoryContaining("glob:**adapter_config.json");
            assertThat(run.resolve(part)).isDirectoryContaining("glob:**adapter_model.safetensors");
            assertThat(run.resolve(part)).isDirectoryContaining("glob:**head.safetensors");
            assertThat(run.resolve(part)).isDirectoryContaining("glob:**loran.json");
        }
        JsonNode options = JSON.readTree(Files.readString(run.resolve("run.json")));
        assertThat(options.get("lr").doubleValue()).isEqualTo(1e-2);
        assertThat(options.get("head-lr").doubleValue()).isEqualTo(2.5e-3);
        assertThat(options.get("dropout").doubleValue()).isEqualTo(0.05);
        assertThat(options.get("pooling").asText()).isEqualTo("mean");
        assertThat(options.has("json")).isFalse();

        Result evaluated = eval("--model", encoder, "--adapter", run, "--task", "classify", "--data", held);
        assertThat(evaluated.code()).as(evaluated.err()).isZero();
        assertThat(names(evaluated.json()))
                .containsExactly(
                        "rows", "loss", "accuracy", "macro_f1", "truncated", "notices", "classes", "confusion");
        assertThat(evaluated.json().get("rows").intValue()).isEqualTo(20);
        assertThat(evaluated.json().get("accuracy")).isEqualTo(json.get("eval_accuracy"));
        assertThat(evaluated.json().get("macro_f1").doubleValue()).isGreaterThan(0.8);
        // The folder of the adapter itself, which also names the task.
        Result last = eval("--model", encoder, "--adapter", run.resolve("last"), "--data", held);
        assertThat(last.json().get("rows").intValue()).isEqualTo(20);
    }

    private static List<String> names(JsonNode json) {
        List<String> names = new ArrayList<>();
        json.fieldNames().forEachRemaining(names::add);
        return names;
    }

    @Test
    void theOptimizerAndLoraPlusAreChosen() throws IOException {
        JsonNode usual = train("--steps", 4, "--lr", 1e-2).json();
        Result chosen = train("--steps", 4, "--lr", 1e-2, "--optimizer", "sgd", "--loraplus-ratio", 16);
        assertThat(chosen.code()).as(chosen.err()).isZero();
        assertThat(chosen.json().get("train_loss")).isNotEqualTo(usual.get("train_loss"));
        JsonNode options = JSON.readTree(Files.readString(folder.resolve("run/run.json")));
        assertThat(options.get("optimizer").asText()).isEqualTo("sgd");
        assertThat(options.get("loraplus-ratio").doubleValue()).isEqualTo(16);
        assertRefused(train("--optimizer", "lion"), "loran: optimizer \"lion\" is not known; choose adamw or sgd");
        assertRefused(
                train("--method", "bitfit", "--loraplus-ratio", 4),
                "loran: --loraplus-ratio is for lora, dora and adalora; bitfit has no A and B: leave it out");
        assertRefused(
                train("--loraplus-ratio", 0.5), "loran: LoRA+ ratio is 0.5, must be at least 1 and less than 1e6");
    }

    @Test
    void aRunIsRepeatedFromItsOwnOptions() throws IOException {
        JsonNode first = train("--steps", 5, "--lr", 3e-3, "--schedule", "cosine", "--accumulation", 2)
                .json();
        Path options = Files.copy(folder.resolve("run/run.json"), folder.resolve("options.json"));
        Result second = loran("train", "--config", options, "--out", folder.resolve("again"), "--json");
        assertThat(second.code()).as(second.err()).isZero();
        assertThat(second.json().get("train_loss")).isEqualTo(first.get("train_loss"));
        assertThat(second.json().get("steps").intValue()).isEqualTo(5);
        assertThat(folder.resolve("again/last/head.safetensors"))
                .hasSameBinaryContentAs(folder.resolve("run/last/head.safetensors"));
        Files.writeString(options, "{\"ranks\": 4}");
        assertRefused(
                loran("train", "--config", options),
                "loran: " + options + ": [ranks] are no options of loran train; did you mean rank?");
    }

    @Test
    void aKilledRunGoesOnWithItsOwnOptions() throws IOException {
        Path run = folder.resolve("run");
        JsonNode first = train("--steps", 6, "--lr", 3e-3, "--save-steps", 2, "--eval", held)
                .json();
        assertThat(run.resolve("checkpoints")).isDirectoryContaining("glob:**step-4");
        Path kept = Files.move(run.resolve("last"), folder.resolve("kept"));
        Files.move(run.resolve("checkpoints/step-6"), folder.resolve("step-6"));
        Result second = loran("train", "--resume", run, "--threads", 2, "--json");
        assertThat(second.code()).as(second.err()).isZero();
        assertThat(second.err()).contains("going on after step 4 of 6");
        for (String value : List.of("steps", "train_loss", "eval_loss", "method")) {
            assertThat(second.json().get(value)).isEqualTo(first.get(value));
        }
        for (String file : List.of("head.safetensors", "adapter_model.safetensors")) {
            assertThat(run.resolve("last").resolve(file)).hasSameBinaryContentAs(kept.resolve(file));
        }
        String point = "loran: " + run.resolve("checkpoints/step-6") + ": is of a run with ";
        String advice = "; resume with what the run was begun with, or begin another one";
        assertRefused(
                loran("train", "--resume", run, "--lr", 6e-3, "--head-lr", 5e-3),
                point + "trainer.rate.peak 0.003, not 0.006" + advice);
        assertRefused(loran("train", "--resume", run, "--rank", 16), point + "learner.method.r 8, not 16" + advice);
        try (ReferenceBackend backend = new ReferenceBackend();
                Model other = Tiny.encoder(backend, DType.F32)) {
            backend.fill(other.tokenEmbedding().weight().buffer(), 0.5);
            Tiny.save(other, folder.resolve("other"));
        }
        Result otherBase = loran("train", "--resume", run, "--model", folder.resolve("other"));
        assertThat(otherBase.code()).isEqualTo(2);
        assertThat(otherBase.err().lines()).hasSize(1);
        assertThat(otherBase.err())
                .startsWith(point + "learner.base {\"name\":\"" + encoder + "\",\"sha256\":\"")
                .contains("not {\"name\":\"" + folder.resolve("other") + "\",\"sha256\":\"");
        assertRefused(
                loran("train", "--resume", run, "--dtype", "bf16"),
                "loran: " + run + ": is of a run with dtype f32, not bf16" + advice);
        assertRefused(
                loran("train", "--resume=" + folder, "--epochs", 1),
                "loran: " + folder + ": holds no run that could go on (run.json); name the --out of one");
        assertRefused(
                loran("train", "--resume", run, "--config", run.resolve("run.json")),
                "loran: --resume takes the options that the run was begun with; leave --config out");
    }

    @Test
    void aFinishedRunIsProlonged() throws IOException {
        Path run = folder.resolve("run");
        assertThat(train("--epochs", 2, "--schedule", "constant", "--warmup", 2, "--eval", held)
                        .code())
                .isZero();
        String finished = Files.readString(run.resolve("result.json"));
        assertRefused(
                loran("train", "--resume", run, "--epochs", 1),
                "loran: trainer: 6 steps are fewer than the 12 of the run that is to go on, of which 12 are done; it can only"
                        + " become longer (epochs, steps)");
        assertThat(JSON.readTree(run.resolve("run.json").toFile()).get("epochs").intValue())
                .isEqualTo(2);
        Result longer = loran("train", "--resume", run, "--epochs", 3, "--json");
        assertThat(longer.code()).as(longer.err()).isZero();
        assertThat(longer.err()).contains("going on after step 12 of 18");
        assertThat(longer.json().get("steps").intValue()).isEqualTo(18);
        assertThat(Files.readString(run.resolve("result.json"))).isNotEqualTo(finished);
        Path straight = folder.resolve("straight");
        assertThat(loran("train", "--config", run.resolve("run.json"), "--out", straight)
                        .code())
                .isZero();
        for (String file : List.of("last/head.safetensors", "last/adapter_model.safetensors")) {
            assertThat(run.resolve(file)).hasSameBinaryContentAs(straight.resolve(file));
        }
        // Steps instead of epochs; without options, it resumes with the latest settings and reaches the same end.
        assertThat(loran("train", "--resume", run, "--steps", 20).code()).isZero();
        JsonNode options = JSON.readTree(run.resolve("run.json").toFile());
        assertThat(options.get("steps").intValue()).isEqualTo(20);
        Result again = loran("train", "--resume", run, "--json");
        assertThat(again.err()).contains("going on after step 20 of 20");
        assertThat(again.json().get("steps").intValue()).isEqualTo(20);
        assertThat(loran("train", "--resume", run, "--epochs", 4, "--json")
                        .json()
                        .get("steps")
                        .intValue())
                .isEqualTo(24);
    }

    @Test
    void whatCannotBeProlonged() {
        Path run = folder.resolve("run");
        assertThat(train("--steps", 2, "--save-steps", 0).code()).isZero();
        assertRefused(
                loran("train", "--resume", run, "--steps", 4),
                "loran: " + run + ": cannot be prolonged: it is finished and kept no checkpoint to go on from"
                        + " (--save-steps 0)");
        assertThat(train("--steps", 5, "--method", "adalora").code()).isZero();
        assertRefused(
                loran("train", "--resume", run, "--epochs", 4),
                "loran: " + run
                        + ": cannot be prolonged: adalora cuts ranks by a schedule over the whole run, which was"
                        + " begun with steps 5");
    }

    @Test
    void aLanguageModelOfItsOwnIsTrainedWholeAndEvaluated() throws IOException {
        Path texts = folder.resolve("texts.jsonl");
        Files.writeString(texts, "{\"text\": \"buy cheap red shoes online\"}\n".repeat(24));
        Path tokenizer = Files.write(folder.resolve("tokenizer.json"), TinyTokenizers.wordPieceJson());
        Path run = folder.resolve("lm");
        Result result = loran(
                "train",
                "--model",
                "seo",
                "--hidden",
                16,
                "--layers",
                1,
                "--heads",
                2,
                "--tokenizer",
                tokenizer,
                "--task",
                "lm",
                "--method",
                "full",
                "--train",
                texts,
                "--eval",
                texts,
                "--out",
                run,
                "--epochs",
                12,
                "--batch-size",
                8,
                "--lr",
                1e-2,
                "--json");
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(result.json().get("trainable_percentage").doubleValue()).isEqualTo(100);
        assertThat(result.json().get("eval_loss").doubleValue()).isLessThan(0.5);
        assertThat(result.json().get("eval_accuracy").isNull()).isTrue();
        Result evaluated = eval("--adapter", run, "--data", texts);
        assertThat(evaluated.code()).as(evaluated.err()).isZero();
        assertThat(names(evaluated.json())).containsExactly("rows", "loss", "perplexity", "truncated", "notices");
        assertThat(evaluated.json().get("perplexity").doubleValue()).isLessThan(2);
        // The fresh model itself is saved too, so that an adapter can be applied to it.
        Result untrained = eval("--model", run.resolve("base"), "--task", "lm", "--data", texts);
        assertThat(untrained.json().get("perplexity").doubleValue()).isGreaterThan(8);
    }

    @Test
    void generatingIsTrainedOnTargetsAndScoredByRouge() throws IOException {
        Path pairs = folder.resolve("pairs.jsonl");
        Files.writeString(pairs, "{\"source\": \"query\", \"target\": \"red shoes online\"}\n".repeat(16));
        Path run = folder.resolve("generate");
        Result result = loran(
                "train",
                "--model",
                causal,
                "--task",
                "generate",
                "--method",
                "full",
                "--train",
                pairs,
                "--out",
                run,
                "--epochs",
                20,
                "--batch-size",
                8,
                "--lr",
                1e-2,
                "--max-length",
                20,
                "--json");
        assertThat(result.code()).as(result.err()).isZero();
        Result evaluated = eval("--adapter", run, "--task", "generate", "--data", pairs, "--max-new-tokens", 4);
        assertThat(evaluated.code()).as(evaluated.err()).isZero();
        assertThat(names(evaluated.json()))
                .containsExactly(
                        "rows", "loss", "perplexity", "rouge_l", "mean_chars", "ended", "truncated", "notices");
        assertThat(evaluated.json().get("rouge_l").doubleValue()).isGreaterThan(0.7);
        Result answer = loran("generate", "--adapter", run, "--prompt", "query", "--max-new-tokens", 3, "--json");
        assertThat(answer.code()).as(answer.err()).isZero();
        assertThat(answer.out().lines().toList().getFirst()).isEqualTo("red shoes online");
        assertThat(answer.json().get("text").asText()).isEqualTo("red shoes online");
        assertThat(answer.json().get("tokens").intValue()).isEqualTo(3);
        Result cut = loran(
                "generate",
                "--adapter",
                run,
                "--prompt",
                "query",
                "--max-new-tokens",
                3,
                "--stop",
                "never",
                "--stop",
                "shoes",
                "--temperature",
                1e-3,
                "--top-k",
                2,
                "--top-p",
                0.9,
                "--json");
        assertThat(cut.code()).as(cut.err()).isZero();
        assertThat(cut.json().get("text").asText()).isEqualTo("red ");
        assertRefused(
                loran("generate", "--adapter", run, "--prompt", "query", "--max-new-tokens", 3, "--temperature", -1),
                "loran: temperature is -1.0, must be positive; for the likeliest token each time, do not sample");
        assertRefused(
                loran("generate", "--adapter", run, "--prompt", "query", "--max-new-tokens", 24),
                "loran: --max-new-tokens 24 must be from 1 to 23: text and answer together have 24 positions");
        assertRefused(
                loran("generate", "--model", encoder, "--prompt", "query"),
                "loran: generate needs a causal language model, and " + encoder
                        + " is none; choose another --model, or classify with loran predict");
    }

    @Test
    void everyMethodTrains() throws IOException {
        for (Method method : Method.values()) {
            Result result = train("--method", method, "--steps", 2, "--virtual-tokens", 3, "--max-length", 20);
            assertThat(result.code()).as(method + ": " + result.err()).isZero();
            assertThat(result.json().get("method").asText()).isEqualTo(method.toString());
            Result evaluated = eval("--model", encoder, "--adapter", folder.resolve("run"), "--data", held);
            assertThat(evaluated.code()).as(method + ": " + evaluated.err()).isZero();
        }
    }

    @Test
    void quickstartComparesTheFrozenEncoderWithTheFineTunedOne() throws IOException {
        Result result = loran(
                "quickstart",
                "--model",
                encoder,
                "--rows",
                40,
                "--epochs",
                1,
                "--threads",
                1,
                "--max-length",
                16,
                "--out",
                folder.resolve("quick"),
                "--json");
        assertThat(result.err()).doesNotContain("Exception");
        JsonNode json = result.json();
        assertThat(names(json)).contains("accuracy_before", "accuracy_after", "seconds");
        double before = json.get("accuracy_before").doubleValue();
        double after = json.get("accuracy_after").doubleValue();
        assertThat(before).isBetween(0.02, 0.5);
        assertThat(result.code()).isEqualTo(after > before ? 0 : 1);
        assertThat(json.get("held_out").intValue()).isEqualTo(1000);
        assertThat(json.get("truncated").intValue()).isPositive();
        assertThat(Path.of(json.get("adapter").asText())).isDirectoryContaining("glob:**adapter_model.safetensors");
    }

    @Test
    void longTextsAreCutAndCounted() throws IOException {
        Result result = train("--eval", held, "--steps", 1, "--max-length", 5);
        assertThat(result.json().get("truncated").intValue()).isBetween(10, 60);
        assertThat(result.err()).containsPattern("\\d+ texts are longer than 5 tokens and were cut");
    }

    @Test
    void inspectSaysWhatThereIs() throws IOException {
        train("--eval", held, "--steps", 2);
        JsonNode model = loran("inspect", encoder, "--json").json();
        assertThat(model.get("kind").asText()).isEqualTo("model");
        assertThat(model.get("config").get("hidden_size").intValue()).isEqualTo(16);
        assertThat(model.get("tokenizer").booleanValue()).isTrue();
        assertThat(model.get("loadable").booleanValue()).isTrue();
        JsonNode adapter = loran("inspect", folder.resolve("run/best"), "--json", "--tensors")
                .json();
        assertThat(adapter.get("kind").asText()).isEqualTo("adapter");
        assertThat(adapter.get("config").get("peft_type").asText()).isEqualTo("LORA");
        assertThat(adapter.get("parameters").intValue()).isEqualTo(4 * 2 * 8 * 16);
        assertThat(adapter.get("base_model.model.encoder.layer.0.attention.self.query.lora_A.weight")
                        .asText())
                .isEqualTo("F32 (8, 16)");
        assertThat(adapter.get("trained_for").get("labels").get(1).asText()).isEqualTo("sport");
        JsonNode run = loran("inspect", folder.resolve("run"), "--json").json();
        assertThat(run.get("kind").asText()).isEqualTo("run");
        assertThat(run.get("last_step").get("step").intValue()).isEqualTo(2);
        assertThat(run.get("best").booleanValue()).isTrue();
        assertThat(adapter.get("loadable").booleanValue()).isTrue();
        assertThat(adapter.has("checked")).isFalse();
        assertThat(run.get("loadable").booleanValue()).isTrue();
        JsonNode head = loran("inspect", folder.resolve("run/last/head.safetensors"), "--json")
                .json();
        assertThat(head.get("weight").asText()).isEqualTo("F32 (2, 16)");
    }

    @Test
    void inspectSaysWhyWhatItShowsCannotBeLoaded() throws IOException {
        train("--eval", held, "--steps", 2);
        Path config = encoder.resolve("config.json");
        String before = Files.readString(config);
        Files.writeString(config, before.replace("\"gelu\"", "\"mish\""));
        JsonNode model = loran("inspect", encoder, "--json").json();
        assertThat(model.get("loadable").booleanValue()).isFalse();
        assertThat(model.get("reason").asText()).startsWith(config + ": hidden_act = \"mish\" is not supported");
        assertThat(loran("inspect", folder.resolve("run"), "--json").json().get("reason"))
                .isEqualTo(model.get("reason"));
        Files.writeString(config, before);
        Path adapter = folder.resolve("run/best/adapter_config.json");
        Files.writeString(adapter, Files.readString(adapter).replace("\"LORA\"", "\"OFT\""));
        JsonNode shown = loran("inspect", folder.resolve("run/best"), "--json").json();
        assertThat(shown.get("loadable").booleanValue()).isFalse();
        assertThat(shown.get("reason").asText()).contains("OFT");
    }

    @Test
    void doctorSaysWhatIsUsedAndWhy() throws IOException {
        Result result = loran("doctor", "--json");
        assertThat(result.code()).isZero();
        assertThat(names(result.json()))
                .contains("jdk", "processors", "vector_api", "native_access", "backend", "gpu", "cache", "catalogue");
        assertThat(result.json().get("vector_api").asText()).isEqualTo("on");
        assertThat(result.json().get("gpu").asText()).matches("(ready|cuda): .+");
        assertThat(result.json().get("catalogue").get("minilm").asText()).isNotEmpty();
    }

    @Test
    void everyCommandHasHelp() {
        for (String command : List.of(
                "quickstart",
                "train",
                "sweep",
                "eval",
                "predict",
                "generate",
                "compare",
                "merge",
                "inspect",
                "doctor")) {
            Result result = loran(command, "--help");
            assertThat(result.code()).isZero();
            assertThat(result.out()).startsWith("Usage: loran " + command).contains("--json");
        }
        assertThat(loran("--help").out())
                .contains("quickstart", "train", "eval", "generate", "compare", "merge", "inspect", "doctor");
    }
}
