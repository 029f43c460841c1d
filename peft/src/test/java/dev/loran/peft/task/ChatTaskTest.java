package dev.loran.peft.task;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.loran.peft.chat.Chat;
import dev.loran.peft.chat.ChatFormat;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.RowForm;
import dev.loran.peft.data.RowSource;
import dev.loran.peft.data.Target;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.io.InputException;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/// The tokenizer is a small one with a template like Qwen 3's, written by transformers; so are the expected ids.
class ChatTaskTest {
    private static final String TWO = "{\"messages\":[{\"role\":\"system\",\"content\":\"Be brief.\"},"
            + "{\"role\":\"user\",\"content\":\"What colour is the sky?\"},"
            + "{\"role\":\"assistant\",\"content\":\"The sky is blue.\"},"
            + "{\"role\":\"user\",\"content\":\"How many legs has a cat?\"},"
            + "{\"role\":\"assistant\",\"content\":\"A cat has four legs.\"}]}";

    /// `apply_chat_template(messages, tokenize=True)`.
    private static final int[] IDS = {
        1, 85, 299, 284, 201, 279, 313, 16, 2, 201, 1, 298, 201, 314, 310, 272, 308, 276, 33, 2, 201, 1, 259, 315, 86,
        201, 281, 276, 272, 320, 16, 2, 201, 1, 298, 201, 280, 89, 318, 278, 273, 301, 275, 33, 2, 201, 1, 259, 315, 86,
        201, 30, 86, 74, 75, 80, 77, 32, 201, 201, 30, 17, 86, 74, 75, 80, 77, 32, 201, 201, 35, 275, 273, 306, 278, 16,
        2, 201
    };

    @TempDir
    Path folder;

    private final Tokenizer tokenizer = Tokenizer.load(fixture());

    private static Path fixture() {
        return Path.of(URI.create(Objects.requireNonNull(ChatTaskTest.class.getResource("/fixtures/chat"))
                .toString()));
    }

    private static Examples read(String rows, Tokenizer by, int maxLength) {
        return Examples.read(
                RowSource.stream(new ByteArrayInputStream(rows.getBytes(StandardCharsets.UTF_8)), "rows"),
                new ChatTask(),
                by,
                Examples.Options.of(maxLength),
                null);
    }

    private Tokenizer with(String template) {
        return tokenizer.withChatFormat(ChatFormat.named(template, null));
    }

    private String learned(Examples rows, int row) {
        int[] ids = rows.ids(row);
        RowForm.Targets targets = new ChatTask().targets(rows, new int[] {row}, ids.length);
        int[] labels = ((Target.Ints) targets.values().getFirst()).values();
        assertThat(Arrays.stream(labels).filter(label -> label != Batch.IGNORE).count())
                .isEqualTo((long) targets.lossTerms());
        for (int i = 0; i < ids.length; i++) {
            assertThat(labels[i]).isIn(ids[i], Batch.IGNORE);
        }
        int[] kept =
                Arrays.stream(labels).filter(label -> label != Batch.IGNORE).toArray();
        assertThat(kept[kept.length - 1]).isEqualTo(2);
        return tokenizer.decode(kept);
    }

    @Test
    void theIdsAreThoseOfTransformersAndTheAnswersAreLearned() {
        Examples rows = read(TWO, tokenizer, 512);
        assertThat(rows.ids(0)).containsExactly(IDS);
        assertThat(rows.target(0)).containsExactly(0, 26, 32, 51, 77);
        assertThat(learned(rows, 0)).isEqualTo("The sky is blue.<think>\n\n</think>\n\nA cat has four legs.");
        ChatFormat last = ChatTask.format(tokenizer).withLastOnly(true);
        assertThat(read(TWO, tokenizer.withChatFormat(last), 512).target(0)).containsExactly(0, 51, 77);
    }

