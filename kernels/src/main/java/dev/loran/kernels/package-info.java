/// The backends that make the engine fast: SIMD through the Vector API on the CPU, CUDA on NVIDIA GPUs.
@NullMarked
package dev.loran.kernels;

import org.jspecify.annotations.NullMarked;
