package dev.loran.peft.tuner;

import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DropoutMask;
import dev.loran.engine.nn.AdaptedLayer;
import dev.loran.engine.nn.Embedding;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.model.Model;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.function.UnaryOperator;
import java.util.random.RandomGenerator;
import org.jspecify.annotations.Nullable;

/// What a method needs to put itself onto a model.
///
/// @param name the adapter's name, `default` if nobody said otherwise
/// @param random source of initial values
/// @param seed key of all dropout masks
/// @param microStep (1) I32 counter of forwards, written by [PeftModel]
/// @param partialTargets whether the configuration comes from elsewhere: target names that match nothing are let pass
/// @param naming what the adapter calls a module of the model: a file may have been made on another model of the
///     family, whose names have a prefix more or less ([Model#otherName])
public record Attachment(
        Model model,
        String name,
        RandomGenerator random,
        long seed,
        Buffer microStep,
        boolean partialTargets,
        UnaryOperator<String> naming) {

    /// The layers that may be adapted, by the names that the adapter has for them, in model order.
    public Map<String, AdaptedLayer<?>> modules() {
        Map<String, AdaptedLayer<?>> all = new LinkedHashMap<>();
        Targets.candidates(model).forEach((name, layer) -> all.put(naming.apply(name), layer));
        return all;
    }

    /// Whether the adapter calls the modules by other names than the model.
    boolean isRenamed() {
        return !modules().keySet().equals(Targets.candidates(model).keySet());
    }

    /// Of these, the table of token embeddings and the head for tokens, if there is one.
    Map<String, AdaptedLayer<?>> tables() {
        Map<String, AdaptedLayer<?>> all = modules();
        all.values().removeIf(layer -> layer != model.tokenEmbedding() && layer != model.tokenHead());
        return all;
    }

    /// The weight of a table or a head.
    static Tensor weight(AdaptedLayer<?> layer) {
        return switch (layer) {
            case Embedding e -> e.weight();
            case Linear l -> l.weight();
            default -> throw new IllegalArgumentException("no table and no head");
        };
    }

    public Backend backend() {
        return model.backend();
    }

    /// The mask of dropout site `site`, or null for p = 0: [dev.loran.engine.functional.Functional#dropout], while the layer or
    /// model is in training mode. Each place that drops has a number of its own, from 0.
    public @Nullable DropoutMask dropout(double p, int site) {
        return p == 0 ? null : new DropoutMask(p, seed, site, microStep);
    }
}
