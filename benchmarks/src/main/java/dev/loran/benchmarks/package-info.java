/// Measurements of kernels and whole training steps, always as a ratio to a peer that ran on the same machine in the
/// same run.
@NullMarked
package dev.loran.benchmarks;

import org.jspecify.annotations.NullMarked;
