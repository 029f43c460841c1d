package dev.loran.peft.tuner;

/// A method of your own: make the trainable tensors and put them into the model's slots in [#attach].
public non-sealed interface CustomPeft extends PeftConfig {}
