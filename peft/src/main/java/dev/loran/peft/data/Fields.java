package dev.loran.peft.data;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.StreamReadFeature;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import dev.loran.peft.io.InputException;
import dev.loran.peft.io.JsonFile;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import org.jspecify.annotations.Nullable;

/// The fields of a line of JSON Lines. A problem with a field is an [InputException] that names file, line and field.
public final class Fields {
    private static final ObjectReader JSON = new ObjectMapper(JsonFactory.builder()
                    .enable(StreamReadFeature.STRICT_DUPLICATE_DETECTION)
                    .build())
            .enable(DeserializationFeature.FAIL_ON_TRAILING_TOKENS)
            .reader();

    private final String name;
    private final long line;
    private final String form;
    private final JsonNode object;

    Fields(String name, long line, String form, String text) {
        this.name = name;
        this.line = line;
        this.form = form;
        String start = text.strip();
        if (line == 1 && start.startsWith("[")) {
            throw bad("a JSON array, not JSON Lines; put each element on a line of its own, without brackets and"
                    + " commas around it; " + form);
        }
        if (line == 1 && !start.startsWith("{") && name.matches("(?i).*\\.(csv|tsv)")) {
            throw bad("separated values, not JSON Lines; make each record an object on a line of its own; " + form);
        }
        try {
            this.object = JSON.readTree(text);
        } catch (JsonProcessingException e) {
            int column = e.getLocation() == null ? 1 : e.getLocation().getColumnNr();
            throw new InputException(
                    "%s:%d: not JSON at column %d: %s; %s".formatted(name, line, column, JsonFile.problem(e), form), e);
        }
        if (!object.isObject()) {
            throw bad("a JSON " + kind(object) + ", not an object; " + form);
        }
    }

    long line() {
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

    /// A string, which may be blank; empty if the field is missing or null.
    public String stringOrEmpty(String field) {
        return object.hasNonNull(field) ? string(field) : "";
    }

    /// A finite number.
    public double number(String field) {
        JsonNode value = required(field);
        if (!value.isNumber() || !Double.isFinite(value.doubleValue())) {
            throw bad("field \"" + field + "\" must be a number, found " + kind(value));
        }
        return value.doubleValue();
    }

    /// A list of strings.
    public List<String> strings(String field) {
        JsonNode value = required(field);
        List<String> strings = new ArrayList<>();
        value.forEach(v -> strings.add(v.isTextual() ? v.textValue() : ""));
        if (!value.isArray() || strings.stream().anyMatch(String::isEmpty)) {
            throw bad("field \"" + field + "\" must be a list of strings, none of them empty, found " + kind(value));
        }
        return strings;
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

    private static String kind(JsonNode value) {
        return value.getNodeType().toString().toLowerCase(Locale.ROOT);
    }
}
