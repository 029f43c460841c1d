package dev.loran.peft.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import com.fasterxml.jackson.databind.JsonNode;
import dev.loran.peft.io.Drafts;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

class PreferCommandTest extends CommandLineTest {
    private static final List<String> WORDS = List.of("buy", "cheap", "shoes", "run", "online", "red");

    @BeforeEach
    void rows() throws IOException {
        List<String> lines = new ArrayList<>();
        for (int i = 0; i < 36; i++) {
            lines.add("{\"prompt\":\"query %s\",\"chosen\":\"%s\",\"rejected\":\"%s\"}"
                    .formatted(WORDS.get(i % 6), WORDS.get(i % 6), WORDS.get((i + 1 + i / 6 % 5) % 6)));
        }
        train = Files.write(folder.resolve("preferences.jsonl"), lines);
    }

    private Result prefer(Object... more) {
        List<Object> args = new ArrayList<>(List.of("--model", causal, "--task", "prefer", "--train", train));
        args.addAll(List.of(more));
        return train(args.toArray());
    }

    @Test
    void isTrainedMeasuredResumedAndAnswers() throws IOException {
        Result trained = prefer("--eval", train, "--lr", 1e-2, "--steps", 40, "--beta", 0.2);
        assertThat(trained.code()).as(trained.err()).isZero();
        assertThat(trained.err()).contains("log-probabilities of 36 rows");
        Path run = folder.resolve("run");
        JsonNode settings =
                JSON.readTree(Files.readString(run.resolve("best/loran.json"))).get("settings");
        assertThat(settings).hasToString("{\"loss\":\"dpo\",\"beta\":\"0.2\",\"label_smoothing\":\"0.0\"}");
        assertThat(trained.json().get("eval_reward_accuracy").doubleValue()).isGreaterThan(0.9);
        assertThat(trained.json().get("planned_tensor_mib").doubleValue())
                .isGreaterThanOrEqualTo(trained.json().get("peak_tensor_mib").doubleValue());

        Result measured = eval("--model", causal, "--adapter", run, "--data", train);
        assertThat(measured.code()).as(measured.err()).isZero();
        JsonNode after = measured.json();
        assertThat(after.get("loss").doubleValue())
                .isCloseTo(trained.json().get("eval_loss").doubleValue(), within(1e-6));
        assertThat(after.get("reward_margin").doubleValue()).isPositive();
        assertThat(after.has("reward_chosen")).isTrue();

        Result longer = loran("train", "--resume", run, "--steps", 44, "--json");
        assertThat(longer.code()).as(longer.err()).isZero();

        Path prompts = Files.writeString(folder.resolve("prompts.txt"), "query red\n");
        Path out = folder.resolve("answers.jsonl");
        Result predicted = loran(
                "predict", "--model", causal, "--adapter", run, "--data", prompts, "--out", out, "--max-new-tokens", 3);
        assertThat(predicted.code()).as(predicted.err()).isZero();
        Result generated =
                loran("generate", "--model", causal, "--adapter", run, "--prompt", "query red", "--max-new-tokens", 3);
        assertThat(generated.code()).as(generated.err()).isZero();
        assertThat(JSON.readTree(Files.readString(out)).get("answer").asText())
                .isEqualTo(generated.out().strip());
    }

    /// Answers that were judged one by one, from a table.
    @Test
    void judgedAnswersAreTrainedAndMeasured() throws IOException {
        List<String> lines = new ArrayList<>(List.of("prompt,completion,label"));
        for (int i = 0; i < 36; i++) {
            lines.add("query %s,%s,%s"
                    .formatted(WORDS.get(i % 6), WORDS.get((i + i / 6) % 6), i / 6 == 0 ? "True" : "False"));
        }
        Path judged = Files.write(folder.resolve("judged.csv"), lines);
        Result trained = prefer(
                "--train",
                judged,
                "--eval",
                judged,
                "--loss",
                "kto",
                "--desirable-weight",
                5,
                "--lr",
                1e-2,
                "--steps",
                60);
        assertThat(trained.code()).as(trained.err()).isZero();
        assertThat(trained.err()).contains("log-probabilities of 36 rows").doesNotContain("desirable-weight");
        Result measured = eval("--model", causal, "--adapter", folder.resolve("run"), "--data", judged);
        assertThat(measured.code()).as(measured.err()).isZero();
        assertThat(measured.json().get("reward_margin").doubleValue()).isPositive();
        assertThat(measured.json().get("loss").doubleValue())
                .isCloseTo(trained.json().get("eval_loss").doubleValue(), within(1e-6));
        assertThat(measured.json().has("kl")).isTrue();

        Path bad = Files.writeString(
                folder.resolve("bad.jsonl"), "{\"prompt\":\"red\",\"completion\":\"buy\",\"label\":\"good\"}\n");
        assertRefused(
                prefer("--train", bad, "--loss", "kto"),
                "loran: " + bad + ":1: field \"label\" must be true or false, found string");
        assertRefused(
                prefer("--train", bad),
                "loran: " + bad + ":1: an answer that was judged by itself is for the loss kto; the loss dpo needs"
                        + " \"chosen\" and \"rejected\"");
    }

