package dev.loran.peft.tuner;

import dev.loran.engine.optim.ParameterGroup;
import dev.loran.peft.io.InputException;
import java.util.List;

/// LoRA+: B gets a higher learning rate than A.
///
/// ```java
/// new AdamW.Config(0.9, 0.999, 1e-8, 0.01, LoraPlus.groups(2e-4, 16, 1e-6, 0.01))
/// ```
///
/// **Paper**: Hayou, Ghosh, Yu, "LoRA+: Efficient Low Rank Adaptation of Large Models", 2024, section 4; it finds
/// ratios around 16 best, with a learning rate lower than plain LoRA's.
public final class LoraPlus {
    private LoraPlus() {}

    /// As below, with peft's default rate for LoRA on tables, 1e-6.
    public static List<ParameterGroup> groups(double learningRate, double ratio, double weightDecay) {
        return groups(learningRate, ratio, 1e-6, weightDecay);
    }

    /// Parameter groups for any optimizer, divided as in peft: LoRA on tables has its own rate; B (and DoRA's
    /// magnitudes, and biases, which have no weight decay) has `ratio` times the rate of A, which keeps the optimizer's
    /// own rate.
    ///
    /// @param learningRate the optimizer's peak rate, used for A; positive
    /// @param ratio rate of B divided by rate of A, at least 1
    /// @param embeddingLearningRate peak rate for LoRA on tables; peft's default is 1e-6
    /// @param weightDecay the optimizer's weight decay, applied to everything but biases
    public static List<ParameterGroup> groups(
            double learningRate, double ratio, double embeddingLearningRate, double weightDecay) {
        if (!(learningRate > 0) || !(ratio >= 1)) {
            throw new InputException("loraPlus: learning rate is " + learningRate + " and ratio " + ratio
                    + ", must be positive and at least 1");
        }
        return List.of(
                new ParameterGroup(
                        n -> n.contains(".lora_embedding_"), embeddingLearningRate / learningRate, weightDecay),
                new ParameterGroup(n -> n.endsWith(".bias"), ratio, 0),
                new ParameterGroup(
                        n -> n.contains(".lora_B.") || n.contains(".lora_magnitude_vector."), ratio, weightDecay));
    }
}
