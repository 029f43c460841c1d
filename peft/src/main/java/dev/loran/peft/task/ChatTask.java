package dev.loran.peft.task;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.chat.Chat;
import dev.loran.peft.chat.ChatFormat;
import dev.loran.peft.chat.TemplateException;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.Encoding;
import dev.loran.peft.data.Example;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.Fields;
import dev.loran.peft.data.Labels;
import dev.loran.peft.data.Row;
import dev.loran.peft.data.RowForm;
import dev.loran.peft.data.Target;
import dev.loran.peft.data.Tokenizer;
import dev.loran.peft.generation.GenerationConfig;
import dev.loran.peft.io.InputException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;

/// `chat`: the assistant's part in a chat, each answer or only the last ([ChatFormat#withLastOnly]). Rows are
/// [Row.Chat]s. The text is that of the tokenizer's [ChatFormat], its ids those of the whole text; the loss is that of
/// the ids of the answers with what the template puts after them. A token that reaches into an answer is learned with
/// it.
///
/// The target of an example is the number of its row, then for each answer its first id and the one after its last;
/// where chats are joined, that of each is the negative number of its ids, then its answers.
public record ChatTask() implements CausalTask {
    private static final Map<String, String> SPEAKERS = Map.ofEntries(
            Map.entry("human", "user"),
            Map.entry("user", "user"),
            Map.entry("gpt", "assistant"),
            Map.entry("assistant", "assistant"),
            Map.entry("model", "assistant"),
            Map.entry("chatgpt", "assistant"),
            Map.entry("system", "system"),
            Map.entry("tool", "tool"),
            Map.entry("observation", "tool"));

    @Override
    public String name() {
        return "chat";
    }

    @Override
    public String form() {
        return "{\"messages\":[{\"role\",\"content\"},…]}, {\"conversations\":[{\"from\",\"value\"},…]}, "
                + "{\"prompt\",\"completion\"} or {\"instruction\",\"input\",\"output\"}";
    }

    @Override
    public List<String> fields() {
        return List.of(
                "messages",
                "tools",
                "conversations",
                "system",
                "prompt",
                "completion",
                "instruction",
                "input",
                "output");
    }

    // ---- rows

    @Override
    public Row row(Fields fields) {
        Chat chat = chat(fields, true);
        if (chat.lastAnswer() < 0) {
            throw fields.bad("no message is the assistant's: there is nothing to learn");
        }
        return new Row.Chat(chat);
    }

    /// The chat in a row.
    ///
    /// @param answered whether it needs an answer
    static Chat chat(Fields fields, boolean answered) {
        if (fields.has("messages")) {
            return new Chat(messages(fields, "messages"), tools(fields));
        }
        if (fields.has("conversations")) {
            return new Chat(turns(fields), tools(fields));
        }
        Chat start = new Chat(JsonNodeFactory.instance.arrayNode(), tools(fields));
        String system = fields.stringOrEmpty("system");
        start = system.isBlank() ? start : start.with("system", system);
        boolean instruction = fields.has("instruction");
        String input = instruction ? fields.stringOrEmpty("input") : "";
        String question = fields.text(instruction ? "instruction" : fields.has("text") ? "text" : "prompt");
        Chat asked = start.with("user", input.isBlank() ? question : question + "\n" + input);
        if (!input.isBlank() && asked.messages().get(asked.size() - 1) instanceof ObjectNode message) {
            // For templates that tell them apart, such as alpaca.
            message.put("instruction", question).put("input", input);
        }
        String answer = instruction ? "output" : "completion";
        return answered ? asked.with("assistant", fields.text(answer)) : asked;
    }

    /// A field with messages.
    static ArrayNode messages(Fields fields, String field) {
        if (!(fields.json(field) instanceof ArrayNode all) || all.isEmpty()) {
            throw fields.bad("field \"" + field + "\" must be a list of messages");
        }
        for (int i = 0; i < all.size(); i++) {
            JsonNode content = all.get(i).path("content");
            if (!all.get(i).path("role").isTextual()) {
                throw fields.bad("message %d of \"%s\" has no \"role\"".formatted(i + 1, field));
            }
            if (!content.isTextual() && !content.isArray() && !all.get(i).has("tool_calls")) {
                throw fields.bad("message %d of \"%s\" has no \"content\"".formatted(i + 1, field));
            }
        }
        return all;
    }

    private static ArrayNode turns(Fields fields) {
        if (!(fields.json("conversations") instanceof ArrayNode all) || all.isEmpty()) {
            throw fields.bad("field \"conversations\" must be a list of turns");
        }
        ArrayNode messages = JsonNodeFactory.instance.arrayNode();
        for (int i = 0; i < all.size(); i++) {
            String role = role(all.get(i));
            if (role.isEmpty() || !all.get(i).path("value").isTextual()) {
                throw fields.bad(
                        "turn %d of \"conversations\" must have \"from\" (human, gpt, system or tool) and \"value\""
                                .formatted(i + 1));
            }
            ObjectNode message = messages.addObject().put("role", role);
            message.put("content", all.get(i).path("value").textValue());
        }
        return messages;
    }

