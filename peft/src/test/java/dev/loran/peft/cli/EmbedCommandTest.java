package dev.loran.peft.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import com.fasterxml.jackson.databind.JsonNode;
import dev.loran.peft.task.SentencePooling;
import dev.loran.peft.task.TextClassifier.Pooling;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

class EmbedCommandTest extends CommandLineTest {
    private static final List<String> WORDS = List.of("buy", "cheap", "shoes", "run", "online", "red");

    /// A title belongs to the text that ends in the same word.
    @BeforeEach
    void rows() throws IOException {
        List<String> lines = new ArrayList<>();
        for (int i = 0; i < 36; i++) {
            lines.add("{\"title\":\"%s : %s\",\"body\":\"query %s\"}"
                    .formatted(WORDS.get(i / 6), WORDS.get(i % 6), WORDS.get(i % 6)));
        }
        train = Files.write(folder.resolve("titles.jsonl"), lines);
        Files.createDirectories(encoder.resolve("1_Pooling"));
        Files.writeString(encoder.resolve("modules.json"), """
                [{"idx":0,"name":"0","path":"","type":"sentence_transformers.models.Transformer"},
                 {"idx":1,"name":"1","path":"1_Pooling","type":"sentence_transformers.models.Pooling"},
                 {"idx":2,"name":"2","path":"2_Normalize","type":"sentence_transformers.models.Normalize"}]""");
        Files.writeString(
                encoder.resolve("1_Pooling/config.json"),
                "{\"pooling_mode_max_tokens\":true,\"pooling_mode_mean_tokens\":false}");
    }

    private List<JsonNode> vectors(Object... model) throws IOException {
        Path texts = Files.writeString(folder.resolve("texts.txt"), "red shoes\nbuy\n");
        Path out = folder.resolve("vectors.jsonl");
        List<Object> args = new ArrayList<>(List.of("predict", "--data", texts, "--out", out, "--threads", 1));
        args.addAll(List.of(model));
        Result result = loran(args.toArray());
        assertThat(result.code()).as(result.err()).isZero();
        List<JsonNode> lines = new ArrayList<>();
        for (String line : Files.readAllLines(out)) {
            lines.add(JSON.readTree(line));
        }
        assertThat(lines).hasSize(2);
        assertThat(lines.getFirst().get("text").asText()).isEqualTo("red shoes");
        return lines;
    }

    @Test
    void isTrainedMeasuredUsedAndMerged() throws IOException {
        String columns = "anchor=title,positive=body";
        Result before = eval("--model", encoder, "--task", "embed", "--data", train, "--columns", columns);
        assertThat(before.code()).as(before.err()).isZero();
        Result trained = train("--task", "embed", "--columns", columns, "--eval", train, "--lr", 1e-2, "--steps", 60);
        assertThat(trained.code()).as(trained.err()).isZero();
        Path run = folder.resolve("run");
        JsonNode card = JSON.readTree(Files.readString(run.resolve("best/loran.json")));
        assertThat(card.get("task").asText()).isEqualTo("embed");
        assertThat(card.get("pooling").asText()).isEqualTo("max");
        assertThat(card.get("normalize").asBoolean()).isTrue();
        assertThat(trained.json().get("planned_tensor_mib").doubleValue())
                .isGreaterThanOrEqualTo(trained.json().get("peak_tensor_mib").doubleValue());

        JsonNode after = eval("--model", encoder, "--adapter", run, "--data", train, "--columns", columns)
                .json();
        assertThat(after.get("ndcg@10").doubleValue())
                .isGreaterThan(before.json().get("ndcg@10").doubleValue());
        assertThat(trained.json().get("eval_ndcg@10").doubleValue())
                .isCloseTo(after.get("ndcg@10").doubleValue(), within(0.05));

        List<JsonNode> vectors = vectors("--model", encoder, "--adapter", run);
        Path merged = folder.resolve("merged");
        Result result = loran("merge", "--model", encoder, "--adapter", run, "--out", merged);
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(SentencePooling.read(merged)).isEqualTo(new SentencePooling(Pooling.MAX, true));
        assertThat(JSON.readTree(Files.readString(merged.resolve("sentence_bert_config.json"))))
                .hasToString("{\"max_seq_length\":24,\"do_lower_case\":false}");
        assertThat(JSON.readTree(Files.readString(merged.resolve("1_Pooling/config.json")))
                        .get("word_embedding_dimension")
                        .intValue())
                .isEqualTo(16);
        List<JsonNode> again = vectors("--model", merged);
        for (int i = 0; i < 16; i++) {
            assertThat(again.get(1).get("embedding").get(i).doubleValue())
                    .isCloseTo(vectors.get(1).get("embedding").get(i).doubleValue(), within(1e-5));
        }
        assertRefused(
                eval("--model", encoder, "--adapter", run, "--data", train),
                "loran: " + train + ":1: field \"anchor\" is missing, found \"title\", \"body\"; a row of task embed is"
                        + " {\"anchor\",\"positive\"}, {\"anchor\",\"positive\",\"negative\"},"
                        + " {\"text\",\"text_pair\",\"score\"} or {\"text\",\"label\"}");
    }

