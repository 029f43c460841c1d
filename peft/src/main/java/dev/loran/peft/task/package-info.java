/// What models are trained to do, one task per file.
///
/// Reading order: [Task] (the interface) → [ClassifyTask], [RegressTask], [TagTask], [EmbedTask], [RerankTask] and
/// [GenerateTask], [ChatTask], [PreferTask], [LmTask] (those that come with Loran; [GenerateTask], [ChatTask] and
/// [LmTask] are [CausalTask]s) → [Head], [Site] and [Feed] (the head, where it is placed, its input) → [Meter],
/// [Metric] and [Evaluation] (how well a model does) → [TaskCard] (what is saved) → [Predicts] (answers as JSON).
///
/// A task depends on rows, models and methods; the trainer, the memory plan and the command line depend only on [Task].
/// The letters for dimensions are those of [dev.loran.peft.data]; P is the number of virtual tokens that a method puts
/// before a text.
@NullMarked
package dev.loran.peft.task;

import org.jspecify.annotations.NullMarked;
