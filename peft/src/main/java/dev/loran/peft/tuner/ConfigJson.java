package dev.loran.peft.tuner;

import com.fasterxml.jackson.annotation.JsonAutoDetect.Visibility;
import com.fasterxml.jackson.annotation.PropertyAccessor;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.PropertyNamingStrategies;
import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.databind.node.IntNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.NullNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.io.InputException;
import dev.loran.peft.io.Nearest;
import dev.loran.peft.model.TaskType;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.TreeSet;
import java.util.function.Consumer;
import java.util.function.Function;
import org.jspecify.annotations.Nullable;

/// Reads `adapter_config.json` key by key; `finish` rejects keys that were not read but would have changed the result.
public final class ConfigJson {
    /// The version of peft whose file format this follows, with exactly the same keys.
    static final String PEFT_VERSION = "0.21.0";

    /// Keys that record a file's origin, or that hold peft's default of a feature that Loran does not need.
    private static final Set<String> HARMLESS = Set.of(
            "peft_type",
            "peft_version",
            "auto_mapping",
            "base_model_name_or_path",
            "revision",
            "megatron_core",
            "qalora_group_size",
            // How LoRA's A and B were initialized: irrelevant once they are saved.
            "eva_config",
            "lora_ga_config",
            "corda_config",
            "loftq_config",
            "runtime_config");

    private static final ObjectMapper RECORDS = JsonMapper.builder()
            .propertyNamingStrategy(PropertyNamingStrategies.SNAKE_CASE)
            .visibility(PropertyAccessor.FIELD, Visibility.ANY)
            .visibility(PropertyAccessor.GETTER, Visibility.NONE)
            .visibility(PropertyAccessor.IS_GETTER, Visibility.NONE)
            .build();

    private final String file;
    private final ObjectNode node;
    private final Set<String> read = new TreeSet<>();

    /// @param file the name of the source in messages
    public ConfigJson(String file, ObjectNode node) {
        this.file = file;
        this.node = node;
    }

    public InputException error(String problem) {
        return new InputException(file + ": " + problem);
    }

    private @Nullable JsonNode get(String key) {
        read.add(key);
        JsonNode v = node.get(key);
        return v == null || v.isNull() ? null : v;
    }

    private <T> T expect(String key, JsonNode value, boolean right, String what, Function<JsonNode, T> as) {
        if (!right) {
            throw error(key + " is " + value + ", needs " + what);
        }
        return as.apply(value);
    }

    public boolean has(String key) {
        return get(key) != null;
    }

    public int integer(String key, int otherwise) {
        JsonNode v = get(key);
        return v == null ? otherwise : expect(key, v, v.isInt(), "a whole number", JsonNode::intValue);
    }

    public @Nullable Integer integerOrNull(String key) {
        return has(key) ? integer(key, 0) : null;
    }

    public double number(String key, double otherwise) {
        JsonNode v = get(key);
        return v == null ? otherwise : expect(key, v, v.isNumber(), "a number", JsonNode::doubleValue);
    }

    public boolean bool(String key, boolean otherwise) {
        JsonNode v = get(key);
        return v == null ? otherwise : expect(key, v, v.isBoolean(), "true or false", JsonNode::booleanValue);
    }

    public String string(String key, String otherwise) {
        JsonNode v = get(key);
        return v == null ? otherwise : expect(key, v, v.isTextual(), "a text", JsonNode::textValue);
    }

    /// A boolean or a string, as a string: `true`, `false`, or the string itself.
    public String boolOrString(String key, String otherwise) {
        JsonNode v = get(key);
        return v == null
                ? otherwise
                : expect(key, v, v.isBoolean() || v.isTextual(), "a text, true or false", JsonNode::asText);
    }

    /// A constant of `type` by its name, ignoring case.
    public <E extends Enum<E>> E choice(String key, Class<E> type, E otherwise) {
        String name = string(key, otherwise.name()).toUpperCase(Locale.ROOT);
        for (E constant : type.getEnumConstants()) {
            if (constant.name().equals(name)) {
                return constant;
            }
        }
        throw error(key + " is " + name + ", must be one of " + List.of(type.getEnumConstants()));
    }

    public @Nullable TaskType taskType() {
        String name = string("task_type", "");
        if (name.isEmpty()) {
            return null;
        }
        try {
            return TaskType.valueOf(name);
        } catch (IllegalArgumentException e) {
            throw new InputException(
                    file + ": task_type " + name + " is not supported; known are " + List.of(TaskType.values()), e);
        }
    }

    /// A list of strings, or a single string as a list of one; empty when absent.
    public List<String> strings(String key) {
        JsonNode v = get(key);
        List<String> list = new ArrayList<>();
        if (v != null && v.isTextual()) {
            list.add(v.textValue());
        } else if (v != null) {
            expect(key, v, v.isArray(), "a list of texts", n -> n);
            v.forEach(e -> list.add(expect(key, e, e.isTextual(), "a list of texts", JsonNode::textValue)));
        }
        return list;
    }

    /// A list of integers, or a single integer as a list of one; null when absent.
    public @Nullable List<Integer> integers(String key) {
        JsonNode v = get(key);
        if (v == null) {
            return null;
        }
        List<Integer> list = new ArrayList<>();
        if (v.isInt()) {
            list.add(v.intValue());
        } else {
            expect(key, v, v.isArray(), "a list of whole numbers", n -> n);
            v.forEach(e -> list.add(expect(key, e, e.isInt(), "a list of whole numbers", JsonNode::intValue)));
        }
        return list;
    }