    /// The adapter keeps the template, and answers as it was trained.
    @Test
    void chatsAreTrainedMeasuredAndAnswered() throws IOException {
        Path template = Files.writeString(
                folder.resolve("short.jinja"),
                "{% for m in messages %}{{ m.role[0] }} {{ m.content }} !{% endfor %}"
                        + "{% if add_generation_prompt %}a {% endif %}");
        String message = "{\"role\":\"%s\",\"content\":\"%s\"}";
        List<String> lines = new ArrayList<>();
        for (int i = 0; i < 12; i++) {
            String word = WORDS.get(i % 6);
            String asked = message.formatted("user", "query " + word);
            lines.add("{\"chosen\":[%s,%s],\"rejected\":[%s,%s]}"
                    .formatted(
                            asked,
                            message.formatted("assistant", word),
                            asked,
                            message.formatted("assistant", WORDS.get((i + 1 + i / 6) % 6))));
        }
        Path chats = Files.write(folder.resolve("chats.jsonl"), lines);
        Path run = folder.resolve("run");
        assertRefused(
                prefer("--train", chats),
                "loran: the model's folder has no chat template; name one that its texts shall have:"
                        + " --chat-template chatml, llama3, gemma or alpaca, or a file");
        Result trained =
                prefer("--train", chats, "--eval", chats, "--chat-template", template, "--lr", 1e-2, "--steps", 30);
        assertThat(trained.code()).as(trained.err()).isZero();
        Result measured = eval("--model", causal, "--adapter", run, "--data", chats);
        assertThat(measured.code()).as(measured.err()).isZero();
        assertThat(measured.json().get("loss").doubleValue())
                .isCloseTo(trained.json().get("eval_loss").doubleValue(), within(1e-6));
        assertThat(measured.json().get("reward_margin").doubleValue()).isPositive();

        Path asked = Files.writeString(
                folder.resolve("asked.jsonl"),
                "{\"id\":7,\"messages\":[%1$s]}\n{\"id\":8,\"prompt\":[%1$s]}\n"
                        .formatted(message.formatted("user", "query red")));
        Path out = folder.resolve("answers.jsonl");
        Result predicted = loran(
                "predict", "--model", causal, "--adapter", run, "--data", asked, "--out", out, "--max-new-tokens", 3);
        assertThat(predicted.code()).as(predicted.err()).isZero();
        Result generated =
                loran("generate", "--model", causal, "--adapter", run, "--prompt", "query red", "--max-new-tokens", 3);
        assertThat(generated.code()).as(generated.err()).isZero();
        List<String> written = Files.readAllLines(out);
        assertThat(written).hasSize(2);
        for (int i = 0; i < 2; i++) {
            JsonNode answer = JSON.readTree(written.get(i));
            assertThat(answer.get("answer").asText()).isEqualTo(generated.out().strip());
            assertThat(answer.get("id").intValue()).isEqualTo(7 + i);
        }
        Path wordy = Files.writeString(
                folder.resolve("wordy.jsonl"),
                "{\"text\":\"red\"}\n\n{\"text\":\"" + "red ".repeat(2000).strip() + "\"}\n");
        assertThat(loran("predict", "--model", causal, "--adapter", run, "--data", wordy, "--out", out)
                        .err())
                .contains(wordy + ":3: the prompt has 20")
                .endsWith("with the answer; shorten it\n");
    }

