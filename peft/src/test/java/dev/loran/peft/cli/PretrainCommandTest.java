package dev.loran.peft.cli;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import dev.loran.peft.data.ShippedData;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/// `loran pretrain` from end to end, on a tiny model.
class PretrainCommandTest extends CommandLineTest {
    private Path texts;
    private Path others;

    @BeforeEach
    void write() throws IOException {
        ShippedData data = ShippedData.load();
        texts = texts("texts.jsonl", data.train().subList(0, 600));
        others = texts("others.jsonl", data.heldOut().subList(0, 100));
    }

    private Path texts(String name, List<ShippedData.Noun> nouns) throws IOException {
        List<String> lines = new ArrayList<>();
        for (ShippedData.Noun noun : nouns) {
            lines.add(JSON.createObjectNode().put("text", noun.text()).toString());
        }
        return Files.write(folder.resolve(name), lines);
    }

    private Result pretrain(String out, Object... more) {
        List<Object> args = new ArrayList<>(List.of("pretrain", "--train", texts, "--eval", others));
        args.addAll(List.of("--out", folder.resolve(out), "--hidden", 32, "--heads", 2, "--layers", 2));
        args.addAll(List.of("--max-length", 32, "--vocab-size", 400, "--lr", 1e-2, "--threads", 1, "--json"));
        args.addAll(List.of(more));
        return loran(args.toArray());
    }

    @Test
    void aNewModelLearnsTheTextsAndIsAnOrdinaryModelFolder() throws IOException {
        Result result = pretrain("run", "--steps", 60, "--eval-every", 30);
        assertThat(result.code()).as(result.err()).isZero();
        JsonNode json = result.json();
        // Table, per block q k v o, gate up down and two norms, the last norm; the head is the table.
        assertThat(json.get("trainable_parameters").intValue())
                .isEqualTo(400 * 32 + 2 * (4 * 32 * 32 + 3 * 32 * 96 + 2 * 32) + 32);
        assertThat(json.get("trainable_percentage").doubleValue()).isEqualTo(100);
        assertThat(json.get("eval_perplexity").doubleValue()).isBetween(1.0, 150.0);

        Path run = folder.resolve("run");
        JsonNode options = JSON.readTree(Files.readString(run.resolve("run.json")));
        assertThat(options.has("task")).isFalse();
        assertThat(options.get("vocab-size").intValue()).isEqualTo(400);
        Path model = run.resolve("best");
        JsonNode config = JSON.readTree(Files.readString(model.resolve("config.json")));
        assertThat(config.get("architectures").toString()).isEqualTo("[\"LlamaForCausalLM\"]");
        assertThat(config.get("max_position_embeddings").intValue()).isEqualTo(32);
        assertThat(config.get("tie_word_embeddings").booleanValue()).isTrue();

        Result text = loran("generate", "--model", model, "--prompt", "a person", "--max-new-tokens", 8, "--json");
        assertThat(text.code()).as(text.err()).isZero();
        assertThat(text.json().get("tokens").intValue()).isBetween(1, 8);
        Result tuned = loran(
                "train",
                "--model",
                model,
                "--task",
                "lm",
                "--train",
                texts,
                "--steps",
                2,
                "--out",
                folder.resolve("lora"),
                "--max-length",
                16);
        assertThat(tuned.code()).as(tuned.err()).isZero();
    }

    @Test
    void aRunThatGoesOnEndsLikeOneThatDidNotStop() throws IOException {
        assertThat(pretrain("whole", "--steps", 20, "--warmup", 2, "--schedule", "constant")
                        .code())
                .isZero();
        assertThat(pretrain("halves", "--steps", 10, "--warmup", 2, "--schedule", "constant")
                        .code())
                .isZero();
        Path halves = folder.resolve("halves");
        Result rest = loran("pretrain", "--resume", halves, "--steps", 20);
        assertThat(rest.code()).as(rest.err()).isZero();
        for (String file : List.of("model.safetensors", "tokenizer.json")) {
            assertThat(halves.resolve("last").resolve(file))
                    .hasSameBinaryContentAs(
                            folder.resolve("whole").resolve("last").resolve(file));
        }
    }

    @Test
    void aTokenizerMayBeGiven() throws IOException {
        assertThat(pretrain("run", "--steps", 2).code()).isZero();
        Path given = folder.resolve("run").resolve("last");
        Result result = pretrain("again", "--steps", 2, "--tokenizer", given, "--vocab-size", 5000);
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(folder.resolve("again").resolve("best").resolve("tokenizer.json"))
                .hasSameBinaryContentAs(given.resolve("tokenizer.json"));
    }

    @Test
    void whatCannotBeTrainedIsRefusedInALine() {
        Result small = pretrain("run", "--vocab-size", 100);
        assertThat(small.code()).isEqualTo(2);
        assertThat(small.err()).contains("--vocab-size").contains("bytes");
        Result odd = pretrain("run", "--heads", 5);
        assertThat(odd.code()).isEqualTo(2);
        assertThat(odd.err()).contains("num_attention_heads").doesNotContain("Exception");
        Result method = pretrain("run", "--method", "lora");
        assertThat(method.code()).isEqualTo(2);
        assertThat(method.err()).contains("--method");
        Result tokenizer = pretrain("run", "--tokenizer", "nowhere");
        assertThat(tokenizer.code()).isEqualTo(2);
        assertThat(tokenizer.err()).contains("nowhere");
        assertThat(folder.resolve("run")).doesNotExist();
    }
}
