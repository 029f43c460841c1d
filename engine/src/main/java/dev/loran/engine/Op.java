package dev.loran.engine;

import java.util.List;

/// One recorded operation. The record's components list what is kept; `backward` is below `forward` in the same file.
///
/// A custom operation is such a record too: compute the output with the backend of the inputs and pass both to
/// [Autograd#record]. An [dev.loran.engine.testing.OpCase] tests it like the ones here. If it has its own kernel, it
/// asks the backend for what that needs ([dev.loran.engine.backend.Backend#capability]). Under [Autograd#noGrad],
/// or when no input requires a gradient, nothing is recorded and `saved` is not retained.
///
/// A fused operation cannot lack a gradient: recording needs an Op, and an Op has a backward.
public interface Op {

    /// The tensors a gradient may flow to: the edges of the graph.
    List<Tensor> inputs();

    /// The tensors whose memory backward reads: some of the inputs, and intermediate results of forward. Each is
    /// retained when the operation is recorded and released once the backward pass has visited it.
    List<Tensor> saved();

    /// Adds this operation's contribution to the gradients of its inputs, given the gradient of its output (same shape
    /// as the output). `gradOut` belongs to the backward pass: read it, or pass it on with [Gradients#pass].
    void backward(Tensor gradOut, Gradients gradients);
}
