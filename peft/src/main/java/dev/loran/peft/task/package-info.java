/// What models are trained to do, one task a file.
///
/// Reading order: [Task] (all that a task is) → [ClassifyTask], [GenerateTask] and [LmTask] (those that come with Loran,
/// the last two by way of [CausalTask]) → [Head], [Site] and [Feed] (what stands behind a model, where it goes, what
/// it computes from) → [Meter], [Metric] and [Evaluation] (how well a model does) → [TaskCard] (what is kept of it) →
/// [Generation] (text from a causal model).
///
/// A task knows rows, models and methods; trainer, memory plan and command line know [Task] alone. The letters are
/// those of [dev.loran.peft.data]; P is the number of virtual tokens that a method puts before a text.
@NullMarked
package dev.loran.peft.task;

import org.jspecify.annotations.NullMarked;
