package dev.loran.peft.task;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.io.InputException;
import dev.loran.peft.io.JsonFile;
import dev.loran.peft.task.TextClassifier.Pooling;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.InvalidPathException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.jspecify.annotations.Nullable;

/// How a text becomes one vector, as in the files of sentence-transformers: `modules.json`, which lists what
/// follows the transformer, and the `config.json` of its pooling module, usually in `1_Pooling`.
///
/// @param normalize whether the vector is divided by its Euclidean length
public record SentencePooling(Pooling pooling, boolean normalize) {
    private static final String MODULES = "modules.json";
    private static final String USUAL = "1_Pooling";
    private static final String ADVICE = "; say --pooling to choose one of your own";
    private static final String MODE = "pooling_mode_";
    private static final String PROMPTS_FILE = "config_sentence_transformers.json";
    private static final String PROMPTS = "prompts";
    private static final String DEFAULT_PROMPT = "default_prompt_name";
    private static final Map<String, Pooling> MODES = new TreeMap<>(Map.of(
            "cls_token", Pooling.CLS,
            "mean_tokens", Pooling.MEAN,
            "max_tokens", Pooling.MAX,
            "mean_sqrt_len_tokens", Pooling.MEAN_SQRT_LEN,
            "lasttoken", Pooling.LAST));

    /// The pooling that the files in `folder` specify; null if there are none.
    ///
    /// @throws InputException if they specify something that is not supported
    public static @Nullable SentencePooling read(Path folder) {
        Path modules = folder.resolve(MODULES);
        if (!Files.isRegularFile(modules)) {
            return Files.isRegularFile(folder.resolve(USUAL).resolve("config.json"))
                    ? new SentencePooling(pooling(folder, USUAL), false)
                    : null;
        }
        Pooling pooling = null;
        boolean normalize = false;
        for (JsonNode module : list(modules)) {
            String type = module.path("type").asText();
            String name = type.substring(type.lastIndexOf('.') + 1);
            if (name.equals("Pooling") && pooling == null && !normalize) {
                pooling = pooling(folder, module.path("path").asText());
            } else if (name.equals("Normalize") && pooling != null) {
                normalize = true;
            } else if (!name.equals("Transformer") || pooling != null) {
                throw new InputException(
                        modules + ": module " + type + " is not supported where it stands; Transformer,"
                                + " Pooling and Normalize are, in this order" + ADVICE);
            }
        }
        return pooling == null ? null : new SentencePooling(pooling, normalize);
    }

    private static JsonNode list(Path file) {
        try {
            JsonNode list = new ObjectMapper().readTree(Files.readString(file));
            if (!list.isArray()) {
                throw new InputException(file + ": needs a list of modules");
            }
            return list;
        } catch (IOException e) {
            throw InputException.io(file, "cannot be read", e);
        }
    }

    private static Pooling pooling(Path folder, String path) {
        Path file;
        try {
            file = folder.resolve(path).resolve("config.json").normalize();
        } catch (InvalidPathException e) {
            throw new InputException(folder.resolve(MODULES) + ": path " + path + " is none; correct it", e);
        }
        if (!file.startsWith(folder.normalize())) {
            throw new InputException(folder.resolve(MODULES) + ": path " + path + " leaves the folder");
        }
        if (!Files.isRegularFile(file)) {
            throw new InputException(file + ": no such file, but " + MODULES + " names it" + ADVICE);
        }
        ObjectNode config = JsonFile.read(file);
        List<String> asked = new ArrayList<>();
        config.fieldNames().forEachRemaining(key -> {
            if (key.startsWith(MODE) && config.path(key).asBoolean()) {
                asked.add(key.substring(MODE.length()));
            }
        });
        // The default of sentence-transformers.
        if (!config.has(MODE + "mean_tokens") && !config.has("pooling_mode")) {
            asked.add("mean_tokens");
        }
        if (config.path("pooling_mode").isTextual()) {
            asked.add(config.path("pooling_mode").asText());
        }
        Pooling found = asked.size() == 1 ? named(asked.getFirst()) : null;
        if (found == null) {
            throw new InputException(file + ": asks for "
                    + (asked.isEmpty()
                            ? "no pooling"
                            : asked.size() > 1 ? String.join(" and ", asked) + " side by side" : asked.getFirst())
                    + ", which is not supported" + ADVICE);
        }
        return found;
    }

