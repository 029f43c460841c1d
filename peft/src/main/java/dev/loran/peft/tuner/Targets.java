package dev.loran.peft.tuner;

import com.fasterxml.jackson.annotation.JsonValue;
import dev.loran.engine.nn.AdaptedLayer;
import dev.loran.engine.nn.Layer;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.io.InputException;
import dev.loran.peft.io.Nearest;
import dev.loran.peft.model.Model;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Optional;
import java.util.Set;
import java.util.TreeSet;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.regex.PatternSyntaxException;
import org.jspecify.annotations.Nullable;

/// Which modules a method adapts, by peft's rules: a list of names, each equal to a module's name or to its end after a
/// dot; a regular expression that matches the whole name; `all-linear`, every linear layer except the output head; or
/// the model family's own table.
public final class Targets {
    private static final String ALL_LINEAR = "all-linear";
    private static final Pattern LAYER_INDEX = Pattern.compile("\\.(\\d+)\\.");

    /// Names for the same module in different model families, supported here or not.
    private static final List<List<String>> SAME = List.of(
            List.of("q_proj", "query", "w_q", "q_lin", "query_proj", "q", "c_attn"),
            List.of("k_proj", "key", "w_k", "k_lin", "key_proj", "k", "c_attn"),
            List.of("v_proj", "value", "w_v", "v_lin", "value_proj", "v", "c_attn"),
            List.of("qkv_proj", "query_key_value", "qkv", "c_attn", "q_proj", "query", "w_q"),
            List.of("o_proj", "out_proj", "attention.output.dense", "w_o", "out_lin", "attn.c_proj"),
            List.of("up_proj", "fc1", "intermediate.dense", "c_fc", "mlp.up", "lin1", "w1"),
            List.of("down_proj", "fc2", "output.dense", "mlp.c_proj", "mlp.down", "lin2", "w2"),
            List.of("embed_tokens", "word_embeddings", "wte", "token_embedding"),
            List.of("lm_head", "embed_out", "output_layer"),
            List.of("score", "classifier"));

    private final @Nullable List<String> names;
    private final @Nullable String regex;

    private Targets(@Nullable List<String> names, @Nullable String regex) {
        this.names = names;
        this.regex = regex;
    }

    public static Targets of(String... names) {
        return of(List.of(names));
    }

    public static Targets of(List<String> names) {
        return new Targets(List.copyOf(names), null);
    }

    /// @param regex matched against the whole dotted name; `all-linear` keeps peft's meaning
    public static Targets regex(String regex) {
        return new Targets(null, regex);
    }

    public static Targets allLinear() {
        return new Targets(null, ALL_LINEAR);
    }

    /// The method's own table for the model's family.
    public static Targets modelDefault() {
        return new Targets(null, null);
    }

    public boolean isModelDefault() {
        return names == null && regex == null;
    }

    /// The names if the targets are a list, otherwise null.
    public @Nullable List<String> names() {
        return names;
    }

    /// These targets or, if they are the default, the family's table for the first of `methods` that it has one for.
    ///
    /// @throws InputException if it has none
    public Targets or(Model model, String... methods) {
        if (!isModelDefault()) {
            return this;
        }
        List<String> known = model.family().targets(List.of(methods));
        if (known == null) {
            throw new InputException("target_modules: there is no table for models of type "
                    + model.family().modelType() + "; name the modules");
        }
        return of(known);
    }

    /// The value in `adapter_config.json`: a regular expression or a list of names; null for the default.
    @JsonValue
    @Nullable
    Object fileValue() {
        return regex != null ? regex : names;
    }

    /// Which of `names` matches the module `name`, or null.
    static @Nullable String matching(List<String> names, String module) {
        for (String n : names) {
            if (module.equals(n) || module.endsWith("." + n)) {
                return n;
            }
        }
        return null;
    }

    private static boolean fullMatch(String regex, String name) {
        try {
            return Pattern.compile(regex).matcher(name).matches();
        } catch (PatternSyntaxException e) {
            throw new InputException(
                    "target_modules: \"" + regex + "\" is no regular expression: " + e.getDescription(), e);
        }
    }

    /// Whether these targets match `module` of `model`.
    public boolean matches(String module, Model model, Layer layer) {
        if (ALL_LINEAR.equals(regex)) {
            return layer instanceof Linear && !isHead(module, model);
        }
        return names != null ? matching(names, module) != null : regex != null && fullMatch(regex, module);
    }

