package dev.loran.peft.chat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.io.InputException;
import dev.loran.peft.io.JsonFile;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.DateTimeException;
import java.time.LocalDate;
import java.time.ZoneId;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/// How chats become text: a model's own template or a built-in one, the special tokens that it may write, the day that
/// it sees, and which answers are learned.
///
/// The parts of a text that are learned are those that the template marks by `{% generation %}`. Of other templates,
/// an answer begins where the chat before it ends, rendered with the prompt for an answer, and includes what the
/// template puts after each answer, such as `<|im_end|>`. Both are checked: a template that renders a message in
/// another way once others follow is refused, unless only the last answer is learned.
///
/// **Threads**: safe from any number of threads.
public final class ChatFormat {
    private static final String OWN = "chat_template";
    /// Put behind a text to find it in what is rendered.
    private static final String MARK = "\ue000";

    private final ObjectNode templates;
    private final ObjectNode tokens;
    private final LocalDate day;
    private final boolean lastOnly;
    private final Map<String, Object> parsed = new HashMap<>();
    private final @Nullable String turnEnd;

    /// A part of a text, from one char to before another.
    public record Span(int from, int to) {}

    /// A chat as text.
    ///
    /// @param learned the parts that are learned, in order, which do not overlap
    public record Rendered(String text, List<Span> learned) {
        public Rendered {
            learned = List.copyOf(learned);
        }
    }

    private ChatFormat(ObjectNode templates, ObjectNode tokens, LocalDate day, boolean lastOnly) {
        this.templates = templates;
        this.tokens = tokens;
        this.day = day;
        this.lastOnly = lastOnly;
        // A template that cannot be read is a problem only for those who use it.
        for (Map.Entry<String, JsonNode> e : templates.properties()) {
            String name = templates.size() == 1 ? OWN : OWN + " " + e.getKey();
            try {
                parsed.put(e.getKey(), new Template(name, e.getValue().asText()));
            } catch (TemplateException problem) {
                parsed.put(e.getKey(), problem);
            }
        }
        this.turnEnd = findTurnEnd();
    }

    // ---- where formats come from

    /// The format of a folder's tokenizer: `chat_template.jinja`, or `chat_template` in `tokenizer_config.json`; null
    /// if it has none.
    ///
    /// @throws InputException if a file is damaged
    public static @Nullable ChatFormat read(Path folder) {
        ObjectNode templates = JsonNodeFactory.instance.objectNode();
        Path file = folder.resolve("chat_template.jinja");
        JsonNode known = config(folder).path(OWN);
        if (Files.isRegularFile(file)) {
            templates.put("default", text(file));
        } else if (known.isTextual()) {
            templates.put("default", known.textValue());
        } else {
            known.forEach(each -> templates.put(
                    each.path("name").asText(), each.path("template").asText()));
        }
        return templates.isEmpty()
                ? null
                : new ChatFormat(templates, tokens(folder), LocalDate.now(ZoneId.systemDefault()), false);
    }

    /// A built-in format (chatml, llama3, gemma or alpaca), or that in a file.
    ///
    /// @param folder whose tokenizer's special tokens are used
    /// @throws InputException if there is neither
    public static ChatFormat named(String name, @Nullable Path folder) {
        String source = BuiltIn.TEMPLATES.get(name);
        if (source == null && !Files.isRegularFile(Path.of(name))) {
            throw new InputException("chat template \"" + name + "\" is not known; choose "
                    + String.join(", ", BuiltIn.TEMPLATES.keySet()) + ", or name a file with one");
        }
        ObjectNode templates = JsonNodeFactory.instance.objectNode();
        templates.put("default", source == null ? text(Path.of(name)) : source);
        ObjectNode tokens = folder == null ? JsonNodeFactory.instance.objectNode() : tokens(folder);
        ChatFormat format = new ChatFormat(templates, tokens, LocalDate.now(ZoneId.systemDefault()), false);
        format.template(null);
        return format;
    }

    /// The format that [#toJson] wrote.
    public static ChatFormat of(JsonNode json) {
        try {
            return new ChatFormat(
                    json.path("templates").deepCopy(),
                    json.path("special_tokens").deepCopy(),
                    LocalDate.parse(json.path("day").asText()),
                    json.path("train_on").asText().equals("last"));
        } catch (DateTimeException | ClassCastException e) {
            throw new InputException("the chat format is damaged (" + e.getMessage() + ")", e);
        }
    }

    public ObjectNode toJson() {
        ObjectNode json = JsonNodeFactory.instance.objectNode();
        json.set("templates", templates);
        json.set("special_tokens", tokens);
        return json.put("day", day.toString()).put("train_on", lastOnly ? "last" : "all");
    }