    @Test
    void everyFormOfRowsIsAChat() {
        for (String row : List.of(
                "{\"messages\":[{\"role\":\"user\",\"content\":\"a cat\"},"
                        + "{\"role\":\"assistant\",\"content\":\"blue\"}]}",
                "{\"conversations\":[{\"from\":\"human\",\"value\":\"a cat\"},{\"from\":\"gpt\",\"value\":\"blue\"}]}",
                "{\"instruction\":\"a cat\",\"input\":null,\"output\":\"blue\"}",
                "{\"prompt\":\"a cat\",\"completion\":\"blue\"}")) {
            assertThat(learned(read(row, with("chatml"), 512), 0)).as(row).isEqualTo("blue");
        }
    }

    @Test
    void packedChatsLearnTheSameAnswers() {
        Examples apart = read(TWO.strip() + "\n{\"prompt\":\"a cat\",\"completion\":\"blue\"}", with("chatml"), 512);
        Examples packed = apart.packed();
        assertThat(packed.size()).isEqualTo(1);
        assertThat(packed.ids(0)).hasSize(apart.length(0) + apart.length(1));
        assertThat(learned(packed, 0)).isEqualTo(learned(apart, 0) + learned(apart, 1));
        int[] texts =
                new ChatTask().targets(packed, new int[] {0}, packed.length(0)).texts();
        assertThat(texts).startsWith(1).endsWith(2);
        assertThat(Arrays.stream(texts).filter(text -> text == 1).count()).isEqualTo(apart.length(0));
    }

    @Test
    void theBuiltInTemplatesMarkTheAnswers() {
        Chat chat = Chat.of("u1").with("assistant", "a1 ").with("user", "u2").with("assistant", "a2");
        for (String name : List.of("chatml", "llama3", "gemma", "alpaca")) {
            ChatFormat format = ChatFormat.named(name, fixture());
            ChatFormat.Rendered text = format.rendered(chat);
            String end = Objects.requireNonNullElse(format.turnEnd(), "");
            assertThat(text.learned().stream().map(s -> text.text().substring(s.from(), s.to())))
                    .as(name)
                    .hasSize(2)
                    .allMatch(learned -> learned.startsWith("a") && learned.endsWith(end));
            assertThat(text.text()).startsWith(format.prompt(chat.first(3)));
            assertThat(ChatFormat.of(format.toJson()).rendered(chat)).isEqualTo(text);
        }
    }

    /// The strings of `PROMPT_DICT` in stanford_alpaca's `train.py`, which puts answer and end token behind them.
    @Test
    void alpacaIsThatOfItsProject() {
        ChatFormat format = ChatFormat.named("alpaca", null);
        Chat with = chat("{\"instruction\":\"Name the colour.\",\"input\":\"The sky\",\"output\":\"Blue.\"}");
        assertThat(format.prompt(with.first(1)))
                .isEqualTo("Below is an instruction that describes a task, paired with an input that provides further"
                        + " context. Write a response that appropriately completes the request.\n\n"
                        + "### Instruction:\nName the colour.\n\n### Input:\nThe sky\n\n### Response:");
        Chat without = chat("{\"instruction\":\"Name a colour.\",\"input\":\"\",\"output\":\"Blue.\"}");
        String asked =
                "Below is an instruction that describes a task. Write a response that appropriately completes the"
                        + " request.\n\n### Instruction:\nName a colour.\n\n### Response:";
        assertThat(format.prompt(without.first(1))).isEqualTo(asked);
        ChatFormat.Rendered text = ChatFormat.named("alpaca", fixture()).rendered(without);
        ChatFormat.Span answer = text.learned().getFirst();
        assertThat(text.text().substring(answer.from(), answer.to())).isEqualTo("Blue.<|im_end|>");
        assertThat(format.prompt(
                        chat("{\"system\":\"Be brief.\",\"instruction\":\"Name a colour.\",\"output\":\"Blue.\"}")
                                .first(2)))
                .isEqualTo("Be brief.\n\n### Instruction:\nName a colour.\n\n### Response:");
    }

