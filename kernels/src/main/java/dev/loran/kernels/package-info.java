/// The backends that make the engine fast: SIMD through the Vector API on the CPU, CUDA on NVIDIA GPUs.
///
/// **Reading order**: [Backends] (what runs where, and why) → [dev.loran.kernels.simd.SimdBackend] (memory and
/// primitives) → one family of kernels, such as `simd.NormSimd` → `simd.gemm.GemmSimd` with its panels and tiles →
/// `simd.gemm.GemmBf16`, where the Vector API ends and hand-written machine code begins (`AmxTiles`, `Avx512Tiles`, and
/// the package `simd.machine`). The same family on a GPU is `cuda.NormCuda`; its kernels are in `src-cuda/norm.cu`.
///
/// # Writing a kernel
///
/// There are two ways to add a kernel.
///
/// - **A custom operation**: a record that implements [dev.loran.engine.Op], with forward next to backward.
///   Nothing here changes, and it runs wherever the backend methods that it calls do. To do better, it asks the backend
///   for what it needs ([dev.loran.engine.backend.Backend#capability]): [dev.loran.kernels.simd.vector.Parallel] on the
///   CPU, together with the helpers of that package, and [dev.loran.kernels.cuda.CudaContext] on a GPU, which launches
///   kernels supplied as PTX.
/// - **A faster version of an existing operation**: a [dev.loran.engine.backend.Backend] has a few primitives, and
///   hands out families of fused operations, which are default methods composed of them. A family has one class in
///   `simd` and one in `cuda`: override the method you can improve; the default remains its oracle.
///
/// In both cases an [dev.loran.engine.testing.OpCase] describes the operation once: its arguments, the same function
/// composed of other operations, its cost. It answers these questions:
///
/// | question | answer |
/// |---|---|
/// | is the gradient right? | `opCase.checkReference()`: finite differences in F64, fused against composed |
/// | is the kernel right? | `opCase.check(backend)`: both ways against the reference, in each dtype, on dirty memory |
/// | how fast is it? | `opCase.on(backend, DType.F32)` and JMH: `./loran bench jmh OpBenchmark -p op=rope` |
/// | how fast could it be? | `./loran bench roofline`: peak arithmetic and copying in one run, and the share reached |
/// | where does the time of a training step go? | `./loran bench step --profile`: by operation, and by kernel |
///
/// # A worked example
///
/// `benchmarks/src/main/java/dev/loran/benchmarks/Rank4Update.java` is y = x + t · bᵀ with t (n, 4) and b (out, 4), the
/// last step of a LoRA layer of rank 4, as a custom operation for the CPU and, in PTX, for a GPU; `Rank4UpdateTest`
/// checks every step against its case. At 1024 x 2048 it does 17 MFLOP on 17 MB: according to the roofline it is
/// memory-bound, so optimization ends when it runs as fast as the machine can copy. On 2 cores of a shared AMD EPYC
/// (Zen 4), `./loran bench jmh Rank4Benchmark` gave
///
/// | step | what changes | time | speedup |
/// |---|---|---|---|
/// | scalar | the formula, element by element | 5.52 ms | 1 |
/// | vector | b is transposed once, so lanes run along a row; each vector's terms come from memory | 1.17 ms | 4.7 |
/// | blocked | four rows share the vectors of b in registers; multiply and add are fused | 0.88 ms | 6.3 |
/// | parallel | blocks of rows on all cores, with the same bits for any number of cores | 0.64 ms | 8.6 |
///
/// # What C2 needs
///
/// - Native memory at 64-byte offsets, a constant species, byte offsets of type `long`, accumulators as local
///   variables: then only loads, broadcasts and fused multiply-adds remain in the loop.
/// - One loop per method. A loop that selects its function inside, or into which too much is inlined, puts every vector
///   into an object: five times slower, without any warning. `NodeCountInliningCutoff` in the output of
///   `-XX:+UnlockDiagnosticVMOptions -XX:+PrintInlining` shows where that has happened: beyond 18,000 nodes, C2 still
///   inlines the JDK's own methods but no others. A vector operation takes about 400 nodes, a load or store 500 to 900,
///   the exponential 8,600.
/// - Code inlined into callers counts too. A method of up to 325 bytes of bytecode is inlined into its caller unless
///   its own machine code is larger than 2,500 bytes, which holds for many loops with 512-bit vectors but not with
///   256-bit ones. Two exponentials in consecutive calls must therefore be kept apart, as `AttentionBlock.forLanes`
///   does. Similarly, C2 calls one of our methods instead of inlining it if it is in a branch that has rarely been
///   taken by the time of compilation: there, use the Vector API's own load and store.
/// - `-XX:-UseProfiledLoopPredicate`, which the launcher and the tests pass. If that optimization stays on, a check
///   that was hoisted out of the loop fails when a loop ends together with its memory segment, and C2 recompiles the
///   kernel dozens of times (`-Xlog:deoptimization=debug` shows `profile_predicate`).
/// - No masks for tails: a short scalar loop costs less.
/// - Every split that affects the order of a sum depends on the shape alone, never on the number of threads, so the
///   bits are the same everywhere.
@NullMarked
package dev.loran.kernels;

import org.jspecify.annotations.NullMarked;
