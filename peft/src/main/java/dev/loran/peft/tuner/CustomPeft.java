package dev.loran.peft.tuner;

/// A method of your own: [#attach] makes the trainable tensors and puts them onto the model, by a [Tuner] whose
/// adapters stand in the place of layers, or one of your own that fills other slots.
///
/// What a method needs is where the shipped ones have it: [Targets#resolve] finds the layers and suggests names where
/// none is found, [Heads] are the modules trained whole beside, [Attachment#dropout] gives masks, a [Mergeable] adapter
/// can be merged, and a `peft_type` that is known to [Methods] is loaded again.
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