    /// Who says a message: its `role`, or the one that ShareGPT's `from` stands for; empty if neither says it.
    public static String role(JsonNode message) {
        return message.has("role")
                ? message.path("role").asText()
                : SPEAKERS.getOrDefault(message.path("from").asText(), "");
    }

    static @Nullable JsonNode tools(Fields fields) {
        JsonNode tools = fields.has("tools") ? fields.json("tools") : JsonNodeFactory.instance.nullNode();
        if (tools.isNull() || tools.isEmpty()) {
            return null;
        }
        if (!tools.isArray()) {
            throw fields.bad("field \"tools\" must be a list of tools");
        }
        return tools;
    }

    // ---- ids

    /// The format of a tokenizer.
    ///
    /// @throws InputException if it has none
    public static ChatFormat format(Tokenizer tokenizer) {
        ChatFormat format = tokenizer.chatFormat();
        if (format == null) {
            throw new InputException("the model's folder has no chat template; name one that its texts shall have: "
                    + "--chat-template chatml, llama3, gemma or alpaca, or a file");
        }
        return format;
    }

    /// A text as ids, with the parts that are learned.
    ///
    /// @param spans for each part its first id and the one after its last
    record Ids(int[] ids, int[] spans) {
        static Ids of(Tokenizer tokenizer, ChatFormat.Rendered chat) {
            int[] ids = tokenizer.body(chat.text());
            int[] spans = new int[2 * chat.learned().size()];
            for (int i = 0; i < chat.learned().size(); i++) {
                ChatFormat.Span span = chat.learned().get(i);
                spans[2 * i] = place(tokenizer, ids, chat.text().substring(0, span.from()), 0);
                spans[2 * i + 1] = place(tokenizer, ids, chat.text().substring(0, span.to()), 1);
            }
            return new Ids(ids, spans);
        }

        /// A chat up to the end of its last answer, which is the part that is learned.
        static Ids ofLastAnswer(Tokenizer tokenizer, ChatFormat format, Chat chat) {
            ChatFormat.Rendered all = format.withLastOnly(true).rendered(chat);
            ChatFormat.Span answer = all.learned().getLast();
            return of(tokenizer, new ChatFormat.Rendered(all.text().substring(0, answer.to()), List.of(answer)));
        }

        /// The number of ids of the text's start.
        ///
        /// @param across 1 to count a token that reaches beyond it
        private static int place(Tokenizer tokenizer, int[] ids, String start, int across) {
            int[] own = tokenizer.body(start);
            int same = Arrays.mismatch(own, ids);
            return same < 0 || same == own.length ? own.length : Math.min(ids.length, same + across);
        }

        /// The first `most` ids.
        Ids cut(int most) {
            int[] kept = IntStream.range(0, spans.length / 2)
                    .filter(i -> spans[2 * i] < most)
                    .flatMap(i -> IntStream.of(spans[2 * i], Math.min(most, spans[2 * i + 1])))
                    .toArray();
            return new Ids(Arrays.copyOf(ids, Math.min(most, ids.length)), kept);
        }
    }

    @Override
    public Encoding encoding(Tokenizer tokenizer, Examples.Options options, @Nullable Labels labels) {
        LmTask.refuseConcatenation(this, options);
        return new Chats(tokenizer, format(tokenizer), options.maxLength());
    }

    private static final class Chats implements Encoding {
        private final Tokenizer tokenizer;
        private final ChatFormat format;
        private final int maxLength;
        private int rows;

        Chats(Tokenizer tokenizer, ChatFormat format, int maxLength) {
            this.tokenizer = tokenizer;
            this.format = format;
            this.maxLength = maxLength;
        }

        @Override
        public void add(Row row, Sink out) {
            if (!(row instanceof Row.Chat(Chat chat))) {
                throw out.bad("a row of another form, " + row.getClass().getSimpleName() + ", among rows of task chat");
            }
            Ids whole;
            try {
                ChatFormat.Rendered text = format.rendered(chat);
                whole = Ids.of(tokenizer, text);
                out.note(text.text(), "", whole.ids, 0);
            } catch (TemplateException e) {
                throw out.bad(e.problem());
            }
            Ids kept = whole.cut(maxLength);
            int place = rows++;
            if (kept.spans.length == 0) {
                out.leftOut("their first answer begins after %d tokens".formatted(maxLength));
                return;
            }
            int[] target = IntStream.concat(IntStream.of(place), Arrays.stream(kept.spans))
                    .toArray();
            boolean cut = kept.ids.length < whole.ids.length;
            out.example(new Example(List.of(new Example.Text(kept.ids, null)), target, cut));
        }
    }

