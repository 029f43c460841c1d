package dev.loran.peft.model;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import org.jspecify.annotations.Nullable;

/// What the outputs of a classification head mean: the config's `problem_type`.
public enum Problem {
    /// One class for a text.
    SINGLE_LABEL,
    /// Any number of labels for a text.
    MULTI_LABEL,
    /// One number, or several.
    REGRESSION;

    public static final String KEY = "problem_type";

    /// The value in a config.
    public String value() {
        return switch (this) {
            case SINGLE_LABEL -> "single_label_classification";
            case MULTI_LABEL -> "multi_label_classification";
            case REGRESSION -> "regression";
        };
    }

    /// The problem that a config names; null if it names none.
    static @Nullable Problem named(@Nullable ObjectNode config) {
        String name = config == null ? "" : config.path(KEY).asText();
        for (Problem p : values()) {
            if (p.value().equals(name)) {
                return p;
            }
        }
        return null;
    }

    /// The problem that the config names or, as in transformers, that the labels pose.
    static Problem of(@Nullable ObjectNode config, int outputs, Tensor labels) {
        Problem named = named(config);
        if (named != null) {
            return named;
        }
        return outputs == 1 ? REGRESSION : labels.dtype() == DType.I32 ? SINGLE_LABEL : MULTI_LABEL;
    }
}
