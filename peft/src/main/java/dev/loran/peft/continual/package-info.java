/// Continual learning: one model learns several tasks one after the other, without the rows of the earlier ones.
///
/// **Reading order**: [Strategy] (what protects the earlier tasks) → [TaskSequence] (the tasks and their rows) →
/// [ContinualTrainer] (the run) → [ScoreMatrix] (what it measures).
@NullMarked
package dev.loran.peft.continual;

import org.jspecify.annotations.NullMarked;
