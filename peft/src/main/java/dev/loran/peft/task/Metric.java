package dev.loran.peft.task;

/// A metric: a measure of how well a model does.
///
/// @param name as in files: `macro_f1`
public record Metric(String name, boolean higherIsBetter) {}
