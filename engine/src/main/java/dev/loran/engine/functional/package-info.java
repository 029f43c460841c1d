/// The differentiable operations that are not methods of a tensor, as in torch's `nn.functional`: each is checked and
/// documented in [Functional], and computed by a record of its own that holds forward and backward.
///
/// **Reading order**: [Functional] → [LinearOp] (one operation, from its arguments to its kernels) → any other.
@NullMarked
package dev.loran.engine.functional;

import org.jspecify.annotations.NullMarked;
