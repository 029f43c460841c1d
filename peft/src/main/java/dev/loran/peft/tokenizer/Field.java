package dev.loran.peft.tokenizer;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.MissingNode;
import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;

/// A location in a `tokenizer.json` and its value. Each accessor rejects a value of the wrong kind.
record Field(String path, JsonNode json) {
    /// The maximum length of a sequence of normalizers, pre-tokenizers or the like; real files have up to ten.
    private static final int MAX_STEPS = 100;

    /// The maximum length of a value quoted in a message.
    private static final int SHOWN = 60;

    /// The field `name` of an object; accessors reject it if it is missing.
    Field at(String name) {
        String place = path.isEmpty() ? name : path + "." + name;
        return new Field(place, json.isObject() && json.has(name) ? json.get(name) : MissingNode.getInstance());
    }

    /// The field `name`, or null if it is missing or null.
    @Nullable
    Field optional(String name) {
        Field field = at(name);
        return field.json.isMissingNode() || field.json.isNull() ? null : field;
    }

    /// The only field of an object with one field.
    Field only(String kind) {
        if (!json.isObject() || json.size() != 1) {
            throw problem("is " + shown() + ", not " + kind);
        }
        return at(json.fieldNames().next());
    }

    /// The `type` of a component.
    String type() {
        return at("type").text();
    }

    String text() {
        if (!json.isTextual()) {
            throw problem("is " + shown() + ", not a text");
        }
        return json.textValue();
    }

    /// A string of one character, as a code point.
    int character() {
        String text = text();
        if (text.isEmpty() || text.codePointCount(0, text.length()) != 1) {
            throw problem("is " + shown() + ", not one character");
        }
        return text.codePointAt(0);
    }

    boolean flag() {
        if (!json.isBoolean()) {
            throw problem("is " + shown() + ", not true or false");
        }
        return json.booleanValue();
    }

    boolean flag(String name, boolean otherwise) {
        Field field = optional(name);
        return field == null ? otherwise : field.flag();
    }

    /// An integer from 0 to `largest`.
    int number(int largest) {
        if (!json.isIntegralNumber() || !json.canConvertToInt() || json.intValue() < 0 || json.intValue() > largest) {
            throw problem("is " + shown() + ", not a whole number from 0 to " + largest);
        }
        return json.intValue();
    }

    List<Field> list() {
        if (!json.isArray()) {
            throw problem("is " + shown() + ", not a list");
        }
        List<Field> fields = new ArrayList<>(json.size());
        for (int i = 0; i < json.size(); i++) {
            fields.add(new Field(path + "[" + i + "]", json.get(i)));
        }
        return fields;
    }

    /// The list `name` with the steps of a sequence.
    List<Field> steps(String name) {
        List<Field> steps = at(name).list();
        if (steps.size() > MAX_STEPS) {
            throw at(name).problem("has " + steps.size() + " steps; " + MAX_STEPS + " are supported");
        }
        return steps;
    }

    TokenizerException problem(String what) {
        return new TokenizerException((path.isEmpty() ? "the file" : path) + ": " + what);
    }

    /// The error for a value that is well formed but not supported.
    TokenizerException unsupported(String supported) {
        return problem(shown() + " is not supported; " + supported);
    }

    private String shown() {
        if (json.isMissingNode()) {
            return "missing";
        }
        if (json.isContainerNode()) {
            return json.isArray() ? "a list" : "an object";
        }
        return shown(json.toString());
    }

    static String shown(String value) {
        return value.length() <= SHOWN ? value : value.substring(0, SHOWN) + "…";
    }
}