    private static Chat chat(String row) {
        return ((Row.Chat) RowSource.stream(new ByteArrayInputStream(row.getBytes(StandardCharsets.UTF_8)), "rows")
                        .toList(new ChatTask())
                        .getFirst())
                .chat();
    }

    /// As of Phi 3, which ends only the whole chat by a token of its own.
    @Test
    void anAnswerEndsWhereEachOneEnds() throws IOException {
        Path file = Files.writeString(
                folder.resolve("phi.jinja"),
                "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
                        + "{% if add_generation_prompt %}<|assistant|>\n{% else %}<EOS>{% endif %}");
        Chat chat = Chat.of("u").with("assistant", "a").with("user", "v").with("assistant", "b");
        ChatFormat.Rendered text = ChatFormat.named(file.toString(), null).rendered(chat);
        assertThat(text.learned().stream().map(s -> text.text().substring(s.from(), s.to())))
                .containsExactly("a<|end|>", "b<|end|>");
    }

    @Test
    void aTemplateThatChangesWhatWasAskedIsRefusedWithTheRow() throws IOException {
        Path file = Files.writeString(
                folder.resolve("last.jinja"),
                "{% for m in messages %}{% if m.role == 'user' %}{{ 'last:' if loop.index >= loop.length - 1 }}"
                        + "[{{ m.content }}]{% else %}{{ m.content }}</s>{% endif %}{% endfor %}");
        assertThatThrownBy(() ->
                        read("\n" + TWO.replaceFirst("\\{\"role\":\"system\"[^}]*},", ""), with(file.toString()), 512))
                .isInstanceOf(InputException.class)
                .hasMessageStartingWith("rows:2: the template renders what is before message 2 in another way");
        ChatFormat last = ChatFormat.named(file.toString(), null).withLastOnly(true);
        Examples rows =
                read(TWO.replaceFirst("\\{\"role\":\"system\"[^}]*},", ""), tokenizer.withChatFormat(last), 512);
        assertThat(rows.target(0)).hasSize(3);
    }

    @Test
    void whatIsCutIsSaid() {
        String rows = TWO + "\n{\"prompt\":\"" + "a cat ".repeat(40) + "\",\"completion\":\"blue\"}";
        Examples some = read(rows, tokenizer, 60);
        assertThat(some.size()).isEqualTo(1);
        assertThat(some.ids(0)).hasSize(60);
        assertThat(some.target(0)).containsExactly(0, 26, 32, 51, 60);
        assertThat(some.notices(null))
                .contains(
                        "rows: 1 chats are longer than 60 tokens: their ends were cut",
                        "rows: 1 of 2 rows were left out: their first answer begins after 60 tokens");
    }

    @Test
    void badRowsAreNamed() {
        refused("{\"messages\":[]}", "rows:1: field \"messages\" must be a list of messages");
        refused("{\"messages\":[{\"content\":\"a\"}]}", "rows:1: message 1 of \"messages\" has no \"role\"");
        refused(
                "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}",
                "rows:1: no message is the assistant's: there is nothing to learn");
        refused(
                "{\"conversations\":[{\"from\":\"martian\",\"value\":\"a\"}]}",
                "rows:1: turn 1 of \"conversations\" must have \"from\" (human, gpt, system or tool) and \"value\"");
        refused(
                "{\"prompt\":\"a\"}",
                "rows:1: field \"completion\" is missing, found \"prompt\"; a row of task chat is "
                        + new ChatTask().form());
        assertThatThrownBy(() -> read(TWO, tokenizer.withChatFormat(null), 99))
                .hasMessageContaining("no chat template")
                .hasMessageContaining("--chat-template chatml");
        assertThatThrownBy(() -> ChatFormat.named("nosuch", null)).hasMessageContaining("choose chatml, llama3");
    }

    private void refused(String row, String message) {
        assertThatThrownBy(() -> read(row, tokenizer, 512)).hasMessage(message);
    }
}
