/// Fine-tuning: from examples and a model with an adapter to a trained, evaluated and saved one.
///
/// **Reading order**: [Learner] (what a trainer trains) → [TaskModel] (a model with its adapter and its head for a
/// task) → [TrainerConfig] and [Trainer] (the loop) → [RunFolder] (what is written) → [LinearProbe] (what the frozen
/// model can already do) → [Predictor] (classes of unlabeled texts) → [RowPredictor]
/// (the answers of other tasks).
@NullMarked
package dev.loran.peft.train;

import org.jspecify.annotations.NullMarked;