    /// All rewards are 0 as long as the adapter is the one that the run began with, and that is known later, too.
    @Test
    void theReferenceContainsTheAdapterThatTheRunBeganWith() throws IOException {
        Path run = folder.resolve("run");
        Result first = prefer("--lr", 1e-2, "--steps", 20);
        assertThat(first.code()).as(first.err()).isZero();
        Result still = prefer(
                "--init-adapter", run, "--eval", train, "--lr", 1e-30, "--steps", 1, "--out", folder.resolve("still"));
        assertThat(still.code()).as(still.err()).isZero();
        Result measured = eval("--model", causal, "--adapter", folder.resolve("still"), "--data", train);
        assertThat(measured.code()).as(measured.err()).isZero();
        for (Result result : List.of(still, measured)) {
            assertThat(result.json().get(result == still ? "eval_loss" : "loss").doubleValue())
                    .isCloseTo(Math.log(2), within(1e-6));
        }
        assertThat(measured.json().get("reward_chosen").doubleValue()).isCloseTo(0, within(1e-6));
        assertThat(folder.resolve("still/best/ref/adapter_model.safetensors"))
                .hasSameBinaryContentAs(run.resolve("last/adapter_model.safetensors"));
        assertThat(eval("--model", causal, "--adapter", run, "--data", train)
                        .json()
                        .get("reward_margin")
                        .doubleValue())
                .isGreaterThan(0.01);

        // Stopped and resumed, without the first adapter, it is the same run.
        List<Object> more = List.of("--lr", 1e-2, "--steps", 6, "--save-steps", 2, "--init-adapter", run);
        for (String name : List.of("whole", "parted")) {
            List<Object> args = new ArrayList<>(more);
            args.addAll(List.of("--out", folder.resolve(name)));
            assertThat(prefer(args.toArray()).code()).isZero();
        }
        Drafts.delete(run);
        Path parted = folder.resolve("parted");
        Drafts.delete(parted.resolve("checkpoints/step-6"));
        Drafts.delete(parted.resolve("last"));
        Result resumed = loran("train", "--resume", parted);
        assertThat(resumed.code()).as(resumed.err()).isZero();
        assertThat(resumed.err()).contains("going on after step 4 of 6");
        for (String file : List.of("adapter_model.safetensors", "ref/adapter_model.safetensors")) {
            assertThat(parted.resolve("last").resolve(file))
                    .hasSameBinaryContentAs(folder.resolve("whole/last").resolve(file));
        }
    }

    private void refused(String row, String message) throws IOException {
        Path bad = folder.resolve("bad.jsonl");
        Files.write(bad, List.of("{\"prompt\":\"red\",\"chosen\":\"buy\",\"rejected\":\"run\"}", row));
        assertRefused(prefer("--train", bad), "loran: " + bad + ":2: " + message);
    }

    @Test
    void refusalsAreOneLine() throws IOException {
        refused(
                "{\"prompt\":\"red\",\"chosen\":\"buy\"}",
                "field \"rejected\" is missing, found \"prompt\", \"chosen\"; a row of task prefer is"
                        + " {\"prompt\",\"chosen\",\"rejected\"}");
        refused(
                "{\"prompt\":\"red\",\"chosen\":3,\"rejected\":\"run\"}",
                "field \"chosen\" must be a string, found number");
        refused("{\"prompt\":\" \",\"chosen\":\"buy\",\"rejected\":\"run\"}", "field \"prompt\" is empty");
        refused(
                "{\"prompt\":\"red\",\"chosen\":\"buy\",\"rejected\":[\"run\"]}",
                "field \"rejected\" must be a string, found array");
        assertRefused(prefer("--beta", "-1"), "loran: beta -1.0 must be positive");
        assertRefused(prefer("--loss", "orpo"), "loran: loss \"orpo\" is not known; choose dpo, ipo or kto");
        assertRefused(train("--beta", 0.1), "loran: task classify has no beta; leave it out");
        assertRefused(
                prefer("--model", encoder), "loran: task prefer needs a causal language model, not the encoder bert");
        Result bare = eval("--model", causal, "--task", "prefer", "--data", train);
        assertRefused(
                bare,
                "loran: task prefer compares the model with what it was before its training, and nothing says what that"
                        + " was; use a model with an adapter");
    }
}
