/// Fine-tuning: from examples and a model with an adapter to a trained, evaluated and saved one.
///
/// **Reading order**: [Learner] (what a trainer moves) → [TaskModel] (a model, its adapter and its head for a task) →
/// [TrainerConfig] and [Trainer] (the loop) → [Evaluation] → [RunFolder] (what is written) → [LinearProbe] (what the
/// frozen model can do already) → [Generation] (text from a causal model).
@NullMarked
package dev.loran.peft.train;

import org.jspecify.annotations.NullMarked;
