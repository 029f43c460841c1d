/// The engine's kernels on the CPU, by the Vector API: [SimdBackend] with the primitives, and a class for each family
/// of kernels (`LinearSimd`, `ActivationSimd`, `NormSimd`, `AttentionSimd`, `LossSimd`, `OptimizerSimd`). Products of
/// matrices stand in `gemm`, what every kernel is written with in `vector`.
@NullMarked
package dev.loran.kernels.simd;

import org.jspecify.annotations.NullMarked;