    @Test
    void anyEncoderWritesVectors() throws IOException {
        double squares = 0;
        for (JsonNode x : vectors("--model", encoder, "--embeddings").getFirst().get("embedding")) {
            squares += x.doubleValue() * x.doubleValue();
        }
        assertThat(squares).isCloseTo(1, within(1e-5));
    }

    @Test
    void vectorsThatAreNoNumbersAreRefused() throws IOException {
        Path weights = encoder.resolve("model.safetensors");
        byte[] bytes = Files.readAllBytes(weights);
        Arrays.fill(bytes, bytes.length - 4 * 16, bytes.length, (byte) 0xff);
        Files.write(weights, bytes);
        Path texts = Files.writeString(folder.resolve("texts.txt"), "red shoes\nbuy\n");
        Path out = folder.resolve("vectors.jsonl");
        assertRefused(
                loran("predict", "--model", encoder, "--embeddings", "--data", texts, "--out", out, "--threads", 1),
                "loran: encoder: answers with what is no number (NaN or infinity); its weights are damaged, or its"
                        + " training diverged; train again, with a lower --lr");
        assertThat(out).doesNotExist();
    }

    /// The prompts of the model's files, or those that are typed, come before the texts, and are written again.
    @Test
    void prefixesAreReadUsedAndWritten() throws IOException {
        Files.writeString(
                encoder.resolve("config_sentence_transformers.json"),
                "{\"prompts\":{\"query\":\"buy \",\"passage\":\"cheap \"},\"default_prompt_name\":null}");
        List<Object> options =
                List.of("--task", "embed", "--columns", "anchor=title,positive=body", "--lr", 1e-2, "--steps", 4);
        Result read = train(options.toArray());
        assertThat(read.code()).as(read.err()).isZero();
        Path run = folder.resolve("run");
        assertThat(JSON.readTree(Files.readString(run.resolve("last/loran.json")))
                        .get("settings"))
                .hasToString("{\"query_prefix\":\"buy \",\"passage_prefix\":\"cheap \"}");

        Path texts = Files.writeString(
                folder.resolve("texts.jsonl"), "{\"text\":\"red\"}\n{\"query\":\"red\"}\n{\"passage\":\"red\"}\n");
        List<JsonNode> own = predicted(texts, "--adapter", run);
        // What stands before a text may as well be in it.
        List<JsonNode> typed = predicted(
                Files.writeString(folder.resolve("typed.jsonl"), "{\"text\":\"buy red\"}\n{\"text\":\"cheap red\"}\n"),
                "--adapter",
                run,
                "--query-prefix",
                "",
                "--passage-prefix",
                "");
        assertThat(own.get(0)).isEqualTo(own.get(1)).isEqualTo(typed.get(0)).isNotEqualTo(own.get(2));
        assertThat(own.get(2)).isEqualTo(typed.get(1));
        assertThat(predicted(texts, "--embeddings").get(2))
                .isEqualTo(predicted(texts, "--embeddings", "--passage-prefix", "cheap ")
                        .get(2));

        Path merged = folder.resolve("merged");
        Result result = loran("merge", "--model", encoder, "--adapter", run, "--out", merged);
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(JSON.readTree(Files.readString(merged.resolve("config_sentence_transformers.json"))))
                .hasToString("{\"default_prompt_name\":null,\"prompts\":"
                        + "{\"document\":\"cheap \",\"passage\":\"cheap \",\"query\":\"buy \"}}");

        List<Object> other = new ArrayList<>(options);
        other.addAll(List.of("--query-prefix", "red ", "--passage-prefix", ""));
        assertThat(train(other.toArray()).code()).isZero();
        assertThat(JSON.readTree(Files.readString(run.resolve("last/loran.json")))
                        .get("settings"))
                .hasToString("{\"query_prefix\":\"red \",\"passage_prefix\":\"\"}");
        assertRefused(
                train("--task", "classify", "--query-prefix", "buy "),
                "loran: task classify has no query_prefix; leave it out");
    }

