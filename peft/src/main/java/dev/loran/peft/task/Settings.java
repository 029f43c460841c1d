package dev.loran.peft.task;

import dev.loran.peft.io.InputException;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Objects;

/// All settings of a task by name, for [Task#with].
record Settings(Map<String, String> values) {
    /// @param known all that the task has, with their values
    /// @param next the values that change
    /// @throws InputException for a name that the task does not have
    static Settings of(Task task, Map<String, ?> known, Map<String, String> next) {
        Map<String, String> all = new LinkedHashMap<>();
        known.forEach((name, value) -> all.put(name, String.valueOf(value)));
        next.forEach((name, value) -> {
            if (all.put(name, value) == null) {
                throw new InputException("task " + task.name() + " has no " + name + "; leave it out");
            }
        });
        return new Settings(all);
    }

    String text(String name) {
        return Objects.requireNonNull(values.get(name), name);
    }

    /// @throws InputException if it is none
    double number(String name) {
        try {
            return Double.parseDouble(text(name));
        } catch (NumberFormatException e) {
            throw none(name, e);
        }
    }

    /// @throws InputException if it is none
    int integer(String name) {
        try {
            return Integer.parseInt(text(name));
        } catch (NumberFormatException e) {
            throw none(name, e);
        }
    }

    private InputException none(String name, NumberFormatException e) {
        return new InputException(name + " \"" + text(name) + "\" is not a number", e);
    }
}
