/// What computes: counted memory, a few primitives, and the families of kernels that are composed of them until a
/// backend has something faster. Nothing here knows a tensor or a graph.
///
/// **Reading order**: [Backend] (memory, capture, primitives) → [Buffer] (counted memory) → one family, for example
/// [LinearKernels], whose default methods are at once fallback, oracle and documentation → [ReferenceBackend] (the
/// scalar loops that define every result).
///
/// **Arguments**: what belongs together comes as one record: a [Matrix] is a buffer with its shape and stride, a
/// [Gradient] is a buffer that is overwritten or added to, a [DropoutMask] names the random numbers of one site.
@NullMarked
package dev.loran.engine.backend;

import org.jspecify.annotations.NullMarked;
