/// What a kernel on the CPU is written with, ours as well as your own: [Vectors] (loads, stores, how loops are cut),
/// [VectorMath] (exponential, logarithm and their relatives), [Parallel] (the threads that compute) and [Workspace]
/// (scratch memory of a thread).
///
/// An operation of your own asks its backend for the threads, and knows by the answer whether it computes here:
///
/// ```java
/// Parallel parallel = x.backend().capability(Parallel.class);
/// if (parallel != null) {
///     MemorySegment to = HostBuffer.segment(y);
///     MemorySegment from = HostBuffer.segment(x);
///     Vectors.forRows(parallel, rows, cols, (first, end) -> kernel(to, from, first, end));
/// }
/// ```
@NullMarked
package dev.loran.kernels.simd.vector;

import org.jspecify.annotations.NullMarked;