    private static boolean isHead(String module, Model model) {
        List<String> heads = model.classifier() != null ? List.of("score", "classifier") : List.of(model.headName());
        return matching(heads, module) != null;
    }

    /// Restrictions in addition to the targets.
    ///
    /// @param exclude modules excluded even if the targets match them; null for none
    /// @param layersToTransform indices of the layers to adapt; null for all
    /// @param layersPattern names of the list of layers; empty: the first number in the name is the layer's
    /// @param modulesToSave modules trained in full, which are never adapted
    public record Limits(
            @Nullable Targets exclude,
            @Nullable List<Integer> layersToTransform,
            List<String> layersPattern,
            List<String> modulesToSave) {
        /// No adapter where a module is trained in full, and no other restriction.
        public static Limits besides(Heads heads) {
            return new Limits(null, null, List.of(), heads.names());
        }

        /// The option that excludes `module`; null if there is none.
        @Nullable
        String obstacle(String module, Model model, Layer layer) {
            if (exclude != null && !exclude.isModelDefault() && exclude.matches(module, model, layer)) {
                return "exclude_modules " + exclude;
            }
            if (Heads.whole(modulesToSave, module) != null) {
                return "modules_to_save " + modulesToSave;
            }
            if (layersToTransform == null || layersToTransform.isEmpty()) {
                return null;
            }
            Integer index = layerIndex(module);
            return index != null && layersToTransform.contains(index)
                    ? null
                    : "layers_to_transform " + layersToTransform;
        }

        /// The index of the layer that contains `module`; null if there is none.
        private @Nullable Integer layerIndex(String module) {
            for (String pattern : layersPattern) {
                Matcher m = Pattern.compile("\\." + Pattern.quote(pattern) + "\\.(\\d+)\\.")
                        .matcher("." + module);
                if (m.find()) {
                    return Integer.valueOf(m.group(1));
                }
            }
            Matcher m = LAYER_INDEX.matcher(module);
            return layersPattern.isEmpty() && m.find() ? Integer.valueOf(m.group(1)) : null;
        }

        /// @param modules that the targets match
        /// @throws InputException if a limit matches no module
        private void check(String option, Targets targets, Set<String> modules, Set<String> all) {
            if (exclude != null && exclude.names != null) {
                for (String name : exclude.names) {
                    if (all.stream().noneMatch(m -> matching(List.of(name), m) != null)) {
                        throw new InputException("exclude_modules [" + name + "] match no module");
                    }
                }
            }
            boolean byLayer = layersToTransform != null && !layersToTransform.isEmpty();
            if (!byLayer && !layersPattern.isEmpty()) {
                throw new InputException(
                        "layers_pattern " + layersPattern + " says nothing without layers_to_transform");
            }
            if (!byLayer || layersToTransform == null) {
                return;
            }
            if (targets.names == null) {
                throw new InputException("layers_to_transform goes with a list of " + option + ", not with " + targets);
            }
            Set<Integer> layers = new TreeSet<>();
            modules.stream().map(this::layerIndex).filter(Objects::nonNull).forEach(layers::add);
            for (String name : targets.names) {
                if (modules.stream()
                        .filter(m -> matching(List.of(name), m) != null)
                        .allMatch(m -> layerIndex(m) == null)) {
                    throw new InputException(option + " [" + name + "] is in none of the layers"
                            + (layersPattern.isEmpty() ? "" : " " + layersPattern)
                            + " that layers_to_transform " + layersToTransform
                            + " counts, and would be left out; take it out of the one or leave out the other");
                }
            }
            if (!layers.containsAll(layersToTransform)) {
                throw new InputException("layers_to_transform " + layersToTransform + ": the layers of " + option + " "
                        + targets + " are " + layers);
            }
        }
    }

