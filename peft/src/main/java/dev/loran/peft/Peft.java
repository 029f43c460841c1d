package dev.loran.peft;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.peft.model.Model;
import dev.loran.peft.tuner.ConfigJson;
import dev.loran.peft.tuner.PeftConfig;
import java.util.List;
import java.util.Locale;
import java.util.Map;

/// Fine-tuning in a few calls, for callers who prefer method names and option maps. For a typed API, start at
/// [dev.loran.peft.tuner.PeftModel] and a config record such as [dev.loran.peft.tuner.LoraConfig].
///
/// ```java
/// EfficientFineTuningManager manager = Peft.applyPeftToModel(
///         model, "LORA", Map.of("r", 16, "lora_alpha", 32, "target_modules", List.of("w_q", "w_k", "w_v", "w_o")));
/// manager.getParameterCount().get("trainable_percentage");
/// ```
public final class Peft {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final String PARTIAL = "partial_targets";

    /// Defaults of a project on SEO texts, where they differ from Hugging Face peft's.
    private static final Map<String, Map<String, Object>> DEFAULTS = Map.of(
            "LORA", Map.of("r", 16, "lora_alpha", 32, "lora_dropout", 0.1),
            "ADALORA",
                    Map.of(
                            "init_r",
                            12,
                            "target_r",
                            8,
                            "beta1",
                            0.85,
                            "beta2",
                            0.85,
                            "tinit",
                            200,
                            "tfinal",
                            1000,
                            "deltaT",
                            10,
                            "orth_reg_weight",
                            0.5,
                            "lora_alpha",
                            32,
                            "lora_dropout",
                            0.1),
            "P_TUNING",
                    Map.of(
                            "num_virtual_tokens",
                            20,
                            "encoder_hidden_size",
                            128,
                            "encoder_num_layers",
                            2,
                            "encoder_dropout",
                            0.1,
                            "encoder_reparameterization_type",
                            "TRANSFORMER"),
            "PREFIX_TUNING", Map.of("num_virtual_tokens", 20, "prefix_projection", false),
            "PROMPT_TUNING", Map.of("num_virtual_tokens", 20));

    private Peft() {}

    /// The configuration of method `type` (LORA, ADALORA, P_TUNING, PREFIX_TUNING, PROMPT_TUNING, BOTTLENECK, IA3,
    /// LN_TUNING, BITFIT; case-insensitive, with `-` accepted for `_`).
    ///
    /// Options have Hugging Face's names; `num_prefix_tokens` is an alias of `num_virtual_tokens`, and `tfinal` counts
    /// the steps after the last allocation, as in peft. Defaults: LoRA r 16, alpha 32, dropout 0.1; AdaLoRA from rank
    /// 12 to 8, 200 steps before and 1000 after allocation, every 10 steps; 20 virtual tokens; P-tuning with a
    /// transformer encoder of width 128 and two layers with dropout 0.1. The default targets are the model family's.
    ///
    /// @throws dev.loran.peft.io.InputException for an unknown type, an unknown option, or a value that does not fit
    public static PeftConfig createPeftConfig(String type, Map<String, ?> options) {
        String name = type.toUpperCase(Locale.ROOT).replace('-', '_');
        ObjectNode json = JSON.valueToTree(options);
        json.remove(PARTIAL);
        json.put("peft_type", name);
        if (json.has("num_prefix_tokens")) {
            json.set("num_virtual_tokens", json.remove("num_prefix_tokens"));
        }
        DEFAULTS.getOrDefault(name, Map.of()).forEach((key, value) -> {
            if (!json.has(key)) {
                json.set(key, JSON.valueToTree(value));
            }
        });
        return PeftConfig.fromJson(new ConfigJson("createPeftConfig", json));
    }

    /// Freezes `model` and attaches method `type` as its adapter. In addition to the options of [#createPeftConfig],
    /// `partial_targets` = true tolerates target names that the model does not have, as long as one of them matches;
    /// otherwise such a name is an error that suggests the nearest one.
    public static EfficientFineTuningManager applyPeftToModel(Model model, String type, Map<String, ?> options) {
        boolean partial = Boolean.TRUE.equals(options.get(PARTIAL));
        return new EfficientFineTuningManager(model, createPeftConfig(type, options), partial);
    }

    /// As above, with an existing configuration.
    public static EfficientFineTuningManager applyPeftToModel(Model model, PeftConfig config) {
        return new EfficientFineTuningManager(model, config, false);
    }

    /// Names of the modules of `model` that contain one of `targets` in their name.
    public static List<String> targetModules(Model model, List<String> targets) {
        return model.namedModules().keySet().stream()
                .filter(name -> targets.stream().anyMatch(name::contains))
                .toList();
    }
}
