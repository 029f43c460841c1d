package dev.loran.peft.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.TinyTokenizers;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.decoder.LlamaModel;
import dev.loran.peft.train.Reranker;
import dev.loran.peft.train.TaskModel;
import dev.loran.peft.train.Tiny;
import dev.loran.peft.tuner.PeftModel;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.function.Function;
import java.util.stream.Collectors;
import org.junit.jupiter.api.Test;

/// Lists of labels, numbers and tags: trained, measured, predicted and merged.
class TaskCommandsTest extends CommandLineTest {
    private Path write(String name, int n, long seed, Function<Row.Classify, String> line) throws IOException {
        return Files.writeString(
                folder.resolve(name), Tiny.rows(n, seed).stream().map(line).collect(Collectors.joining("\n")));
    }

    private void rows(Function<Row.Classify, String> line) throws IOException {
        train = write("train.jsonl", 48, 1, line);
        held = write("held.jsonl", 20, 2, line);
    }

    private JsonNode trained(Path model, String task, Object... more) throws IOException {
        List<Object> args = new ArrayList<>(List.of("--model", model, "--task", task, "--eval", held, "--lr", 1e-2));
        args.addAll(List.of(more));
        Result result = train(args.toArray());
        assertThat(result.code()).as(result.err()).isZero();
        assertThat(result.json().get("planned_tensor_mib").doubleValue())
                .isGreaterThanOrEqualTo(result.json().get("peak_tensor_mib").doubleValue());
        return result.json();
    }

    private List<JsonNode> predicted(Path model, Path data) throws IOException {
        Path out = folder.resolve("answers.jsonl");
        Result result = loran(
                "predict",
                "--model",
                model,
                "--adapter",
                folder.resolve("run"),
                "--data",
                data,
                "--out",
                out,
                "--batch-size",
                3,
                "--threads",
                1);
        assertThat(result.code()).as(result.err()).isZero();
        List<JsonNode> answers = new ArrayList<>();
        for (String line : Files.readAllLines(out)) {
            answers.add(JSON.readTree(line));
        }
        return answers;
    }

    /// Merges the run, and evaluates the result without a task.
    ///
    /// @return its config
    private JsonNode merged(Path model, double loss) throws IOException {
        Path out = folder.resolve("merged");
        Result result = loran("merge", "--model", model, "--adapter", folder.resolve("run"), "--out", out);
        assertThat(result.code()).as(result.err()).isZero();
        Files.deleteIfExists(out.resolve("loran.json"));
        Result again = eval("--model", out, "--data", held);
        assertThat(again.code()).as(again.err()).isZero();
        assertThat(again.json().get("loss").doubleValue()).isCloseTo(loss, within(1e-5));
        return JSON.readTree(Files.readString(out.resolve("config.json")));
    }

    private static String labelled(Row.Classify row) {
        return "{\"text\":\"%s\",\"label\":[\"%s\"%s]}"
                .formatted(row.text(), row.label(), row.text().contains("red") ? ",\"red\"" : "");
    }

    @Test
    void severalLabels() throws IOException {
        rows(TaskCommandsTest::labelled);
        JsonNode trained = trained(causal, "classify", "--epochs", 8);
        assertThat(trained.get("eval_micro_f1").doubleValue()).isGreaterThan(0.8);
        Result evaluated = eval("--model", causal, "--adapter", folder.resolve("run"), "--data", held);
        assertThat(evaluated.json().get("micro_f1")).isEqualTo(trained.get("eval_micro_f1"));
        assertThat(evaluated.json().at("/classes/red/rows").intValue()).isPositive();
        assertThat(evaluated.out()).containsPattern("classes +precision +recall +f1 +rows");
        JsonNode card = JSON.readTree(Files.readString(folder.resolve("run/best/loran.json")));
        assertThat(card.get("problem_type").asText()).isEqualTo("multi_label_classification");
        List<JsonNode> answers = predicted(causal, held);
        int exact = 0;
        List<String> lines = Files.readAllLines(held);
        for (int i = 0; i < answers.size(); i++) {
            assertThat(answers.get(i).get("probabilities")).hasSize(3);
            List<String> own = new ArrayList<>();
            answers.get(i).get("label").forEach(l -> own.add(l.asText()));
            List<String> there = new ArrayList<>();
            JSON.readTree(lines.get(i)).get("label").forEach(l -> there.add(l.asText()));
            exact += own.stream()
                            .sorted()
                            .toList()
                            .equals(there.stream().sorted().toList())
                    ? 1
                    : 0;
        }
        assertThat(exact / 20.0).isEqualTo(evaluated.json().get("accuracy").doubleValue());
        Path single = write("single.jsonl", 4, 1, row -> "{\"text\":\"red\",\"label\":\"red\"}");
        assertThat(eval("--model", causal, "--adapter", folder.resolve("run"), "--data", single)
                        .err())
                .contains("single.jsonl:1: field \"label\" is one name, but the model gives any number of labels");
    }

