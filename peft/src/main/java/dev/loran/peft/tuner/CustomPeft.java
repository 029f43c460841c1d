package dev.loran.peft.tuner;

/// A user-defined method: [#attach] creates the trainable tensors and attaches them to the model, either through a
/// [Tuner] whose adapters replace layers, or through a subclass that fills other slots.
///
/// It can use what the built-in methods use: [Targets#resolve] finds the layers and suggests names if none is found,
/// [Heads] are the modules trained in full, [Attachment#dropout] creates masks, a [Mergeable] adapter can be merged,
/// and adapters whose `peft_type` is registered with [Methods] can be loaded again.
///
/// ```java
/// public Tuner attach(Attachment to) {
///     Heads heads = Heads.of(modulesToSave, taskType);
///     Tuner tuner = new Tuner(this, to);
///     targets.resolve("target_modules", to, Targets.Limits.besides(heads))
///             .forEach((name, layer) -> tuner.place(name, (Linear) layer, new Scale(to, name)));
///     heads.place(tuner);
///     return tuner;
/// }
/// ```
public non-sealed interface CustomPeft extends PeftConfig {}
