/// The readable specification of Loran: tensors, reverse-mode autograd, the operations, and a scalar reference backend.
/// Plain JDK; no flags; runs anywhere.
///
/// **Reading order**: [Tensor] (a shape over a buffer) → [Op] (a record with its backward) → [Autograd] (the backward
/// pass) → [MatMulOp] (one operation) → [dev.loran.engine.functional.Functional] (the other operations) →
/// [dev.loran.engine.backend.Backend] (memory, primitives and the kernel families below all of them).
///
/// **Letters** used for dimensions throughout: N rows, B batch, T sequence (queries), S keys, C channels, H heads, D
/// head dimension, V vocabulary, r rank, P virtual tokens. Tensors are row-major and contiguous; the innermost
/// dimension is written last: (B, T, C).
///
/// **Ownership**: a [dev.loran.engine.backend.Buffer] is reference-counted. A tensor holds one reference until it is
/// closed, and an operation recorded for backward holds one reference to each tensor it saved until the backward pass
/// has visited it (or the graph is dropped). Inside a [Scope], tensors are closed for you; there are no finalizers.
@NullMarked
package dev.loran.engine;

import org.jspecify.annotations.NullMarked;
