/// The building blocks of CPU kernels, both ours and custom ones: [Vectors] (loads, stores, splitting of loops),
/// [VectorMath] (exponential, logarithm and related functions), [Parallel] (the worker threads) and [Workspace]
/// (per-thread scratch memory).
///
/// A custom operation asks its backend for the threads, and can tell from the answer whether it runs on this backend:
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