    // ---- written

    /// Writes these files, with which sentence-transformers opens the folder of a model: transformer, pooling, and
    /// normalization if there is one.
    ///
    /// @param width C, the length of a vector
    /// @param maxLength the most tokens of a text
    /// @throws InputException for [Pooling#POOLER], which it does not have
    void write(Path folder, int width, int maxLength) {
        if (pooling == Pooling.POOLER) {
            throw new InputException("pooling " + pooling + ": sentence-transformers has none by this name; train with"
                    + " --pooling mean, cls, max, mean_sqrt_len or last");
        }
        ArrayNode modules = JsonNodeFactory.instance.arrayNode();
        module(modules, "Transformer", "");
        module(modules, "Pooling", USUAL);
        if (normalize) {
            module(modules, "Normalize", "2_Normalize");
        }
        ObjectNode config = JsonNodeFactory.instance.objectNode().put("word_embedding_dimension", width);
        MODES.forEach((mode, of) -> config.put(MODE + mode, of == pooling));
        ObjectNode transformer = JsonNodeFactory.instance
                .objectNode()
                .put("max_seq_length", maxLength)
                .put("do_lower_case", false);
        try {
            for (JsonNode module : modules) {
                Files.createDirectories(folder.resolve(module.path("path").asText()));
            }
            Files.writeString(folder.resolve(MODULES), modules.toPrettyString() + "\n");
        } catch (IOException e) {
            throw InputException.io(folder, MODULES + " and its folders cannot be written", e);
        }
        JsonFile.write(folder.resolve(USUAL).resolve("config.json"), config);
        JsonFile.write(folder.resolve("sentence_bert_config.json"), transformer);
    }

    /// Writes the prompts, each of which is put before texts of its kind.
    ///
    /// @param usual the one for texts of no kind; null for none
    static void writePrompts(Path folder, @Nullable String usual, Map<String, String> prompts) {
        ObjectNode config = JsonNodeFactory.instance.objectNode().put(DEFAULT_PROMPT, usual);
        new TreeMap<>(prompts).forEach(config.putObject(PROMPTS)::put);
        JsonFile.write(folder.resolve(PROMPTS_FILE), config);
    }

    /// The prefixes that the prompts in `folder` specify, as settings of [EmbedTask]: for queries, that named `query`,
    /// for passages `document` or `passage`, or else the default one. Empty if there are none.
    public static Map<String, String> prefixes(Path folder) {
        if (!Files.isRegularFile(folder.resolve(PROMPTS_FILE))) {
            return Map.of();
        }
        ObjectNode config = JsonFile.read(folder.resolve(PROMPTS_FILE));
        JsonNode prompts = config.path(PROMPTS);
        String usual = prompts.path(config.path(DEFAULT_PROMPT).asText()).asText("");
        String query = prompts.path("query").asText(usual);
        String passage = prompts.path("document").asText("");
        passage = passage.isEmpty() ? prompts.path("passage").asText(usual) : passage;
        return query.isEmpty() && passage.isEmpty()
                ? Map.of()
                : Map.of(EmbedTask.QUERY_PREFIX, query, EmbedTask.PASSAGE_PREFIX, passage);
    }

    private static void module(ArrayNode modules, String type, String path) {
        int index = modules.size();
        modules.addObject()
                .put("idx", index)
                .put("name", String.valueOf(index))
                .put("path", path)
                .put("type", "sentence_transformers.models." + type);
    }

    /// The pooling with the name that a file gives, which in newer files lacks `_token` or `_tokens`.
    private static @Nullable Pooling named(String mode) {
        return MODES.entrySet().stream()
                .filter(e -> e.getKey().equals(mode)
                        || e.getKey().replaceFirst("_tokens?$", "").equals(mode))
                .map(Map.Entry::getValue)
                .findFirst()
                .orElse(null);
    }
}
