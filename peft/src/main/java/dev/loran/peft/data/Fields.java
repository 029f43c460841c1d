package dev.loran.peft.data;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.StreamReadFeature;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.io.InputException;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import org.jspecify.annotations.Nullable;

/// The fields of a row. A problem with a field is an [InputException] that names file, line and field.
public final class Fields {
    static final ObjectReader JSON = new ObjectMapper(JsonFactory.builder()
                    .enable(StreamReadFeature.STRICT_DUPLICATE_DETECTION)
                    .build())
            .enable(DeserializationFeature.FAIL_ON_TRAILING_TOKENS)
            .reader();

    private final String name;
    private final long line;
    private final String form;
    private final JsonNode object;
    private final boolean isText;

    /// @param name the source's name in messages
    /// @param form what a row should look like, for messages
    /// @param isText whether all values are strings, as in a table: numbers and lists are then read from them
    Fields(String name, long line, String form, ObjectNode object, boolean isText) {
        this.name = name;
        this.line = line;
        this.form = form;
        this.object = object;
        this.isText = isText;
    }

    /// The row's line number, or its position, counted from 1.
    public long line() {
        return line;
    }

    /// The names of all fields, in order.
    public List<String> names() {
        List<String> names = new ArrayList<>();
        object.fieldNames().forEachRemaining(names::add);
        return names;
    }

    /// Whether there is such a field, whatever its value.
    public boolean has(String field) {
        return object.has(field);
    }

    /// A field that must be a non-blank string.
    public String text(String field) {
        String value = string(field);
        if (value.isBlank()) {
            throw bad("field \"" + field + "\" is empty");
        }
        return value;
    }

    /// As [#text], for an optional field: null if it is missing or null.
    public @Nullable String optional(String field) {
        return object.hasNonNull(field) ? text(field) : null;
    }

    /// A non-blank string, or an integer, which is used as a name like any other.
    public String label(String field) {
        JsonNode value = object.path(field);
        return value.isIntegralNumber() ? value.asText() : text(field);
    }

    /// Whether a field is a list; in a table, one written in JSON.
    public boolean isList(String field) {
        JsonNode value = object.path(field);
        return value.isArray()
                || isText && value.asText().startsWith("[") && parsed(value).isArray();
    }

    /// A list of names, which may be empty: non-blank strings, or integers, which are used as names like any other.
    public List<String> names(String field) {
        JsonNode value = parsed(required(field));
        List<String> names = new ArrayList<>();
        for (JsonNode v : value) {
            names.add(v.isTextual() || v.isIntegralNumber() ? v.asText() : "");
        }
        if (!value.isArray() || names.stream().anyMatch(String::isBlank)) {
            throw bad("field \"" + field + "\" must be a list of strings or integers, none of them empty, found "
                    + kind(value));
        }
        return names;
    }

    /// A string, which may be blank; empty if the field is missing or null.
    public String stringOrEmpty(String field) {
        return object.hasNonNull(field) ? string(field) : "";
    }

    /// A finite number.
    public double number(String field) {
        JsonNode value = parsed(required(field));
        if (!value.isNumber() || !Double.isFinite(value.doubleValue())) {
            throw bad("field \"" + field + "\" must be a number"
                    + (value.isNumber() ? " that is finite, found " : ", found ")
                    + (value.isNumber() ? value.asText() : kind(value)));
        }
        return value.doubleValue();
    }

    /// True or false, or 1 or 0.
    public boolean flag(String field) {
        JsonNode value = required(field);
        String text = isText ? value.asText().strip().toLowerCase(Locale.ROOT) : value.asText();
        if (value.isBoolean() || value.isIntegralNumber() || isText) {
            switch (text) {
                case "true", "1" -> {
                    return true;
                }
                case "false", "0" -> {
                    return false;
                }
                default -> {}
            }
        }
        throw bad("field \"" + field + "\" must be true or false, found "
                + (value.isIntegralNumber() || isText ? text : kind(value)));
    }

    /// A list of strings.
    public List<String> strings(String field) {
        JsonNode value = parsed(required(field));
        List<String> strings = new ArrayList<>();
        value.forEach(v -> strings.add(v.isTextual() ? v.textValue() : ""));
        if (!value.isArray() || strings.stream().anyMatch(String::isEmpty)) {
            throw bad("field \"" + field + "\" must be a list of strings, none of them empty, found " + kind(value));
        }
        return strings;
    }

    /// A value as JSON; in a table, one written in JSON.
    public JsonNode json(String field) {
        JsonNode value = required(field);
        return value.isTextual() && value.textValue().strip().startsWith("[") ? parse(value) : value;
    }

    /// All fields.
    public ObjectNode all() {
        return object.deepCopy();
    }

    /// The number or list that a string of a table is; the string itself if it is neither.
    private JsonNode parsed(JsonNode value) {
        return isText ? parse(value) : value;
    }

    private static JsonNode parse(JsonNode value) {
        try {
            return JSON.readTree(value.textValue().strip());
        } catch (JsonProcessingException e) {
            return value;
        }
    }

    private JsonNode required(String field) {
        JsonNode value = object.get(field);
        if (value == null) {
            List<String> found = new ArrayList<>();
            object.fieldNames().forEachRemaining(name -> found.add("\"" + name + "\""));
            throw bad("field \"" + field + "\" is missing, found "
                    + (found.isEmpty() ? "none" : String.join(", ", found)) + "; " + form);
        }
        return value;
    }

    private String string(String field) {
        JsonNode value = required(field);
        if (!value.isTextual()) {
            throw bad("field \"" + field + "\" must be a string, found " + kind(value));
        }
        return value.textValue();
    }

    /// The exception to throw for a problem with this row, with file and line.
    public InputException bad(String problem) {
        return InputException.at(name, line, problem);
    }

    static String kind(JsonNode value) {
        return value.getNodeType().toString().toLowerCase(Locale.ROOT);
    }
}
