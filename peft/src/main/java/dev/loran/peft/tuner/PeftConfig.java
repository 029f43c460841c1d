package dev.loran.peft.tuner;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.model.TaskType;
import org.jspecify.annotations.Nullable;

/// The options of one method, with Hugging Face peft's field names and defaults.
///
/// A user-defined method implements this too: [#attach] creates the trainable tensors and attaches them to the model,
/// either through a [Tuner] whose adapters replace layers, or through a subclass that fills other slots. It can use
/// what the built-in methods use: [Targets#resolve] finds the layers and suggests names if none is found, [Heads] are
/// the modules trained in full, [Attachment#dropout] creates masks, a [Mergeable] adapter can be merged, and adapters
/// whose
/// `peft_type` is registered with [Methods] can be loaded again.
///
/// ```java
/// public Tuner attach(Attachment to) {
///     Heads heads = Heads.of(modulesToSave, taskType);
///     Tuner tuner = new Tuner(this, to);
///     targets.resolve("target_modules", to, Targets.Limits.besides(heads))
///             .forEach((name, layer) -> tuner.place(name, (Linear) layer, new Scale(to, name)));
///     heads.place(tuner);
///     return tuner;
/// }
/// ```
public interface PeftConfig {
    /// Hugging Face's `peft_type`, such as `LORA`.
    String peftType();

    /// Hugging Face's `task_type`; null if not given. SEQ_CLS also trains the classification head.
    @Nullable
    TaskType taskType();

    /// True in files saved for inference; an adapter loaded for training is trained nevertheless.
    boolean inferenceMode();

    /// The content of `adapter_config.json`.
    default ObjectNode toJson() {
        return ConfigJson.of(this);
    }

    /// Attaches this method to `model` as the adapter `name`, inactive: see [Tuner].
    Tuner attach(Attachment to);

    /// Reads the configuration of a built-in method in peft's format: [Methods#read].
    static PeftConfig fromJson(ConfigJson json) {
        return Methods.shipped().read(json);
    }
}
