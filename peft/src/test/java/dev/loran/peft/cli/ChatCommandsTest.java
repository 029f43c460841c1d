package dev.loran.peft.cli;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;

class ChatCommandsTest extends CommandLineTest {
    private static final String ROW = "{\"id\":7,\"messages\":[{\"role\":\"user\",\"content\":\"buy shoes\"},"
            + "{\"role\":\"assistant\",\"content\":\"red shoes\"}]}\n";

    @Test
    void aChatIsTrainedAnsweredAndShown() throws IOException {
        Path chats = Files.writeString(folder.resolve("chats.jsonl"), ROW.repeat(8));
        Result without =
                loran("train", "--model", causal, "--task", "chat", "--train", chats, "--out", folder.resolve("no"));
        assertThat(without.code()).isEqualTo(2);
        assertThat(without.err()).contains("no chat template").contains("--chat-template chatml");

        Path template = Files.writeString(
                folder.resolve("short.jinja"),
                "{% for m in messages %}{{ m.role[0] }} {{ m.content }} !{% endfor %}"
                        + "{% if add_generation_prompt %}a {% endif %}");
        Path run = folder.resolve("run");
        Result trained = loran(
                "train",
                "--model",
                causal,
                "--task",
                "chat",
                "--train",
                chats,
                "--eval",
                chats,
                "--chat-template",
                template,
                "--train-on",
                "last",
                "--steps",
                2,
                "--max-length",
                20,
                "--batch-size",
                4,
                "--out",
                run,
                "--json");
        assertThat(trained.code()).as(trained.err()).isZero();
        assertThat(JSON.readTree(Files.readString(run.resolve("best/loran.json")))
                        .at("/chat/train_on")
                        .asText())
                .isEqualTo("last");

        Result evaluated = loran(
                "eval",
                "--model",
                causal,
                "--adapter",
                run,
                "--data",
                chats,
                "--max-new-tokens",
                3,
                "--json",
                "--answers",
                folder.resolve("evaluated.jsonl"));
        assertThat(evaluated.code()).as(evaluated.err()).isZero();
        assertThat(evaluated.json().has("rouge_l")).isTrue();
        List<String> beside = Files.readAllLines(folder.resolve("evaluated.jsonl"));
        assertThat(beside).hasSize(8);
        assertThat(JSON.readTree(beside.getFirst()).get("source").asText()).isEqualTo("buy shoes");
        assertThat(JSON.readTree(beside.getFirst()).get("target").asText()).isEqualTo("red shoes");
        assertThat(evaluated.json().path("loss").asDouble())
                .isEqualTo(trained.json().path("eval_loss").asDouble(), org.assertj.core.api.Assertions.within(1e-5));

        Path answers = folder.resolve("answers.jsonl");
        Result predicted = loran(
                "predict",
                "--model",
                causal,
                "--adapter",
                run,
                "--data",
                chats,
                "--out",
                answers,
                "--max-new-tokens",
                3);
        assertThat(predicted.code()).as(predicted.err()).isZero();
        List<String> lines = Files.readAllLines(answers);
        assertThat(lines).hasSize(8);
        JsonNode first = JSON.readTree(lines.getFirst());
        assertThat(first.path("id").asInt()).isEqualTo(7);
        assertThat(first.has("answer")).isTrue();
        assertThat(loran("generate", "--model", causal, "--adapter", run, "--prompt", "buy", "--max-new-tokens", 3)
                        .code())
                .isZero();
        assertThat(loran("templates", run, "--file", chats).out()).isEqualTo("u buy shoes !a ⟦red shoes !⟧\n");
    }

    @Test
    void aModelWithoutATemplateShowsABuiltInOne() {
        assertThat(loran("templates", causal, "--chat-template", "gemma").out()).contains("<start_of_turn>model\n⟦");
        assertThat(loran("templates", causal, "--chat-template", "nosuch").code())
                .isEqualTo(2);
        assertThat(loran("templates", causal, "--train-on", "some", "--chat-template", "gemma")
                        .err())
                .contains("--train-on some is not known");
    }

    /// Of the folder, unless the adapter has learned another.
    @Test
    void aMergedModelHasTheTemplateThatWasLearned() throws IOException {
        Path chats = Files.writeString(folder.resolve("chats.jsonl"), ROW.repeat(4));
        String own = "{% for m in messages %}{{ m.role[0] }} {{ m.content }} !{% endfor %}"
                + "{% if add_generation_prompt %}a {% endif %}";
        String other = own.replace("!", "run");
        Files.writeString(causal.resolve("chat_template.jinja"), own);
        Path typed = Files.writeString(folder.resolve("other.jinja"), other);
        for (String template : List.of(own, other)) {
            Path run = folder.resolve("run");
            Result trained = loran(
                    "train",
                    "--model",
                    causal,
                    "--task",
                    "chat",
                    "--train",
                    chats,
                    "--steps",
                    1,
                    "--max-length",
                    20,
                    "--out",
                    run,
                    "--overwrite",
                    "--chat-template",
                    template.equals(own) ? causal.resolve("chat_template.jinja") : typed);
            assertThat(trained.code()).as(trained.err()).isZero();
            Path merged = folder.resolve("merged-" + template.length());
            Result result = loran("merge", "--model", causal, "--adapter", run, "--out", merged);
            assertThat(result.code()).as(result.err()).isZero();
            assertThat(merged.resolve("chat_template.jinja")).hasContent(template);
            assertThat(result.err().contains("the chat template is that of the adapter, not of " + causal))
                    .isEqualTo(template.equals(other));
        }
    }
}
