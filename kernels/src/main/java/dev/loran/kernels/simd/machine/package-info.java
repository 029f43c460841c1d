/// Machine code of our own, for instructions that the Vector API does not know: written by `Assembler`, called by way
/// of `MachineCode`. It is public for the other packages of the backend, and promises nothing to others.
@NullMarked
package dev.loran.kernels.simd.machine;

import org.jspecify.annotations.NullMarked;
