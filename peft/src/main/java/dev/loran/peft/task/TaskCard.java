package dev.loran.peft.task;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.chat.ChatFormat;
import dev.loran.peft.data.Labels;
import dev.loran.peft.io.InputException;
import dev.loran.peft.io.JsonFile;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.Problem;
import dev.loran.peft.task.TextClassifier.Pooling;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/// What an adapter was trained for, in addition to what Hugging Face's files say: `loran.json`.
///
/// @param labels the classes in the order of their ids; null for a task without classes
/// @param pooling how a text becomes one vector to classify
/// @param normalize whether that vector is divided by its Euclidean length
/// @param textPrefix the prefix of every text to classify; usually empty
/// @param maxLength the most tokens of a text; longer ones were truncated
/// @param answerRoom how many of those tokens a prompt left for its answer ([dev.loran.peft.data.Examples#answerRoom]);
///     0 if unspecified
/// @param eosToken the token that was appended to every text; null if unspecified, and for a task that appends none
/// @param base the model that the adapter belongs to; null if unspecified
/// @param chat how chats became text; null if they did not
public record TaskCard(
        Task task,
        @Nullable Labels labels,
        Pooling pooling,
        boolean normalize,
        String textPrefix,
        int maxLength,
        int answerRoom,
        @Nullable String eosToken,
        @Nullable Base base,
        @Nullable ChatFormat chat) {
    public static final String FILE = "loran.json";

    public TaskCard {
        task.check(labels);
    }

    /// A card for classification into `labels` with mean pooling.
    public static TaskCard classify(Labels labels, int maxLength) {
        return of(new ClassifyTask(), labels, maxLength).withPooling(Pooling.MEAN);
    }

    /// A card for a task without classes.
    public static TaskCard of(Task task, int maxLength) {
        return of(task, null, maxLength);
    }

    /// A card for a task, with its classes if it has any.
    public static TaskCard of(Task task, @Nullable Labels labels, int maxLength) {
        return new TaskCard(task, labels, Pooling.LAST, false, "", maxLength, 0, null, null, null);
    }

    public TaskCard withTask(Task next) {
        return new TaskCard(next, labels, pooling, normalize, textPrefix, maxLength, answerRoom, eosToken, base, chat);
    }

    public TaskCard withPooling(Pooling next) {
        return withPooling(next, false);
    }

    public TaskCard withPooling(Pooling next, boolean normalized) {
        return new TaskCard(task, labels, next, normalized, textPrefix, maxLength, answerRoom, eosToken, base, chat);
    }

    public TaskCard withLabels(@Nullable Labels classes) {
        return new TaskCard(task, classes, pooling, normalize, textPrefix, maxLength, answerRoom, eosToken, base, chat);
    }

    public TaskCard withTextPrefix(String prefix) {
        return new TaskCard(task, labels, pooling, normalize, prefix, maxLength, answerRoom, eosToken, base, chat);
    }

    public TaskCard withMaxLength(int tokens) {
        return new TaskCard(task, labels, pooling, normalize, textPrefix, tokens, answerRoom, eosToken, base, chat);
    }

    public TaskCard withBase(@Nullable Base model) {
        return new TaskCard(task, labels, pooling, normalize, textPrefix, maxLength, answerRoom, eosToken, model, chat);
    }

    /// Sets how prompts and answers were read: see the components `answerRoom` and `eosToken`.
    public TaskCard withAnswers(int room, @Nullable String end) {
        return new TaskCard(task, labels, pooling, normalize, textPrefix, maxLength, room, end, base, chat);
    }

    /// Sets how chats became text.
    public TaskCard withChat(ChatFormat format) {
        return new TaskCard(
                task, labels, pooling, normalize, textPrefix, maxLength, answerRoom, eosToken, base, format);
    }

    /// A base model: the name that the user gave, and [dev.loran.peft.model.Model#sha256] of its weights.
    public record Base(String name, String sha256) {}

    /// Refuses a base model that is not the one the adapter was trained on.
    ///
    /// @throws InputException that names both
    public void requireBase(Base model, Path adapter) {
        if (base != null && !base.sha256.equals(model.sha256)) {
            throw new InputException("%s: the adapter was trained on %s (SHA-256 %.12s…), not on %s (SHA-256 %.12s…)"
                    .formatted(adapter, base.name, base.sha256, model.name, model.sha256));
        }
    }

    /// Records in a model what its own head gives: the names of the classes, and their [Problem].
    public void describe(Model model) {
        Problem problem = task.problem(labels);
        if (model.classifier() == null || problem == null) {
            return;
        }
        if (labels != null && model.labels().size() == labels.size()) {
            model.labels(labels.names());
        }
        model.problem(problem);
    }

    // ---- the file

    /// Whether `folder` holds a card.
    public static boolean isIn(Path folder) {
        return Files.isRegularFile(folder.resolve(FILE));
    }

    /// Reads the card in `folder`.
    ///
    /// @throws InputException if there is none, or it is damaged
    public static TaskCard read(Path folder) {
        Path file = folder.resolve(FILE);
        if (!isIn(folder)) {
            throw new InputException(file
                    + ": no such file; it says what the adapter was trained for; "
                    + "name the folder of a run, or its best/");
        }
        ObjectNode json = JsonFile.read(file);
        JsonNode base = json.path("base");
        List<String> names = new ArrayList<>();
        json.path("labels").forEach(label -> names.add(label.asText()));
        Map<String, String> settings = new LinkedHashMap<>();
        json.path("settings")
                .properties()
                .forEach(e -> settings.put(e.getKey(), e.getValue().asText()));
        boolean several = json.path(Problem.KEY).asText().equals(Problem.MULTI_LABEL.value());
        try {
            return new TaskCard(
                    Task.named(json.path("task").asText()).with(settings),
                    names.isEmpty() ? null : new Labels(names, several),
                    Pooling.named(json.path("pooling").asText()),
                    json.path("normalize").asBoolean(),
                    json.path("text_prefix").asText(""),
                    json.path("max_length").asInt(),
                    json.path("answer_room").asInt(),
                    json.path("eos_token").isTextual() ? json.path("eos_token").textValue() : null,
                    base.isObject()
                            ? new Base(
                                    base.path("name").asText(),
                                    base.path("sha256").asText())
                            : null,
                    json.path("chat").isObject() ? ChatFormat.of(json.path("chat")) : null);
        } catch (InputException e) {
            throw new InputException(file + ": " + e.getMessage(), e);
        }
    }

    /// Writes the card into `folder` atomically.
    public void write(Path folder) {
        JsonFile.write(folder.resolve(FILE), toJson());
    }

    /// The contents of the file.
    public ObjectNode toJson() {
        ObjectNode json = JsonNodeFactory.instance.objectNode().put("task", task.name());
        if (!task.settings().isEmpty()) {
            task.settings().forEach(json.putObject("settings")::put);
        }
        if (labels != null) {
            labels.names().forEach(json.putArray("labels")::add);
            if (labels.several()) {
                json.put(Problem.KEY, Problem.MULTI_LABEL.value());
            }
            double[] weights = labels.weights();
            if (weights != null) {
                Arrays.stream(weights).forEach(json.putArray("class_weights")::add);
            }
        }
        json.put("pooling", pooling.toString());
        if (normalize) {
            json.put("normalize", true);
        }
        json.put("text_prefix", textPrefix).put("max_length", maxLength);
        if (answerRoom > 0) {
            json.put("answer_room", answerRoom);
        }
        if (eosToken != null) {
            json.put("eos_token", eosToken);
        }
        if (base != null) {
            json.putObject("base").put("name", base.name).put("sha256", base.sha256);
        }
        if (chat != null) {
            json.set("chat", chat.toJson());
        }
        return json;
    }
}
