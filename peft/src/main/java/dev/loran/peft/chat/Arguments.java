package dev.loran.peft.chat;

import dev.loran.peft.chat.TemplateException.Problem;
import java.util.List;
import java.util.Map;

/// The values that a function is called with.
record Arguments(String of, List<Object> positional, Map<String, Object> named) {
    /// The argument in a place, or with a name.
    ///
    /// @param otherwise the value if it is not given
    Object get(int place, String name, Object otherwise) {
        if (place < positional.size()) {
            return positional.get(place);
        }
        return named.getOrDefault(name, otherwise);
    }

    Object get(int place, String name) {
        Object value = place < positional.size() ? positional.get(place) : named.get(name);
        if (value == null) {
            throw new Problem(of + ": the argument " + name + " is missing");
        }
        return value;
    }

    String string(int place, String name) {
        return Strings.requireString(get(place, name));
    }

    int integer(int place, String name, int otherwise) {
        Object value = get(place, name, (long) otherwise);
        return Values.integer(value);
    }

    boolean flag(int place, String name) {
        return Values.truth(get(place, name, false));
    }

    /// Refuses more arguments than a function has.
    Arguments most(int count, String... names) {
        if (positional.size() > count) {
            throw new Problem(of + ": more than " + count + " arguments");
        }
        named.keySet().stream()
                .filter(n -> !List.of(names).contains(n))
                .findFirst()
                .ifPresent(n -> {
                    throw new Problem(of + ": the argument " + n + " is not known");
                });
        return this;
    }

    /// Without the first argument.
    Arguments rest() {
        return new Arguments(of, positional.subList(Math.min(1, positional.size()), positional.size()), named);
    }
}