    @Test
    void passages() throws IOException {
        rows(row -> "{\"query\":\"%s\",\"passage\":\"%s\",\"label\":%s}"
                .formatted(
                        row.text().contains("red") ? "red" : "online",
                        row.text(),
                        row.label().equals("sport") ? "1" : "0"));
        JsonNode trained = trained(causal, "rerank", "--epochs", 16);
        assertThat(trained.get("eval_ndcg@10").doubleValue()).isGreaterThan(0.8);
        Path run = folder.resolve("run");
        Result evaluated = eval("--model", causal, "--adapter", run, "--data", held);
        assertThat(evaluated.json().get("ndcg@10")).isEqualTo(trained.get("eval_ndcg@10"));
        List<JsonNode> answers = predicted(causal, held);
        assertThat(answers).hasSize(20);
        double sum = 0;
        List<String> lines = Files.readAllLines(held);
        for (int i = 0; i < 20; i++) {
            JsonNode row = JSON.readTree(lines.get(i));
            assertThat(answers.get(i).get("query")).isEqualTo(row.get("query"));
            assertThat(answers.get(i).get("passage")).isEqualTo(row.get("passage"));
            double score = answers.get(i).get("score").doubleValue();
            sum -= Math.log(row.get("label").intValue() == 1 ? score : 1 - score);
        }
        assertThat(sum / 20).isCloseTo(evaluated.json().get("loss").doubleValue(), within(1e-5));
        JsonNode config = merged(causal, evaluated.json().get("loss").doubleValue());
        assertThat(config.get("id2label")).hasSize(1);
        assertThat(config.get("problem_type").asText()).isEqualTo("multi_label_classification");
        plainCrossEncoder(answers, evaluated.json().get("ndcg@10"));
        try (ReferenceBackend backend = new ReferenceBackend();
                Model model = Tiny.causal(backend, DType.F32);
                PeftModel peft = new PeftModel(model, 3);
                TaskModel reranker = TaskModel.load(peft, run.resolve("best"));
                Tokenizer tokenizer = TinyTokenizers.wordPiece()) {
            List<Reranker.Ranked> ranked =
                    Reranker.rank(reranker, tokenizer, "red", List.of("shoes red", "running red", "cheap shoes"), 2);
            assertThat(ranked.getFirst().index()).isEqualTo(1);
            assertThat(ranked.getFirst().passage()).isEqualTo("running red");
            assertThat(ranked.get(1).score())
                    .isGreaterThanOrEqualTo(ranked.get(2).score());
        }
    }

    /// A folder as public cross-encoders have it: one label, and nothing that says what for.
    private void plainCrossEncoder(List<JsonNode> answers, JsonNode ndcg) throws IOException {
        Path plain = folder.resolve("merged");
        ObjectNode config = (ObjectNode) JSON.readTree(Files.readString(plain.resolve("config.json")));
        config.remove("problem_type");
        config.putObject("sentence_transformers").put("activation_fn", "torch.nn.modules.linear.Identity");
        Files.writeString(plain.resolve("config.json"), config.toString());
        Path out = folder.resolve("plain.jsonl");
        Result predicted = loran("predict", "--model", plain, "--data", held, "--out", out, "--threads", 1);
        assertThat(predicted.code()).as(predicted.err()).isZero();
        List<String> lines = Files.readAllLines(out);
        assertThat(lines).hasSameSizeAs(answers);
        for (int i = 0; i < lines.size(); i++) {
            assertThat(JSON.readTree(lines.get(i)).get("score").doubleValue())
                    .isCloseTo(answers.get(i).get("score").doubleValue(), within(1e-5));
        }
        assertThat(eval("--model", plain, "--data", held).json().get("ndcg@10")).isEqualTo(ndcg);
        assertThat(eval("--model", plain, "--task", "rerank", "--data", held)
                        .json()
                        .get("ndcg@10"))
                .isEqualTo(ndcg);
        Path texts = Files.writeString(folder.resolve("texts.txt"), "red shoes\n");
        assertRefused(
                loran("predict", "--model", plain, "--data", texts, "--out", out),
                "loran: " + texts + ":1: a model with one output ranks passages, for rows with \"query\" and"
                        + " \"passage\"; if it gives a number for a text, say so in its config.json: \"problem_type\":"
                        + " \"regression\"");
    }

    @Test
    void weightsOfClassesStayInTheRun() throws IOException {
        Result result = train("--class-weights", "balanced", "--eval", held, "--steps", 4, "--save-steps", 2);
        assertThat(result.code()).as(result.err()).isZero();
        Path run = folder.resolve("run");
        assertThat(JSON.readTree(Files.readString(run.resolve("run.json")))
                        .get("class-weights")
                        .asText())
                .isEqualTo("balanced");
        assertThat(result.json().get("planned_tensor_mib").doubleValue())
                .isGreaterThanOrEqualTo(result.json().get("peak_tensor_mib").doubleValue());
        assertThat(JSON.readTree(Files.readString(run.resolve("last/loran.json")))
                        .get("class_weights"))
                .hasSize(2);
        Result longer = loran("train", "--resume", run, "--steps", 6, "--json");
        assertThat(longer.code()).as(longer.err()).isZero();
        assertThat(eval("--model", encoder, "--adapter", run, "--data", held).code())
                .isZero();
        assertRefused(
                train("--class-weights", "sport=0"),
                "loran: class weights: \"sport=0\" is no label with a positive number; write balanced, or"
                        + " label=2,other=0.5");
    }

