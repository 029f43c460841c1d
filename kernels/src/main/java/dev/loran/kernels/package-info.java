/// The backends that make the engine fast: SIMD through the Vector API on the CPU, CUDA on NVIDIA GPUs.
///
/// **Reading order**: [Backends] (what runs where, and why) → [dev.loran.kernels.simd.SimdBackend] (memory and
/// primitives) → one family of kernels, `simd.NormSimd` say → `simd.gemm.GemmSimd` with its panels and tiles →
/// `simd.gemm.GemmBf16`, where the Vector API ends and machine code of our own begins (`AmxTiles`, `Avx512Tiles`, and
/// the package `simd.machine`). The same family on a GPU is `cuda.NormCuda`, its kernels are `src-cuda/norm.cu`.
///
/// # Writing a kernel
///
/// A kernel has two ways in.
///
/// - **An operation of your own**: a record that implements [dev.loran.engine.Op], forward beside backward.
///   Nothing here changes, and it runs wherever its backend's methods do. Where it can do better it asks the backend
///   for what it needs ([dev.loran.engine.backend.Backend#capability]): [dev.loran.kernels.simd.vector.Parallel] on the CPU,
///   with the helpers of that package, and [dev.loran.kernels.cuda.CudaContext] on a GPU, which launches a kernel that
///   comes as PTX.
/// - **A faster form of an operation that there is**: a [dev.loran.engine.backend.Backend] has a few primitives, and hands out
///   families of fused operations, which are default methods composed of them. A family has one class in `simd` and one
///   in `cuda`: override the method that you can do better; the default stays as its oracle.
///
/// Either way an [dev.loran.engine.testing.OpCase] describes the operation once: its arguments, the same from other
/// operations, its cost. From that come
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
/// last step of a LoRA layer of rank 4, as an operation of its own, for the CPU and, in PTX, for a GPU;
/// `Rank4UpdateTest` holds every step to its case. At 1024 x 2048 it does 17 MFLOP on 17 MB: by the roofline it is
/// bound by memory, and the ladder ends when it copies as fast as the machine does. `./loran bench jmh Rank4Benchmark`
/// gave, on 2 cores of an AMD EPYC (Zen 4) shared with others,
///
/// | step | what changes | time | times as fast |
/// |---|---|---|---|
/// | scalar | the formula, element by element | 5.52 ms | 1 |
/// | vector | b transposed once, so that lanes run along a row; every vector's terms from memory | 1.17 ms | 4.7 |
/// | blocked | four rows share the vectors of b in registers; multiply and add fused | 0.88 ms | 6.3 |
/// | parallel | blocks of rows on all cores, the same bits for any number | 0.64 ms | 8.6 |
///
/// # What C2 asks for
///
/// - Native memory at 64-byte offsets, the species a constant, offsets in bytes as `long`, accumulators as local
///   variables: then loads, broadcasts and fused multiply-adds are all that is left in the loop.
/// - One method, one loop. A loop that chooses its function inside, or in which too much is inlined, puts every vector
///   into an object: five times slower, and nothing warns of it. `-XX:+UnlockDiagnosticVMOptions -XX:+PrintInlining`
///   shows `NodeCountInliningCutoff` where that happened: beyond 18,000 nodes C2 inlines the JDK's own methods but none
///   of ours. An operation on vectors has some 400 of them, a load or store 500 to 900, the exponential 8,600.
/// - What callers inline counts as well. A method of up to 325 bytes of bytecode goes into its caller unless its own
///   machine code has more than 2,500, as many loops have with vectors of 512 bits and not with 256: two exponentials
///   that are called one after the other must stay apart, as `AttentionBlock.forLanes` does it. Likewise a method of
///   ours in a branch that is rare when C2 compiles it is called, not inlined: there, load and store by the Vector
///   API's own.
/// - `-XX:-UseProfiledLoopPredicate`, which the launcher and the tests pass: with it on, a check that was moved out of
///   the loop fails where a loop ends with its memory segment, and C2 compiles the kernel anew, dozens of times
///   (`-Xlog:deoptimization=debug` shows `profile_predicate`).
/// - No masks for tails: a short scalar loop costs less.
/// - Every split that orders a sum follows from the shape alone, never from the number of threads: the same bits
///   everywhere.
@NullMarked
package dev.loran.kernels;

import org.jspecify.annotations.NullMarked;
