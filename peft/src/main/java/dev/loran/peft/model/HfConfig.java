package dev.loran.peft.model;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.backend.UnaryFn;
import dev.loran.peft.io.InputException;
import dev.loran.peft.io.JsonFile;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/// A Hugging Face `config.json`, or an object inside one, with typed access that rejects values which would change the
/// model's computation. A JSON null counts as absent. Every error names the file, the key and the value.
///
/// @param where its name in messages
public record HfConfig(String where, ObjectNode json) {
    /// Reads `folder/config.json`.
    public static HfConfig read(Path folder) {
        Path file = folder.resolve("config.json");
        if (!Files.exists(file)) {
            throw new InputException(file + ": no such file; a Hugging Face model folder holds one");
        }
        return new HfConfig(file.toString(), JsonFile.read(file));
    }

    /// A config made from a model's sizes rather than from a file.
    public static HfConfig of(ObjectNode json) {
        return new HfConfig("config", json);
    }

    /// This config with `number` for `key` if that is absent.
    public HfConfig or(String key, int number) {
        return has(key) ? this : with(key, json.numberNode(number));
    }

    public HfConfig or(String key, double number) {
        return has(key) ? this : with(key, json.numberNode(number));
    }

    public HfConfig or(String key, boolean value) {
        return has(key) ? this : with(key, json.booleanNode(value));
    }

    /// This config with `value` for `key`.
    public HfConfig with(String key, JsonNode value) {
        ObjectNode changed = json.deepCopy();
        changed.set(key, value);
        return new HfConfig(where, changed);
    }

    /// As above, for a number that need not be whole.
    public HfConfig orNumber(String key, double number) {
        return has(key) ? this : new HfConfig(where, json.deepCopy().put(key, number));
    }

    /// The first of `architectures`; empty if absent.
    public String className() {
        JsonNode classes = value("architectures");
        return classes == null ? "" : classes.path(0).asText();
    }

    public static ObjectNode object() {
        return JsonNodeFactory.instance.objectNode();
    }

    /// The value of `key`; null if absent.
    public @Nullable JsonNode value(String key) {
        JsonNode v = json.get(key);
        return v == null || v.isNull() ? null : v;
    }

    public boolean has(String key) {
        return value(key) != null;
    }

    public int integer(String key) {
        JsonNode v = required(key);
        if (!v.isInt()) {
            throw wrong(key, v, "needs a whole number");
        }
        return v.intValue();
    }

    public int integer(String key, int absent) {
        return has(key) ? integer(key) : absent;
    }

    public double number(String key) {
        JsonNode v = required(key);
        if (!v.isNumber()) {
            throw wrong(key, v, "needs a number");
        }
        return v.doubleValue();
    }

    public double number(String key, double absent) {
        return has(key) ? number(key) : absent;
    }

    /// A number that may be switched off: 0 if it is null, `absent` if the key is missing.
    public double unlessNull(String key, double absent) {
        return json.has(key) ? number(key, 0) : absent;
    }

    /// As above, for a whole number.
    public int unlessNull(String key, int absent) {
        return json.has(key) ? integer(key, 0) : absent;
    }

    /// The texts of a list; empty if absent.
    public List<String> texts(String key) {
        List<String> all = new ArrayList<>();
        JsonNode v = value(key);
        if (v != null) {
            v.forEach(each -> all.add(each.asText()));
        }
        return all;
    }

    /// The numbers of a list.
    public List<Double> numbers(String key) {
        JsonNode v = required(key);
        List<Double> all = new ArrayList<>();
        v.forEach(each -> {
            if (!each.isNumber()) {
                throw wrong(key, v, "needs a list of numbers");
            }
            all.add(each.doubleValue());
        });
        return all;
    }

    public boolean flag(String key, boolean absent) {
        JsonNode v = value(key);
        if (v != null && !v.isBoolean()) {
            throw wrong(key, v, "needs true or false");
        }
        return v == null ? absent : v.booleanValue();
    }

    public String text(String key) {
        JsonNode v = required(key);
        if (!v.isTextual()) {
            throw wrong(key, v, "needs a text");
        }
        return v.textValue();
    }

