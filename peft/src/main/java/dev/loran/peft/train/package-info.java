/// Fine-tuning: from examples and a model with an adapter to a trained, evaluated and saved one.
///
/// **Reading order**: [Learner] (what a trainer moves) → [TaskModel] (a model, its adapter and its head for a task) →
/// [TrainerConfig] and [Trainer] (the loop) → [RunFolder] (what is written) → [LinearProbe] (what the frozen model can
/// do already) → [Predictor] (classes of texts that nobody has labelled).
@NullMarked
package dev.loran.peft.train;

import org.jspecify.annotations.NullMarked;
