package dev.loran.peft;

import dev.loran.engine.Tensor;
import dev.loran.engine.nn.Layer;
import dev.loran.peft.model.Model;
import dev.loran.peft.tuner.PeftConfig;
import dev.loran.peft.tuner.PeftModel;
import java.nio.file.Path;
import java.util.Map;

/// A facade over a [PeftModel] with a single adapter. The names of the class and its methods, and the defaults of
/// [Peft#createPeftConfig], come from a project on SEO texts. They are kept for users who know them, although they do
/// not follow this library's style. The class adds no functionality of its own: [#peftModel] returns the underlying
/// object.
public final class EfficientFineTuningManager implements AutoCloseable {
    private static final long SEED = 42;

    private final PeftModel peft;

    /// Freezes `model` and attaches `config` as its adapter `default`.
    public EfficientFineTuningManager(Model model, PeftConfig config) {
        this(model, config, false);
    }

    EfficientFineTuningManager(Model model, PeftConfig config, boolean partialTargets) {
        peft = new PeftModel(model, SEED);
        try {
            peft.addAdapter(PeftModel.DEFAULT_ADAPTER, config, partialTargets);
        } catch (RuntimeException e) {
            peft.close();
            throw e;
        }
    }

    public PeftModel peftModel() {
        return peft;
    }

    /// `trainable_parameters`, `total_parameters` (base and adapter together) and `trainable_percentage`.
    public Map<String, Number> getParameterCount() {
        PeftModel.ParameterCount count = peft.parameterCount();
        return Map.of(
                "trainable_parameters", count.trainableParameters(),
                "total_parameters", count.totalParameters(),
                "trainable_percentage", count.trainablePercentage());
    }

    /// The trainable tensors, keyed by peft's names.
    public Map<String, Tensor> trainableParameters() {
        return peft.trainableParameters();
    }

    /// Every module of the model, keyed by its name.
    public Map<String, Layer> namedModules() {
        return peft.model().namedModules();
    }

    /// Saves the adapter: [PeftModel#savePretrained].
    public void savePretrained(Path folder) {
        peft.savePretrained(folder);
    }

    /// Replaces the current adapter with the one saved in `folder`, whose configuration may differ.
    public void loadPretrained(Path folder) {
        peft.replaceAdapter(PeftModel.DEFAULT_ADAPTER, folder);
    }

    /// Closes the adapter, not the model.
    @Override
    public void close() {
        peft.close();
    }
}
