/// Products of F32 and BF16 matrices: `GemmSimd` with its panels and tiles, `FrozenWeight` (a weight packed once), and
/// `GemmBf16`, where the Vector API ends and hand-written machine code begins (`AmxTiles`, `Avx512Tiles`). This package
/// is public only for the backend's other packages; it is not part of the API.
@NullMarked
package dev.loran.kernels.simd.gemm;

import org.jspecify.annotations.NullMarked;
