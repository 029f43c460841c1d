/// Hand-written machine code, for instructions that the Vector API does not provide: emitted by `Assembler`, called
/// through `MachineCode`. This package is public only for the backend's other packages; it is not part of the API.
@NullMarked
package dev.loran.kernels.simd.machine;

import org.jspecify.annotations.NullMarked;
