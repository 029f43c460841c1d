/// Products of F32 and BF16 matrices: `GemmSimd` with its panels and tiles, `FrozenWeight` (a weight packed once), and
/// `GemmBf16`, where the Vector API ends and machine code of our own begins (`AmxTiles`, `Avx512Tiles`). It is public
/// for the other packages of the backend, and promises nothing to others.
@NullMarked
package dev.loran.kernels.simd.gemm;

import org.jspecify.annotations.NullMarked;