    private List<JsonNode> predicted(Path data, Object... more) throws IOException {
        Path out = folder.resolve("predicted.jsonl");
        List<Object> args =
                new ArrayList<>(List.of("predict", "--model", encoder, "--data", data, "--out", out, "--threads", 1));
        args.addAll(List.of(more));
        Result result = loran(args.toArray());
        assertThat(result.code()).as(result.err()).isZero();
        List<JsonNode> vectors = new ArrayList<>();
        for (String line : Files.readAllLines(out)) {
            vectors.add(JSON.readTree(line).get("embedding"));
        }
        return vectors;
    }

    /// Scored pairs are ranked by another metric than pairs.
    @Test
    void scoredPairsAreComparedBySpearman() throws IOException {
        List<String> lines = new ArrayList<>();
        for (int i = 0; i < 36; i++) {
            lines.add("{\"text\":\"%s\",\"text_pair\":\"query %s\",\"score\":%s}"
                    .formatted(WORDS.get(i / 6), WORDS.get(i % 6), i / 6 == i % 6));
        }
        lines.replaceAll(line -> line.replace("true", "1").replace("false", "0"));
        Path scored = Files.write(folder.resolve("scored.jsonl"), lines);
        Object[] shared = {
            "--model",
            encoder,
            "--task",
            "embed",
            "--train",
            scored,
            "--eval",
            scored,
            "--threads",
            1,
            "--steps",
            45,
            "--batch-size",
            12,
            "--max-length",
            12,
            "--json"
        };
        Result sweep = loran(Stream.concat(
                        Stream.of("sweep", "--out", folder.resolve("sweep"), "--grid", "lr=1e-6,1e-2"),
                        Arrays.stream(shared))
                .toArray());
        assertThat(sweep.code()).as(sweep.err()).isZero();
        assertThat(sweep.out().lines().findFirst().orElseThrow())
                .matches("lr +loss +spearman +trainable +seconds +run");
        JsonNode runs = sweep.json().get("runs");
        assertThat(runs.get(0).get("eval_spearman").doubleValue())
                .isGreaterThanOrEqualTo(runs.get(1).get("eval_spearman").doubleValue());
        Result compare = loran(Stream.concat(
                        Stream.of("compare", "--out", folder.resolve("compare"), "--methods", "lora"),
                        Arrays.stream(shared))
                .toArray());
        assertThat(compare.code()).as(compare.err()).isZero();
        assertThat(compare.json().get("headline").asText()).isEqualTo("spearman");
        assertThat(compare.out()).contains("spearman");
    }

    @Test
    void refusalsAreOneLine() throws IOException {
        Path both = Files.writeString(
                folder.resolve("both.jsonl"), "{\"anchor\":\"red\",\"positive\":\"shoes\",\"score\":1}");
        assertRefused(
                train("--task", "embed", "--train", both),
                "loran: " + both + ":1: there are both \"anchor\" and \"score\": is this a pair that belongs together,"
                        + " or one with a score? For the latter, name the texts \"text\" and \"text_pair\"");
        Path number = Files.writeString(
                folder.resolve("number.jsonl"), "{\"text\":\"red\",\"text_pair\":\"shoes\",\"score\":\"much\"}");
        assertRefused(
                train("--task", "embed", "--train", number),
                "loran: " + number + ":1: field \"score\" must be a number, found string");
        Path pair = Files.writeString(
                folder.resolve("pair.jsonl"), "{\"text\":\"red\",\"text_pair\":\"shoes\",\"label\":\"color\"}");
        assertRefused(
                train("--task", "embed", "--train", pair),
                "loran: " + pair + ":1: a pair of texts with a label; task classify takes these");
        assertRefused(
                train("--task", "embed", "--pooling", "pooler"),
                "loran: " + train + ":1: field \"anchor\" is missing, found \"title\", \"body\"; a row of task embed is"
                        + " {\"anchor\",\"positive\"}, {\"anchor\",\"positive\",\"negative\"},"
                        + " {\"text\",\"text_pair\",\"score\"} or {\"text\",\"label\"}");
    }
}
