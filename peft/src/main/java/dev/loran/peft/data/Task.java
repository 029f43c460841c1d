package dev.loran.peft.data;

import dev.loran.peft.io.InputException;
import java.util.List;
import java.util.Locale;

/// What a model is trained to do, and with it what a row of data holds.
public enum Task {
    /// One label for a text, or for a pair of texts.
    CLASSIFY("{\"text\",\"label\"} or {\"text\",\"text_pair\",\"label\"}"),
    /// A text that answers a prompt: titles, descriptions, instructions.
    GENERATE("{\"source\",\"target\"} or {\"instruction\",\"input\",\"output\"}"),
    /// The next token of a text.
    LM("{\"text\"}");

    private final String form;

    Task(String form) {
        this.form = form;
    }

    /// The fields of a row, as error messages and `--help` show them.
    public String form() {
        return form;
    }

    /// All fields that are read of a row.
    List<String> fields() {
        return switch (this) {
            case CLASSIFY -> List.of("text", "text_pair", "label");
            case GENERATE -> List.of("source", "target", "instruction", "input", "output");
            case LM -> List.of("text");
        };
    }

    /// The task of the option `--task`: `classify`, `generate` or `lm`.
    ///
    /// @throws InputException for any other name
    public static Task named(String name) {
        for (Task task : values()) {
            if (task.toString().equals(name)) {
                return task;
            }
        }
        throw new InputException("task \"" + name + "\" is not known; choose classify, generate or lm");
    }

    /// The name as it is typed: lower case.
    @Override
    public String toString() {
        return name().toLowerCase(Locale.ROOT);
    }
}
