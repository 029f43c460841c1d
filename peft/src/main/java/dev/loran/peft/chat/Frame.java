package dev.loran.peft.chat;

import dev.loran.peft.chat.TemplateException.Problem;
import dev.loran.peft.chat.Values.Undefined;
import java.time.LocalDateTime;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.function.BiConsumer;
import org.jspecify.annotations.Nullable;

/// The variables of a part of a template while it is rendered, on top of those of the part around it.
final class Frame {
    /// What one rendering may take: parts of the template executed, and characters and items made.
    private static final long MOST_WORK = 50_000_000;

    private static final int MOST_CALLS = 100;

    /// What all frames of a rendering share.
    static final class Run {
        final String name;
        final LocalDateTime now;
        final StringBuilder text = new StringBuilder();
        final List<Template.Span> generated = new ArrayList<>();
        StringBuilder out = text;
        long work;
        int calls;

        Run(String name, LocalDateTime now) {
            this.name = name;
            this.now = now;
        }
    }

    final Run run;
    private final @Nullable Frame around;
    private final Map<String, Object> variables = new HashMap<>();

    Frame(Run run) {
        this.run = run;
        this.around = null;
    }

    private Frame(Frame around) {
        this.run = around.run;
        this.around = around;
    }

    /// A frame whose variables are unknown to this one.
    Frame inner() {
        return new Frame(this);
    }

    Object get(String name) {
        for (Frame frame = this; frame != null; frame = frame.around) {
            Object value = frame.variables.get(name);
            if (value != null) {
                return value;
            }
        }
        Object global = Filters.GLOBALS.get(name);
        return global == null ? new Undefined("\"" + name + "\"") : global;
    }

    void set(String name, Object value) {
        variables.put(name, value);
    }

    /// Counts work, such as the characters of a new text.
    void spend(long amount) {
        run.work += amount;
        if (run.work > MOST_WORK) {
            throw new Problem("the template does too much: its loops or texts are too long");
        }
    }

    String made(String text) {
        spend(text.length());
        return text;
    }

    List<Object> made(List<Object> list) {
        spend(list.size());
        return list;
    }

    void print(String text) {
        spend(text.length());
        run.out.append(text);
    }

    /// The text that a part prints.
    String captured(BiConsumer<Frame, StringBuilder> part) {
        StringBuilder before = run.out;
        StringBuilder own = new StringBuilder();
        run.out = own;
        run.calls++;
        try {
            if (run.calls > MOST_CALLS) {
                throw new Problem("macros call each other more than " + MOST_CALLS + " times");
            }
            part.accept(inner(), own);
        } finally {
            run.out = before;
            run.calls--;
        }
        return own.toString();
    }
}