    /// Lists of integers by name, or a single list under the name `otherwise`; empty when absent.
    public Map<String, List<Integer>> integersByName(String key, String otherwise) {
        JsonNode v = get(key);
        if (v == null) {
            return Map.of();
        }
        if (!v.isObject()) {
            return Map.of(otherwise, Objects.requireNonNull(integers(key)));
        }
        ConfigJson inner = new ConfigJson(file + ": " + key, (ObjectNode) v);
        Map<String, List<Integer>> map = new LinkedHashMap<>();
        v.fieldNames().forEachRemaining(n -> map.put(n, Objects.requireNonNullElse(inner.integers(n), List.of())));
        return map;
    }

    /// A string (a regular expression, or `all-linear`) or a list of names.
    public Targets targets(String key) {
        JsonNode v = get(key);
        if (v == null) {
            return Targets.modelDefault();
        }
        return v.isTextual() ? Targets.regex(v.textValue()) : Targets.of(strings(key));
    }

    /// Numbers by name, in file order.
    public Map<String, Double> numbers(String key) {
        Map<String, Double> map = new LinkedHashMap<>();
        JsonNode v = get(key);
        if (v != null) {
            expect(key, v, v.isObject(), "an object of numbers", n -> n);
            v.properties()
                    .forEach(e -> map.put(
                            e.getKey(),
                            expect(
                                    key,
                                    e.getValue(),
                                    e.getValue().isNumber(),
                                    "an object of numbers",
                                    JsonNode::doubleValue)));
        }
        return map;
    }

    /// Reads the fields of prompt methods that allow only one value for a model of a single decoder or encoder.
    void submodules() {
        integerOrNull("num_attention_heads");
        if (integer("num_transformer_submodules", 1) != 1) {
            throw error("num_transformer_submodules is " + integer("num_transformer_submodules", 1)
                    + "; encoder-decoder models are not supported");
        }
    }

    /// The raw object of a key, empty when absent.
    public ObjectNode object(String key) {
        JsonNode v = get(key);
        return v == null
                ? JsonNodeFactory.instance.objectNode()
                : expect(key, v, v.isObject(), "an object", n -> (ObjectNode) n);
    }

    /// Fails if a key that was not read holds anything but null, false, 0 or an empty value.
    void finish() {
        List<String> unknown = new ArrayList<>();
        List<String> keys = new ArrayList<>();
        for (Map.Entry<String, JsonNode> e : node.properties()) {
            JsonNode v = e.getValue();
            boolean empty = v.isNull()
                    || v.isBoolean() && !v.booleanValue()
                    || v.isNumber() && v.doubleValue() == 0
                    || (v.isTextual() ? v.textValue().isEmpty() : v.isContainerNode() && v.isEmpty());
            if (!empty && !read.contains(e.getKey()) && !HARMLESS.contains(e.getKey())) {
                unknown.add(e.getKey() + " = " + v);
                keys.add(e.getKey());
            }
        }
        if (!unknown.isEmpty()) {
            throw error("this version does not know what to do with " + String.join(", ", unknown)
                    + "; the file was written by another version of peft, or for a feature that Loran lacks"
                    + Nearest.hint(keys, read));
        }
    }

    /// Copies a configuration with changes: applies `change` to its JSON and reads the result with `reader`, so that
    /// the new values are checked like those of a file.
    public static <C extends PeftConfig> C copy(C config, Function<ConfigJson, C> reader, Consumer<ObjectNode> change) {
        ObjectNode json = config.toJson();
        change.accept(json);
        return reader.apply(new ConfigJson(config.peftType(), json));
    }

    /// Writes the components of a configuration's record as peft does: under their names in snake case, an empty list
    /// as null, an integral number without a fraction; and the keys that every method's file has.
    static ObjectNode of(PeftConfig config) {
        ObjectNode n = RECORDS.valueToTree(config);
        n.properties().forEach(e -> e.setValue(asPeft(e.getKey(), e.getValue())));
        n.putNull("auto_mapping");
        n.putNull("base_model_name_or_path");
        n.put("inference_mode", config.inferenceMode());
        n.put("peft_type", config.peftType());
        n.put("peft_version", PEFT_VERSION);
        n.putNull("revision");
        putTask(n, config.taskType());
        return n;
    }

    private static JsonNode asPeft(String key, JsonNode value) {
        if (value instanceof ObjectNode object) {
            object.properties().forEach(e -> e.setValue(asPeft(e.getKey(), e.getValue())));
        }
        boolean isWhole = value.isDouble()
                && value.doubleValue() == Math.rint(value.doubleValue())
                && Math.abs(value.doubleValue()) < 1e9
                && !key.toLowerCase(Locale.ROOT).contains("dropout");
        if (isWhole) {
            return IntNode.valueOf(value.intValue());
        }
        return value.isArray() && value.isEmpty() ? NullNode.instance : value;
    }

    /// Sets `key` to a list, a map, a record or null.
    static void put(ObjectNode n, String key, @Nullable Object value) {
        n.set(key, RECORDS.valueToTree(value));
    }

    /// Sets the task that the configuration is for; null for none.
    static void putTask(ObjectNode n, @Nullable TaskType task) {
        n.put("task_type", task == null ? null : task.name());
    }
}
