/// The engine's kernels on the CPU, using the Vector API: [SimdBackend] (memory), its `SimdOperations` (the
/// primitives), and one class per family of kernels (`LinearSimd`, `ActivationSimd`, `NormSimd`, `AttentionSimd`,
/// `LossSimd`, `OptimizerSimd`). Matrix products are in `gemm`, and the building blocks of all kernels in `vector`.
@NullMarked
package dev.loran.kernels.simd;

import org.jspecify.annotations.NullMarked;