    public String text(String key, String absent) {
        return has(key) ? text(key) : absent;
    }

    /// The object under `key`; null if absent.
    public @Nullable HfConfig child(String key) {
        JsonNode v = value(key);
        if (v != null && !(v instanceof ObjectNode)) {
            throw wrong(key, v, "needs an object");
        }
        return v == null ? null : new HfConfig(where + ": " + key, (ObjectNode) v);
    }

    private JsonNode required(String key) {
        JsonNode v = value(key);
        if (v == null) {
            throw new InputException(where + ": " + key + " is missing");
        }
        return v;
    }

    /// Rejects every value of `key` except `harmless` (JSON); absence is accepted.
    public void only(String key, String... harmless) {
        JsonNode v = value(key);
        if (v != null && !Set.of(harmless).contains(v.toString())) {
            throw unsupported(key, v, harmless);
        }
    }

    /// As above, for each element of a list.
    public void onlyOf(String key, String... harmless) {
        JsonNode list = value(key);
        if (list != null) {
            list.forEach(v -> {
                if (!Set.of(harmless).contains(v.toString())) {
                    throw unsupported(key, list, harmless);
                }
            });
        }
    }

    private InputException unsupported(String key, JsonNode value, String... harmless) {
        String supported = harmless.length == 0 ? "none" : String.join(", ", harmless);
        return wrong(key, value, "changes what the model computes and is not supported (supported: " + supported + ")");
    }

    /// The name of the activation function under `key`; it must be supported by [#activation].
    public String activationName(String key, String absent) {
        String name = text(key, absent);
        if (ACTIVATIONS.stream().noneMatch(a -> a.names.contains(name))) {
            throw wrong(key, required(key), "is not supported (supported: " + activationNames() + ")");
        }
        return name;
    }

    public InputException wrong(String key, JsonNode value, String problem) {
        return new InputException(where + ": " + key + " = " + value + " " + problem);
    }

    private record Activation(UnaryFn fn, List<String> names) {}

    private static final List<Activation> ACTIVATIONS = List.of(
            new Activation(UnaryFn.GELU, List.of("gelu", "gelu_python")),
            new Activation(UnaryFn.GELU_TANH, List.of("gelu_new", "gelu_pytorch_tanh", "gelu_fast")),
            new Activation(UnaryFn.SILU, List.of("silu", "swish")),
            new Activation(UnaryFn.RELU, List.of("relu")),
            new Activation(UnaryFn.TANH, List.of("tanh")),
            new Activation(UnaryFn.SIGMOID, List.of("sigmoid")));

    private static String activationNames() {
        return String.join(
                ", ", ACTIVATIONS.stream().flatMap(a -> a.names.stream()).toList());
    }

    /// The function that Hugging Face calls `name`.
    ///
    /// @throws IllegalArgumentException if it is not supported
    public static UnaryFn activation(String name) {
        for (Activation a : ACTIVATIONS) {
            if (a.names.contains(name)) {
                return a.fn;
            }
        }
        throw new IllegalArgumentException(
                "activation: " + name + " is not supported (supported: " + activationNames() + ")");
    }

    /// Checks that a size is positive.
    ///
    /// @throws IllegalArgumentException if it is not positive
    public static void positive(String name, int value) {
        if (value <= 0) {
            throw new IllegalArgumentException(name + " is " + value + ", must be positive");
        }
    }

    /// The product of two sizes.
    ///
    /// @throws IllegalArgumentException if it exceeds the largest possible dimension
    public static int product(String aName, int a, String bName, int b) {
        long product = Math.multiplyFull(a, b);
        if (product > Integer.MAX_VALUE) {
            throw new IllegalArgumentException(aName + " " + a + " times " + bName + " " + b + " is " + product
                    + ", larger than a dimension can be");
        }
        return (int) product;
    }

    /// Checks that one size divides another.
    ///
    /// @throws IllegalArgumentException if `part` does not divide `whole`
    public static void divides(String partName, int part, String wholeName, int whole) {
        positive(partName, part);
        if (whole % part != 0) {
            throw new IllegalArgumentException(
                    wholeName + " is " + whole + ", must be a multiple of " + partName + " " + part);
        }
    }
}
