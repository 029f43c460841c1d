package dev.loran.peft;

import dev.loran.engine.Tensor;
import dev.loran.engine.nn.Layer;
import dev.loran.peft.model.Model;
import dev.loran.peft.tuner.PeftConfig;
import dev.loran.peft.tuner.PeftModel;
import java.nio.file.Path;
import java.util.Map;

/// Another name for a [PeftModel] with one adapter. The names of the class and its methods, and the defaults of
/// [Peft#createPeftConfig], are those of a project on SEO texts, kept as they are for those who know them, though they
/// are not this library's style. It adds nothing: [#peftModel] is the thing itself.
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

    /// The trained tensors by peft's names.
    public Map<String, Tensor> trainableParameters() {
        return peft.trainableParameters();
    }

    /// Every module of the model by its name.
    public Map<String, Layer> namedModules() {
        return peft.model().namedModules();
    }

    /// Writes the adapter: [PeftModel#savePretrained].
    public void savePretrained(Path folder) {
        peft.savePretrained(folder);
    }

    /// Puts the adapter saved in `folder` in the place of the present one, whose configuration need not be the same.
    public void loadPretrained(Path folder) {
        peft.replaceAdapter(PeftModel.DEFAULT_ADAPTER, folder);
    }

    /// Closes the adapter, not the model.
    @Override
    public void close() {
        peft.close();
    }
}
