package dev.loran.peft.tuner;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.model.TaskType;
import org.jspecify.annotations.Nullable;

/// The options of one method, with Hugging Face peft's field names and defaults. A method of your own implements
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

    /// Hugging Face's `task_type`; null when not said. SEQ_CLS adds the classification head to what is trained.
    @Nullable
    TaskType taskType();

    /// True in files that were saved for inference; an adapter loaded for training trains all the same.
    boolean inferenceMode();

    /// The content of `adapter_config.json`.
    ObjectNode toJson();

    /// Puts this method onto `model` as the adapter `name`, inactive: see [Tuner].
    Tuner attach(Attachment to);

    /// Reads a configuration of a shipped method as peft writes it: [Methods#read].
    static PeftConfig fromJson(ConfigJson json) {
        return Methods.shipped().read(json);
    }
}
