package dev.loran.peft.model;

/// Rows of a batch, one after another, whose texts stand behind the same lengths of prefix and virtual tokens.
///
/// @param count how many rows
public record Rows(int count, int prefix, int virtualTokens) {}
