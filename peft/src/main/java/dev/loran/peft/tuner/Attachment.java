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

/// What a method needs to attach itself to a model.
///
/// @param name the adapter's name, `default` unless given
/// @param random source of initial values
/// @param seed key of all dropout masks
/// @param microStep (1) I32 counter of forward passes, written by [PeftModel]
/// @param partialTargets whether the configuration comes from another tool: target names that match nothing are ignored
/// @param naming maps a module's name in the model to its name in the adapter: a file may have been made for another
///     model of the family, whose names have one prefix more or less ([Model#otherName])
public record Attachment(
        Model model,
        String name,
        RandomGenerator random,
        long seed,
        Buffer microStep,
        boolean partialTargets,
        UnaryOperator<String> naming) {

    /// The layers that can be adapted, under the adapter's names for them, in model order.
    public Map<String, AdaptedLayer<?>> modules() {
        Map<String, AdaptedLayer<?>> all = new LinkedHashMap<>();
        Targets.candidates(model).forEach((name, layer) -> all.put(naming.apply(name), layer));
        return all;
    }

    /// Whether the adapter's names for the modules differ from the model's.
    boolean isRenamed() {
        return !modules().keySet().equals(Targets.candidates(model).keySet());
    }

    /// Those modules that are the table of token embeddings or the language-model head, if there is one.
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

    /// The mask of dropout site `site` for [dev.loran.engine.functional.Functional#dropout], or null for p = 0; to be
    /// applied only while the layer or model is in training mode. Each place with dropout has its own number, from 0.
    public @Nullable DropoutMask dropout(double p, int site) {
        return p == 0 ? null : new DropoutMask(p, seed, site, microStep);
    }
}