    @Test
    void numbers() throws IOException {
        rows(row -> "{\"text\":\"%s\",\"score\":%s}"
                .formatted(row.text(), row.label().equals("sport") ? "0.75" : "-0.5"));
        JsonNode trained = trained(encoder, "regress", "--pooling", "mean", "--epochs", 16);
        assertThat(trained.get("eval_pearson").doubleValue()).isGreaterThan(0.8);
        List<JsonNode> answers = predicted(encoder, held);
        double squares = 0;
        List<String> lines = Files.readAllLines(held);
        for (int i = 0; i < 20; i++) {
            double off = answers.get(i).get("score").doubleValue()
                    - JSON.readTree(lines.get(i)).get("score").doubleValue();
            squares += off * off;
        }
        assertThat(squares / 20).isCloseTo(trained.get("eval_loss").doubleValue(), within(1e-5));
    }

    @Test
    void tags() throws IOException {
        rows(row -> {
            String[] words = row.text().split(" ");
            return "{\"tokens\":%s,\"tags\":%s}"
                    .formatted(
                            JSON.valueToTree(words),
                            JSON.valueToTree(Arrays.stream(words)
                                    .map(w -> w.equals("running") || w.equals("shoes") ? "B-THING" : "O")
                                    .toArray()));
        });
        JsonNode trained = trained(encoder, "tag", "--epochs", 24);
        assertThat(trained.get("eval_f1").doubleValue()).isGreaterThan(0.8);
        JsonNode adapter = JSON.readTree(Files.readString(folder.resolve("run/best/adapter_config.json")));
        assertThat(adapter.get("task_type").asText()).isEqualTo("TOKEN_CLS");
        assertThat(folder.resolve("run/best/head.safetensors")).doesNotExist();
        JsonNode config = merged(encoder, trained.get("eval_loss").doubleValue());
        assertThat(config.get("architectures").get(0).asText()).isEqualTo("BertForTokenClassification");
        assertThat(config.at("/id2label/0").asText()).isEqualTo("B-THING");

        int right = 0;
        int words = 0;
        List<String> lines = Files.readAllLines(held);
        List<JsonNode> answers = predicted(encoder, held);
        for (int i = 0; i < lines.size(); i++) {
            JsonNode there = JSON.readTree(lines.get(i)).get("tags");
            for (int w = 0; w < there.size(); w++) {
                right += answers.get(i).get("tags").get(w).equals(there.get(w)) ? 1 : 0;
                words++;
            }
        }
        assertThat((double) right / words)
                .isEqualTo(trained.get("eval_accuracy").doubleValue());

        Path texts = Files.writeString(folder.resolve("texts.txt"), "buy shoes\n  red, running\n");
        JsonNode second = predicted(encoder, texts).get(1);
        assertThat(second.get("tokens")).hasToString("[\"red\",\",\",\"running\"]");
        assertThat(second.get("tags")).hasSize(3);
        JsonNode entity = predicted(encoder, texts).get(0).at("/entities/0");
        assertThat(entity.toString())
                .isEqualTo("{\"type\":\"THING\",\"text\":\"shoes\",\"first\":1,\"last\":1,\"start\":4,\"end\":9}");
        assertThat(loran(
                                "predict",
                                "--model",
                                encoder,
                                "--adapter",
                                folder.resolve("run"),
                                "--data",
                                texts,
                                "--embeddings",
                                "--out",
                                folder.resolve("x"))
                        .err())
                .isEqualTo("loran: --embeddings is for classifiers; leave it out for task tag\n");
    }

    @Test
    void aMergedModelSaysItsProblem() throws IOException {
        rows(row -> "{\"text\":\"%s\",\"label\":%s}"
                .formatted(row.text(), row.label().equals("sport") ? 1 : 0));
        Path llama;
        try (ReferenceBackend backend = new ReferenceBackend();
                Model model = LlamaModel.random(
                        LlamaModel.Config.of(TinyTokenizers.WORDS.size(), 16, 36, 2, 2, Tiny.POSITIONS),
                        backend,
                        DType.F32,
                        1)) {
            llama = Tiny.save(model, folder.resolve("llama"));
        }
        JsonNode number = trained(llama, "regress", "--steps", 4);
        JsonNode config = merged(llama, number.get("eval_loss").doubleValue());
        assertThat(config.get("problem_type").asText()).isEqualTo("regression");
        assertThat(config.get("id2label")).hasSize(1);
    }
}