    /// The modules to adapt, by the adapter's names for them, in model order.
    ///
    /// Names in the list that match nothing are silently ignored if [Attachment#partialTargets] is set.
    ///
    /// @throws InputException naming what matched nothing, with the nearest names
    public Map<String, AdaptedLayer<?>> resolve(String option, Attachment to, Limits limits) {
        Map<String, AdaptedLayer<?>> candidates = to.modules();
        Map<String, AdaptedLayer<?>> matched = new LinkedHashMap<>(candidates);
        matched.entrySet().removeIf(e -> !matches(e.getKey(), to.model(), e.getValue()));
        if (!to.partialTargets()) {
            List<String> unmatched = new ArrayList<>(names == null ? List.of() : new TreeSet<>(names));
            unmatched.removeIf(n -> matched.keySet().stream().anyMatch(m -> matching(List.of(n), m) != null));
            if (!unmatched.isEmpty()) {
                throw new InputException(
                        option + " " + unmatched + " match no module" + nearest(unmatched, candidates));
            }
            limits.check(option, this, matched.keySet(), candidates.keySet());
        }
        if (matched.isEmpty()) {
            throw new InputException(option + " " + this + " match no module that may be adapted"
                    + nearest(names == null ? List.of() : names, candidates));
        }
        Set<String> obstacles = new TreeSet<>();
        Map<String, AdaptedLayer<?>> found = new LinkedHashMap<>();
        matched.forEach((name, layer) -> {
            String obstacle = limits.obstacle(name, to.model(), layer);
            if (obstacle == null) {
                found.put(name, layer);
            } else {
                obstacles.add(obstacle);
            }
        });
        if (found.isEmpty()) {
            throw new InputException(option + " " + this + " are all left out by " + String.join(" and ", obstacles));
        }
        return found;
    }

    static Map<String, AdaptedLayer<?>> candidates(Model model) {
        Map<String, AdaptedLayer<?>> all = new LinkedHashMap<>();
        model.namedModules().forEach((name, layer) -> {
            if (layer instanceof AdaptedLayer<?> a) {
                all.put(name, a);
            }
        });
        return all;
    }

    /// "did you mean …" with this model's name for each, followed by all names.
    private static String nearest(Iterable<String> wrong, Map<String, AdaptedLayer<?>> candidates) {
        TreeSet<String> known = new TreeSet<>();
        candidates.keySet().forEach(n -> known.add(lastParts(n, 1)));
        List<String> suggestions = new ArrayList<>();
        for (String w : wrong) {
            meant(w, candidates.keySet()).filter(m -> !suggestions.contains(m)).ifPresent(suggestions::add);
        }
        return (suggestions.isEmpty() ? " " : "; did you mean " + String.join(", ", suggestions) + "? ") + "(modules: "
                + String.join(", ", known) + ")";
    }

    /// This model's name for what other families call `wrong`; otherwise the nearest name, compared first with the ends
    /// of module names of the same number of parts, then by the last part alone.
    private static Optional<String> meant(String wrong, Set<String> modules) {
        int parts = wrong.split("\\.", -1).length;
        List<String> elsewhere = SAME.stream().flatMap(List::stream).toList();
        return calledHere(wrong, modules)
                .or(() -> Nearest.to(wrong, ends(modules, parts)))
                .or(() -> Nearest.to(lastParts(wrong, 1), ends(modules, 1)))
                .or(() -> Nearest.to(wrong, elsewhere).flatMap(name -> calledHere(name, modules)));
    }

    private static Optional<String> calledHere(String elsewhere, Set<String> modules) {
        return SAME.stream()
                .filter(names -> names.contains(elsewhere) || names.contains(lastParts(elsewhere, 1)))
                .flatMap(List::stream)
                .filter(n -> modules.stream().anyMatch(m -> matching(List.of(n), m) != null))
                .findFirst();
    }

    private static Set<String> ends(Set<String> modules, int parts) {
        Set<String> ends = new TreeSet<>();
        modules.forEach(m -> ends.add(lastParts(m, parts)));
        return ends;
    }

    /// The last `parts` parts of a dotted name.
    private static String lastParts(String name, int parts) {
        int at = name.length();
        for (int i = 0; i < parts && at >= 0; i++) {
            at = name.lastIndexOf('.', at - 1);
        }
        return name.substring(at + 1);
    }

    @Override
    public boolean equals(Object o) {
        return o instanceof Targets t && Objects.equals(names, t.names) && Objects.equals(regex, t.regex);
    }

    @Override
    public int hashCode() {
        return Objects.hash(names, regex);
    }

    @Override
    public String toString() {
        return names != null ? names.toString() : regex != null ? "\"" + regex + "\"" : "(the model's own)";
    }
}
