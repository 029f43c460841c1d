package dev.loran.peft.tuner;

import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.function.Function;

/// The methods that an adapter's files may name: the built-in ones and those added by [#with].
///
/// ```java
/// Methods methods = Methods.shipped().with("SCALE", ScaleConfig::read);
/// try (PeftModel peft = new PeftModel(model, 42, methods)) {
///     peft.loadAdapter("default", folder);
/// }
/// ```
public final class Methods {
    private static final Methods SHIPPED = new Methods(new LinkedHashMap<>())
            .and("LORA", LoraConfig::fromJson)
            .and("ADALORA", AdaLoraConfig::fromJson)
            .and("P_TUNING", PromptEncoderConfig::fromJson)
            .and("PROMPT_TUNING", PromptTuningConfig::fromJson)
            .and("PREFIX_TUNING", PrefixTuningConfig::fromJson)
            .and("BOTTLENECK", BottleneckConfig::fromJson)
            .and("IA3", Ia3Config::fromJson)
            .and("LN_TUNING", LnTuningConfig::fromJson)
            .and("BITFIT", BitFitConfig::fromJson);

    private final Map<String, Function<ConfigJson, ? extends PeftConfig>> readers;

    private Methods(Map<String, Function<ConfigJson, ? extends PeftConfig>> readers) {
        this.readers = Collections.unmodifiableMap(readers);
    }

    /// The built-in methods.
    public static Methods shipped() {
        return SHIPPED;
    }

    /// These methods plus a user-defined one.
    ///
    /// @param peftType the value of its [PeftConfig#peftType]
    /// @param reader reads what [PeftConfig#toJson] wrote, key by key; keys that it does not request are rejected
    /// @throws IllegalArgumentException if the name is already taken
    public Methods with(String peftType, Function<ConfigJson, ? extends PeftConfig> reader) {
        if (readers.containsKey(peftType)) {
            throw new IllegalArgumentException("with: there is a method " + peftType + " already");
        }
        return and(peftType, reader);
    }

    /// Whether an adapter's files may name `peftType`.
    boolean contains(String peftType) {
        return readers.containsKey(peftType);
    }

    private Methods and(String peftType, Function<ConfigJson, ? extends PeftConfig> reader) {
        Map<String, Function<ConfigJson, ? extends PeftConfig>> all = new LinkedHashMap<>(readers);
        all.put(peftType, reader);
        return new Methods(all);
    }

    /// Reads a configuration in peft's format.
    ///
    /// @throws dev.loran.peft.io.InputException if the method is unknown, a value is invalid, or a key that this
    ///     version does not support holds anything but null, false, 0 or an empty value
    public PeftConfig read(ConfigJson json) {
        String type = json.string("peft_type", "");
        Function<ConfigJson, ? extends PeftConfig> reader = readers.get(type);
        if (reader == null) {
            throw json.error(
                    type.isEmpty()
                            ? "peft_type is missing"
                            : "peft_type " + type + " is not supported; known are "
                                    + String.join(", ", readers.keySet()));
        }
        PeftConfig config = reader.apply(json);
        json.finish();
        return config;
    }
}
