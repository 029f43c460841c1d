/// The tests that an operation must pass. They are public so that custom operations can use them too.
///
/// Describe the operation once as an [OpCase]: its arguments, its function, its cost. Then
///
/// - [OpCase#checkReference] compares its gradients with finite differences ([GradCheck]), the fused form with the
///   composed one, and counts buffers;
/// - [OpCase#check] compares another backend with the reference, forward and backward, in every dtype ([Tolerance]);
/// - [OpCase#on] puts the arguments into a backend's memory, for a benchmark to time.
///
/// [OpCases] describes every operation of the engine in this way, at odd sizes for tests and at the sizes of a model
/// for benchmarks.
@NullMarked
package dev.loran.engine.testing;

import org.jspecify.annotations.NullMarked;
