/// How an operation is held to its word: public, so that yours can be held to its own.
///
/// Describe it once as an [OpCase]: its arguments, its function, its cost. Then
///
/// - [OpCase#checkReference] compares its gradients with finite differences ([GradCheck]), the fused form with the
///   composed one, and counts buffers;
/// - [OpCase#check] compares another backend with the reference, forward and backward, in every dtype ([Tolerance]);
/// - [OpCase#on] puts the arguments into a backend's memory, for a benchmark to time.
///
/// [OpCases] describes every operation of the engine so, at odd sizes for tests and at a model's sizes for benchmarks.
@NullMarked
package dev.loran.engine.testing;

import org.jspecify.annotations.NullMarked;
