package dev.loran.peft.model;

/// Consecutive rows of a batch that share the lengths of their prefix and virtual tokens.
///
/// @param count the number of rows
public record Rows(int count, int prefix, int virtualTokens) {}
