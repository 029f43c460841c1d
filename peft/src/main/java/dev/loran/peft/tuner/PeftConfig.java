package dev.loran.peft.tuner;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.model.TaskType;
import org.jspecify.annotations.Nullable;

/// The options of one method, with Hugging Face peft's field names and defaults. User-defined methods implement
/// [CustomPeft].
public sealed interface PeftConfig
        permits LoraConfig,
                AdaLoraConfig,
                PromptEncoderConfig,
                PromptTuningConfig,
                PrefixTuningConfig,
                BottleneckConfig,
                Ia3Config,
                LnTuningConfig,
                BitFitConfig,
                CustomPeft {
    /// Hugging Face's `peft_type`, such as `LORA`.
    String peftType();

    /// Hugging Face's `task_type`; null if not given. SEQ_CLS also trains the classification head.
    @Nullable
    TaskType taskType();

    /// True in files saved for inference; an adapter loaded for training is trained nevertheless.
    boolean inferenceMode();

    /// The content of `adapter_config.json`.
    ObjectNode toJson();

    /// Attaches this method to `model` as the adapter `name`, inactive: see [Tuner].
    Tuner attach(Attachment to);

    /// Reads the configuration of a built-in method in peft's format: [Methods#read].
    static PeftConfig fromJson(ConfigJson json) {
        return Methods.shipped().read(json);
    }
}