    /// Whether both render chats by the same templates.
    public boolean hasTemplatesOf(@Nullable ChatFormat other) {
        return other != null && templates.equals(other.templates);
    }

    /// Writes the template for chats without tools into a model's folder, as `chat_template.jinja`, which takes
    /// precedence over what the folder's other files say.
    public void write(Path folder) {
        template(null);
        try {
            Files.writeString(
                    folder.resolve("chat_template.jinja"),
                    templates.path("default").asText());
        } catch (IOException e) {
            throw InputException.io(folder, "the chat template cannot be written", e);
        }
    }

    /// @param next the day that the template sees as today
    public ChatFormat withDay(LocalDate next) {
        return new ChatFormat(templates, tokens, next, lastOnly);
    }

    /// @param last whether only the last answer of a chat is learned, rather than each
    public ChatFormat withLastOnly(boolean last) {
        return new ChatFormat(templates, tokens, day, last);
    }

    private static String text(Path file) {
        try {
            return Files.readString(file);
        } catch (IOException e) {
            throw InputException.io(file, "cannot be read", e);
        }
    }

    private static ObjectNode config(Path folder) {
        Path file = folder.resolve("tokenizer_config.json");
        return Files.isRegularFile(file) ? JsonFile.read(file) : JsonNodeFactory.instance.objectNode();
    }

    private static ObjectNode tokens(Path folder) {
        ObjectNode tokens = JsonNodeFactory.instance.objectNode();
        Path map = folder.resolve("special_tokens_map.json");
        List<ObjectNode> files = new ArrayList<>();
        if (Files.isRegularFile(map)) {
            files.add(JsonFile.read(map));
        }
        files.add(config(folder));
        for (ObjectNode file : files) {
            file.properties().forEach(e -> {
                JsonNode token =
                        e.getValue().path("content").isTextual() ? e.getValue().path("content") : e.getValue();
                if (e.getKey().endsWith("_token") && token.isTextual()) {
                    tokens.put(e.getKey(), token.textValue());
                }
            });
        }
        return tokens;
    }

    // ---- use

    /// A chat as text, with the parts that are learned.
    ///
    /// @throws TemplateException if the template refuses the chat, or what is learned cannot be told
    public Rendered rendered(Chat chat) {
        if (chat.lastAnswer() < 0) {
            throw new TemplateException("no message is the assistant's: there is nothing to learn");
        }
        Template.Rendered all = render(chat, false);
        List<Span> answers = new ArrayList<>();
        if (template(chat.tools()).generates()) {
            all.generated().forEach(span -> answers.add(new Span(span.from(), span.to())));
        } else {
            for (int i = lastOnly ? chat.lastAnswer() : 0; i < chat.size(); i++) {
                if (chat.isAnswer(i)) {
                    answers.add(answer(chat, i, all.text()));
                }
            }
        }
        if (answers.isEmpty()) {
            throw new TemplateException("the template marks nothing as generated");
        }
        return new Rendered(all.text(), lastOnly ? List.of(answers.getLast()) : answers);
    }

    /// The text that asks for the next answer.
    ///
    /// @throws TemplateException if the template refuses the chat
    public String prompt(Chat chat) {
        return render(chat, true).text();
    }

    /// What the template puts after each answer, such as `<|im_end|>`, without white space at its end; null if it
    /// cannot be told.
    public @Nullable String turnEnd() {
        return turnEnd;
    }

    private Template template(@Nullable JsonNode tools) {
        Object found = tools != null && parsed.containsKey("tool_use") ? parsed.get("tool_use") : parsed.get("default");
        if (found instanceof Template template) {
            return template;
        }
        throw found instanceof TemplateException problem
                ? problem
                : new TemplateException("none of the chat templates is named default");
    }

    private Template.Rendered render(Chat chat, boolean prompt) {
        Map<String, Object> variables = new LinkedHashMap<>();
        tokens.properties().forEach(e -> variables.put(e.getKey(), e.getValue().asText()));
        variables.put("messages", Values.of(chat.messages()));
        variables.put("tools", chat.tools() == null ? Values.None.NONE : Values.of(chat.tools()));
        variables.put("documents", Values.None.NONE);
        variables.put("add_generation_prompt", prompt);
        return template(chat.tools()).render(variables, day.atStartOfDay());
    }

