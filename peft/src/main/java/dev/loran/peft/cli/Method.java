package dev.loran.peft.cli;

import dev.loran.peft.data.InputException;
import dev.loran.peft.model.TaskType;
import dev.loran.peft.tuner.AdaLoraConfig;
import dev.loran.peft.tuner.BitFitConfig;
import dev.loran.peft.tuner.BottleneckConfig;
import dev.loran.peft.tuner.Ia3Config;
import dev.loran.peft.tuner.LnTuningConfig;
import dev.loran.peft.tuner.LoraConfig;
import dev.loran.peft.tuner.PeftConfig;
import dev.loran.peft.tuner.PrefixTuningConfig;
import dev.loran.peft.tuner.PromptEncoderConfig;
import dev.loran.peft.tuner.PromptTuningConfig;
import java.util.Arrays;
import java.util.Locale;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;

/// The choices of `--method`, with the learning rate each starts from.
enum Method {
    FULL(5e-5),
    LORA(5e-4),
    DORA(5e-4),
    ADALORA(3e-4),
    P_TUNING(2e-3),
    PROMPT(3e-3),
    PREFIX(2e-3),
    ADAPTER(5e-4),
    IA3(3e-3),
    LN_TUNING(1e-3),
    BITFIT(1e-3);

    final double learningRate;

    Method(double learningRate) {
        this.learningRate = learningRate;
    }

    /// The method that is typed `name`.
    static Method named(String name) {
        for (Method m : values()) {
            if (m.toString().equals(name)) {
                return m;
            }
        }
        throw new InputException("method \"" + name + "\" is not known; choose one of "
                + Arrays.stream(values()).map(Method::toString).collect(Collectors.joining(", ")));
    }

    /// As it is typed.
    @Override
    public String toString() {
        return name().toLowerCase(Locale.ROOT).replace('_', '-');
    }

    /// The method's configuration for a model of `task`; null for [#FULL], which needs none.
    @Nullable
    PeftConfig config(TrainingOptions o, TaskType task) {
        return switch (this) {
            case FULL -> null;
            case LORA -> lora(o, task);
            case DORA -> lora(o, task).withDora(true);
            case ADALORA ->
                AdaLoraConfig.defaults()
                        .withRanks(o.rank + (o.rank + 1) / 2, o.rank)
                        .withLora(lora(o, task));
            case P_TUNING -> PromptEncoderConfig.of(o.virtualTokens).withTask(task);
            case PROMPT -> PromptTuningConfig.of(o.virtualTokens).withTask(task);
            case PREFIX -> PrefixTuningConfig.of(o.virtualTokens).withTask(task);
            case ADAPTER -> BottleneckConfig.houlsby().withDropout(o.dropout).withTask(task);
            case IA3 -> Ia3Config.defaults().withTask(task);
            case LN_TUNING -> LnTuningConfig.defaults().withTargets(o.targets()).withTask(task);
            case BITFIT -> BitFitConfig.defaults().withTask(task);
        };
    }

    static LoraConfig lora(TrainingOptions o, TaskType task) {
        return LoraConfig.defaults()
                .withRank(o.rank, o.alpha)
                .withDropout(o.dropout)
                .withTargets(o.targets())
                .withTask(task);
    }
}
