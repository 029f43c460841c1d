package dev.loran.peft.tuner;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.io.SafeTensors;
import dev.loran.engine.io.SafeTensorsException;
import dev.loran.engine.nn.AdaptedLayer;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.TaskType;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/// The modules that are trained in full with a method: those named by the configuration and, for classification, the
/// head, which a family calls `classifier` or `score`.
///
/// @param names as saved in `modules_to_save`
/// @param optional those that the model may lack
/// @param isTied whether a head that shares the table of token embeddings keeps sharing it when the table is trained
public record Heads(List<String> names, Set<String> optional, boolean isTied) {
    static final List<String> CLASSIFIERS = List.of("classifier", "score");

    /// The modules named by a configuration, plus the classification heads if its task has them.
    public static Heads of(List<String> modulesToSave, @Nullable TaskType task) {
        Set<String> names = new LinkedHashSet<>(modulesToSave);
        if (task != TaskType.SEQ_CLS && task != TaskType.TOKEN_CLS) {
            return new Heads(List.copyOf(names), Set.of(), false);
        }
        names.addAll(CLASSIFIERS);
        return new Heads(List.copyOf(names), Set.copyOf(CLASSIFIERS), false);
    }

    /// The number of classes of the head in an adapter's file; 0 if there is none.
    static int classes(Path weights) {
        if (!Files.isRegularFile(weights)) {
            return 0;
        }
        try (SafeTensors files = SafeTensors.open(weights)) {
            for (String name : List.of("classifier", "score", "classifier.out_proj")) {
                for (String prefix : List.of("base_model.model.", "base_model.")) {
                    String key = prefix + name + ".weight";
                    if (files.names().contains(key) && files.entry(key).shape().rank() == 2) {
                        return files.entry(key).shape().dim(0);
                    }
                }
            }
            return 0;
        } catch (SafeTensorsException e) {
            throw new InputException(String.valueOf(e.getMessage()), e);
        }
    }

    /// Whether an adapter's file holds the weight of `module`, under any prefix.
    static boolean brings(Path weights, String module) {
        try (SafeTensors files = SafeTensors.open(weights)) {
            return files.names().stream().anyMatch(key -> key.endsWith("." + module + ".weight"));
        } catch (SafeTensorsException e) {
            throw new InputException(String.valueOf(e.getMessage()), e);
        }
    }

    /// Whether `key` names a tensor of a classification head in an adapter's file.
    static boolean isClassifier(String key) {
        return key.startsWith(AdapterFiles.PREFIX)
                && CLASSIFIERS.stream()
                        .anyMatch(name -> outermost(key.substring(AdapterFiles.PREFIX.length()))
                                .endsWith(name));
    }

    private static String outermost(String module) {
        int dot = module.indexOf('.');
        return dot < 0 ? module : module.substring(0, dot);
    }

    /// A copy of a configuration without its task and without the module names that train a classification head.
    static ObjectNode without(ObjectNode config) {
        ObjectNode json = config.deepCopy().putNull("task_type");
        List<String> names = new ArrayList<>();
        json.path("modules_to_save").forEach(name -> names.add(name.asText()));
        names.removeAll(CLASSIFIERS);
        ConfigJson.put(json, "modules_to_save", names);
        return json;
    }

    /// These modules with the model's tie between table and head kept: peft's `ensure_weight_tying`. Then only the
    /// table is named, by its full name.
    Heads tied(Attachment to) {
        Model model = to.model();
        Linear head = tiedHead(model);
        List<String> kept = new ArrayList<>(names);
        boolean isTable = false;
        for (Map.Entry<String, AdaptedLayer<?>> e : to.modules().entrySet()) {
            boolean isHead = e.getValue() == head;
            if (isHead || e.getValue() == model.tokenEmbedding()) {
                isTable |= whole(names, e.getKey()) != null;
                if (isHead) {
                    kept.removeIf(name -> whole(List.of(name), e.getKey()) != null);
                } else if (!kept.contains(e.getKey())) {
                    kept.add(e.getKey());
                }
            }
        }
        return isTable && head != null ? new Heads(kept, optional, true) : this;
    }

    /// The head whose weight is the table of token embeddings; null if there is none.
    static @Nullable Linear tiedHead(Model model) {
        for (AdaptedLayer<?> layer : Targets.candidates(model).values()) {
            if (layer instanceof Linear l
                    && l.weight() == model.tokenEmbedding().weight()) {
                return l;
            }
        }
        return null;
    }

    /// The outermost module that is or contains `module` and whose name ends with one of `names`; null if there is
    /// none. As in peft, no dot is required before the ending: `norm` also matches `input_layernorm`.
    static @Nullable String whole(List<String> names, String module) {
        for (int dot = module.indexOf('.'); dot >= 0; dot = module.indexOf('.', dot + 1)) {
            String outer = module.substring(0, dot);
            if (names.stream().anyMatch(outer::endsWith)) {
                return outer;
            }
        }
        return names.stream().anyMatch(module::endsWith) ? module : null;
    }

    /// Places a trained copy of each layer that is, or is inside, one of the named modules.
    ///
    /// @throws InputException if a name matches no module of the model
    public void place(Tuner tuner) {
        Attachment to = tuner.attachment();
        Map<String, AdaptedLayer<?>> candidates = to.modules();
        List<String> missing = new ArrayList<>(names);
        missing.removeAll(optional);
        candidates.forEach((module, layer) -> {
            String outer = whole(names, module);
            if (outer != null) {
                String below = module.equals(outer) ? "" : module.substring(outer.length() + 1);
                ModulesToSave<?> copy = ModulesToSave.place(tuner, outer, below, layer);
                if (layer instanceof Linear linear
                        && to.model().hasNewClassifier()
                        && to.model().headLayers().containsValue(linear)) {
                    copy.draw(to.random());
                }
                if (isTied && layer == to.model().tokenEmbedding()) {
                    placeTied(tuner, copy, candidates);
                }
                missing.removeIf(name -> whole(List.of(name), module) != null);
            }
        });
        if (!missing.isEmpty() && !to.partialTargets()) {
            throw new InputException("modules_to_save " + missing + " are no modules of the model (modules: "
                    + String.join(", ", candidates.keySet()) + ")");
        }
    }

    private static void placeTied(Tuner tuner, ModulesToSave<?> table, Map<String, AdaptedLayer<?>> candidates) {
        Linear head = tiedHead(tuner.attachment().model());
        candidates.forEach((module, layer) -> {
            if (layer == head && layer instanceof Linear linear) {
                table.placeTied(tuner, module, linear);
            }
        });
    }
}