    /// The place of an answer in the text of its chat.
    private Span answer(Chat chat, int i, String all) {
        String before = prompt(chat.first(i));
        if (!all.startsWith(before)) {
            throw new TemplateException(("the template renders what is before message %d in another way once it is"
                            + " answered, so that the answer cannot be learned as it would be asked for; %s")
                    .formatted(i + 1, i < chat.lastAnswer() ? "learn the last answers only" : "use another template"));
        }
        int end = markedEnd(chat, i, all);
        if (end < 0) {
            String until = render(chat.first(i + 1), false).text();
            end = all.startsWith(until) ? until.stripTrailing().length() : -1;
        }
        if (end < before.length()) {
            throw new TemplateException("the template renders message %d in a way in which its end cannot be found; %s"
                    .formatted(i + 1, i < chat.lastAnswer() ? "learn the last answers only" : "use another template"));
        }
        return new Span(before.length(), end);
    }

    /// The end of an answer with what follows each, found by a mark behind its text; −1 if it is not there.
    private int markedEnd(Chat chat, int i, String all) {
        String text = chat.text(i).stripTrailing();
        if (turnEnd == null || text.isEmpty()) {
            return -1;
        }
        String marked = render(chat.withText(i, text + MARK + chat.text(i).substring(text.length())), false)
                .text();
        int at = marked.indexOf(MARK);
        boolean found = at >= 0 && marked.replace(MARK, "").equals(all);
        // White space behind the text may be a part of it.
        int end = found ? all.indexOf(turnEnd, at) : -1;
        return end >= 0 && all.substring(at, end).isBlank() ? end + turnEnd.length() : -1;
    }

    /// What is behind an answer both at the end of a chat and before another message.
    private @Nullable String findTurnEnd() {
        try {
            Chat two = Chat.of("a").with("assistant", "b" + MARK);
            String last = render(two, false).text();
            String more = render(two.with("user", "c"), false).text();
            String one = last.substring(last.indexOf(MARK) + 1);
            String other = more.substring(more.indexOf(MARK) + 1);
            int same = 0;
            while (same < Math.min(one.length(), other.length()) && one.charAt(same) == other.charAt(same)) {
                same++;
            }
            boolean whole = same == one.length() || same == other.length();
            // Different tokens may begin alike.
            String end = one.substring(0, same).replaceFirst(whole ? "\\s+$" : "\\s*(<[^>]*)?$", "");
            return end.isEmpty() ? null : end;
        } catch (TemplateException e) {
            return null;
        }
    }

    /// Templates for models that have none.
    private static final class BuiltIn {
        static final Map<String, String> TEMPLATES = new LinkedHashMap<>();

        static {
            TEMPLATES.put("chatml", """
                    {%- for message in messages -%}
                    {{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
                    {%- endfor -%}
                    {%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
                    """);
            TEMPLATES.put("llama3", """
                    {{- bos_token -}}
                    {%- for message in messages -%}
                    {{ '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}
                    {{- message.content | trim + '<|eot_id|>' }}
                    {%- endfor -%}
                    {%- if add_generation_prompt -%}
                    {{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
                    {%- endif -%}
                    """);
            TEMPLATES.put("gemma", """
                    {{- bos_token -}}
                    {%- set ns = namespace(system='') -%}
                    {%- for message in messages -%}
                    {%- if message.role == 'system' -%}
                    {%- set ns.system = message.content + '\\n\\n' -%}
                    {%- else -%}
                    {{ '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\\n' }}
                    {{- ns.system + message.content | trim + '<end_of_turn>\\n' }}
                    {%- set ns.system = '' -%}
                    {%- endif -%}
                    {%- endfor -%}
                    {%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif -%}
                    """);
            // The prompts of https://github.com/tatsu-lab/stanford_alpaca; a system message replaces their first
            // sentences, and further instructions have none.
            TEMPLATES.put("alpaca", """
                    {{- bos_token -}}
                    {%- set ns = namespace(begun=false) -%}
                    {%- for message in messages -%}
                    {%- if message.role == 'assistant' -%}
                    {{ '### Response:' + message.content + eos_token + '\\n\\n' }}
                    {%- elif message.role == 'user' -%}
                    {%- if not ns.begun -%}
                    {{ 'Below is an instruction that describes a task' }}
                    {%- if message.input %}{{ ', paired with an input that provides further context' }}{% endif -%}
                    {{ '. Write a response that appropriately completes the request.\\n\\n' }}
                    {%- endif -%}
                    {{ '### Instruction:\\n' + (message.instruction if message.input else message.content) + '\\n\\n' }}
                    {%- if message.input %}{{ '### Input:\\n' + message.input + '\\n\\n' }}{% endif -%}
                    {%- set ns.begun = true -%}
                    {%- else -%}
                    {{ message.content + '\\n\\n' }}
                    {%- set ns.begun = true -%}
                    {%- endif -%}
                    {%- endfor -%}
                    {%- if add_generation_prompt %}{{ '### Response:' }}{% endif -%}
                    """);
        }
    }
}
