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

    /// Reads a configuration as peft writes it.
    ///
    /// @throws dev.loran.peft.io.InputException if the method is unknown, a value does not fit, or a key that this version
    ///     does not know holds anything but null, false, 0 or nothing
    static PeftConfig fromJson(ConfigJson json) {
        String type = json.string("peft_type", "");
        PeftConfig config = switch (type) {
            case "LORA" -> LoraConfig.fromJson(json);
            case "ADALORA" -> AdaLoraConfig.fromJson(json);
            case "P_TUNING" -> PromptEncoderConfig.fromJson(json);
            case "PROMPT_TUNING" -> PromptTuningConfig.fromJson(json);
            case "PREFIX_TUNING" -> PrefixTuningConfig.fromJson(json);
            case "BOTTLENECK" -> BottleneckConfig.fromJson(json);
            case "IA3" -> Ia3Config.fromJson(json);
            case "LN_TUNING" -> LnTuningConfig.fromJson(json);
            case "BITFIT" -> BitFitConfig.fromJson(json);
            case "" -> throw json.error("peft_type is missing");
            default ->
                throw json.error("peft_type " + type + " is not supported; known are LORA, ADALORA, P_TUNING, "
                        + "PROMPT_TUNING, PREFIX_TUNING, BOTTLENECK, IA3, LN_TUNING, BITFIT");
        };
        json.finish();
        return config;
    }
}
