/// Measurements of kernels and of whole training steps, always as a ratio to a peer measured on the same machine in the
/// same run.
@NullMarked
package dev.loran.benchmarks;

import org.jspecify.annotations.NullMarked;