    @Override
    public Targets targets(Examples examples, int[] rows, int length) {
        int[] labels = new int[rows.length * length];
        int[] texts = new int[rows.length * length];
        Arrays.fill(labels, Batch.IGNORE);
        int terms = 0;
        for (int b = 0; b < rows.length; b++) {
            int[] ids = examples.ids(rows[b]);
            int[] target = examples.target(rows[b]);
            int row = b * length;
            int start = 0;
            int end = 0;
            int text = 0;
            for (int i = 0; i < target.length; ) {
                if (i == 0 || target[i] < 0) {
                    start = end;
                    end = target[i] < 0 ? start - target[i] : ids.length;
                    Arrays.fill(texts, row + start, row + end, ++text);
                    i++;
                } else {
                    // Nothing predicts the first id of a text.
                    int from = Math.max(start + 1, target[i]);
                    int count = Math.max(0, target[i + 1] - from);
                    System.arraycopy(ids, from, labels, row + from, count);
                    terms += count;
                    i += 2;
                }
            }
        }
        List<Target> next = List.of(new Target.Ints(labels, rows.length, length));
        return new Targets(next, terms, examples.isPacked() ? texts : null);
    }

    @Override
    public Example join(List<Example> rows) {
        IntStream.Builder target = IntStream.builder();
        int start = 0;
        for (Example row : rows) {
            int length = row.texts().getFirst().ids().length;
            target.add(-length);
            for (int i = 1; i < row.target().length; i++) {
                target.add(start + row.target()[i]);
            }
            start += length;
        }
        return Example.of(CausalTask.ids(rows), null, target.build().toArray());
    }

    @Override
    public Example dummy(int length) {
        return Example.of(new int[length], null, 0, 0, length);
    }

    @Override
    public String cut(Examples.Options options) {
        return "chats are longer than %d tokens: their ends were cut".formatted(options.maxLength());
    }

    @Override
    public TaskCard card(Examples train, Tokenizer tokenizer, int maxLength) {
        return CausalTask.super.card(train, tokenizer, maxLength).withChat(format(tokenizer));
    }

    // ---- answers

    @Override
    public RowForm prompts() {
        return new Prompts();
    }

    /// Answers end where the template ends them.
    @Override
    public GenerationConfig ending(GenerationConfig config, Tokenizer tokenizer) {
        String end = format(tokenizer).turnEnd();
        if (end == null) {
            return config;
        }
        int[] ids = tokenizer.body(end);
        if (ids.length == 1) {
            List<Integer> ends = new ArrayList<>(config.eosTokenIds());
            ends.add(ids[0]);
            return config.withEosTokenIds(ends);
        }
        List<String> ends = new ArrayList<>(config.stopStrings());
        ends.add(end.strip());
        return config.withStopStrings(ends);
    }

    /// The metrics of [GenerateTask#answers], for the last answer of each chat.
    @Override
    public Map<String, Double> answers(Answering with) {
        Examples rows = with.examples();
        List<int[]> prompts = new ArrayList<>();
        List<Row.Generate> asked = new ArrayList<>();
        int longest = 1;
        for (int row = 0; row < rows.size(); row++) {
            int[] target = rows.target(row);
            int last = target[target.length - 2];
            prompts.add(Arrays.copyOf(rows.ids(row), last));
            longest = Math.max(longest, target[target.length - 1] - last);
            Chat chat = ((Row.Chat) with.rows().get(target[0])).chat();
            int answer = chat.lastAnswer();
            asked.add(new Row.Generate(answer == 0 ? "" : chat.text(answer - 1), chat.text(answer)));
        }
        GenerationConfig config = ending(
                with.generation().withMaxNewTokens(with.maxNewTokens() > 0 ? with.maxNewTokens() : longest),
                with.tokenizer());
        return GenerateTask.measured(with, prompts, asked, config);
    }

    /// Rows to answer: as those of `chat`, or with `text`, or with messages of which the last is not answered yet. A chat
    /// is never cut.
    record Prompts() implements RowForm {
        @Override
        public String name() {
            return "chat";
        }

        @Override
        public String form() {
            return "{\"messages\"}, {\"conversations\"}, {\"prompt\"}, {\"instruction\",\"input\"} or {\"text\"}";
        }

        @Override
        public List<String> fields() {
            return List.of("messages", "tools", "conversations", "system", "prompt", "instruction", "input", "text");
        }

        /// A last answer is not a part of the prompt.
        @Override
        public Row row(Fields fields) {
            Chat chat =
                    fields.isList("prompt") ? new Chat(messages(fields, "prompt"), tools(fields)) : chat(fields, false);
            boolean answered = chat.size() > 1 && chat.isAnswer(chat.size() - 1);
            return new Row.Chat(answered ? chat.first(chat.size() - 1) : chat);
        }

        @Override
        public Encoding encoding(Tokenizer tokenizer, Examples.Options options, @Nullable Labels labels) {
            return (row, out) -> {
                Chat chat = row instanceof Row.Chat(Chat given) ? given : Chat.of(((Row.Unlabelled) row).text());
                try {
                    out.example(Example.of(tokenizer.body(format(tokenizer).prompt(chat)), null));
                } catch (TemplateException e) {
                    throw out.bad(e.problem());
                }
            };
        }
    }

    @Override
    public String toString() {
        return name();
    }
}
