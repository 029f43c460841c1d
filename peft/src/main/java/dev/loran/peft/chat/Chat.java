package dev.loran.peft.chat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import org.jspecify.annotations.Nullable;

/// Messages between a user and an assistant, in the form of Hugging Face: objects with `role` and `content`, and
/// whatever else a template reads, such as `tool_calls`.
///
/// @param tools descriptions of functions that the assistant may call; null for none
public record Chat(ArrayNode messages, @Nullable JsonNode tools) {
    /// A chat that a user begins.
    public static Chat of(String user) {
        return new Chat(JsonNodeFactory.instance.arrayNode(), null).with("user", user);
    }

    /// This chat with one more message.
    public Chat with(String role, String content) {
        ArrayNode all = messages.deepCopy();
        all.addObject().put("role", role).put("content", content);
        return new Chat(all, tools);
    }

    /// The number of messages.
    public int size() {
        return messages.size();
    }

    /// The first messages.
    public Chat first(int count) {
        ArrayNode some = JsonNodeFactory.instance.arrayNode();
        for (int i = 0; i < count; i++) {
            some.add(messages.get(i));
        }
        return new Chat(some, tools);
    }

    /// Whether a message is the assistant's.
    public boolean isAnswer(int message) {
        return messages.get(message).path("role").asText().equals("assistant");
    }

    /// The last message of the assistant; −1 for none.
    public int lastAnswer() {
        int last = size() - 1;
        while (last >= 0 && !isAnswer(last)) {
            last--;
        }
        return last;
    }

    /// The text of a message; empty if it has none.
    public String text(int message) {
        return messages.get(message).path("content").asText("");
    }

    /// This chat with another text in a message.
    Chat withText(int message, String text) {
        ArrayNode all = messages.deepCopy();
        ((ObjectNode) all.get(message)).put("content", text);
        return new Chat(all, tools);
    }
}
