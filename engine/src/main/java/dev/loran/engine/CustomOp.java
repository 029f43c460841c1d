package dev.loran.engine;

/// An operation of your own: implement it (a record is the natural form), compute the output with the backend of your
/// inputs, and hand both to [Autograd#record]. It gets the same harness as ours by an
/// [dev.loran.engine.testing.OpCase]. A kernel of its own asks the backend for what it needs, by [Backend#capability].
///
/// Under [Autograd#noGrad], or when no input requires a gradient, nothing is recorded and `saved` is not retained.
public non-sealed interface CustomOp extends Op {}
