package dev.loran.kernels.cuda;

/// A kernel of your own for [CudaContext#launch]: the name of an `.entry`, and the PTX text that has it, which the driver
/// compiles when the first of its kernels is launched.
public record PtxKernel(String name, String ptx) {}
