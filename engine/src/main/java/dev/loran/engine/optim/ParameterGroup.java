package dev.loran.engine.optim;

import java.util.function.Predicate;

/// Parameters with their own training settings: those whose name `members` accepts. A parameter belongs to the first
/// group that accepts it; if none does, the optimizer's defaults apply.
///
/// ```java
/// new ParameterGroup(name -> name.contains("lora_B"), 16, 0.01)  // LoRA+ (Hayou et al., 2024)
/// new ParameterGroup(name -> name.endsWith(".bias"), 1, 0)       // no decay on biases
/// ```
///
/// @param lrFactor multiplies the learning rate, ≥ 0
/// @param weightDecay replaces the optimizer's, ≥ 0
public record ParameterGroup(Predicate<String> members, double lrFactor, double weightDecay) {
    public ParameterGroup {
        Optimizer.checkAtLeastZero("parameterGroup", "lrFactor", lrFactor);
        Optimizer.checkAtLeastZero("parameterGroup", "weightDecay", weightDecay);
    }
}
