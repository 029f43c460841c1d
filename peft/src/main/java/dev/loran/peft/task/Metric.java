package dev.loran.peft.task;

/// The name of a number that says how well a model does.
///
/// @param name as files have it: `macro_f1`
public record Metric(String name, boolean higherIsBetter) {}
