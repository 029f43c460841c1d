package dev.loran.peft.tuner;

import dev.loran.engine.io.SafeTensors;
import dev.loran.engine.io.SafeTensorsException;
import dev.loran.engine.nn.AdaptedLayer;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.data.InputException;
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

/// The layers trained whole beside a method: what the configuration names, and for classification the head, which a family
/// calls `classifier` or `score`.
///
/// @param names as saved in `modules_to_save`
/// @param optional those that the model need not have
record Heads(List<String> names, Set<String> optional) {
    static final List<String> CLASSIFIERS = List.of("classifier", "score");

    static Heads of(List<String> modulesToSave, @Nullable TaskType task) {
        Set<String> names = new LinkedHashSet<>(modulesToSave);
        if (task != TaskType.SEQ_CLS) {
            return new Heads(List.copyOf(names), Set.of());
        }
        names.addAll(CLASSIFIERS);
        return new Heads(List.copyOf(names), Set.copyOf(CLASSIFIERS));
    }

    /// How many classes the head in an adapter's files tells apart; 0 where there is none.
    static int classes(Path weights) {
        if (!Files.isRegularFile(weights)) {
            return 0;
        }
        try (SafeTensors files = SafeTensors.open(weights)) {
            for (String name : CLASSIFIERS) {
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

    /// Places a trained copy of each.
    ///
    /// @throws InputException if a name is no linear layer of the model
    void place(Tuner tuner) {
        Model model = tuner.attachment().model();
        Map<String, AdaptedLayer<?>> candidates = Targets.candidates(model);
        List<String> missing = new ArrayList<>();
        for (String name : names) {
            boolean found = false;
            for (Map.Entry<String, AdaptedLayer<?>> e : candidates.entrySet()) {
                if (Targets.matching(List.of(name), e.getKey()) != null && e.getValue() instanceof Linear linear) {
                    ModulesToSave copy =
                            new ModulesToSave(linear, tuner.attachment().name());
                    if (linear == model.classifier() && model.hasNewClassifier()) {
                        copy.draw(tuner.attachment().random());
                    }
                    tuner.place(e.getKey(), linear, copy);
                    found = true;
                }
            }
            if (!found && !optional.contains(name) && !tuner.attachment().partialTargets()) {
                missing.add(name);
            }
        }
        if (!missing.isEmpty()) {
            throw new InputException("modules_to_save " + missing + " are no linear layers of the model (modules: "
                    + String.join(", ", candidates.keySet()) + ")");
        }
    }
}
