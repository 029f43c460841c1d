package dev.loran.engine;

import java.util.List;

/// One recorded operation. The record's header is the list of what is kept; `backward` stands under `forward` in the
/// same file.
///
/// For an operation of your own, write such a record: compute the output with the backend of the inputs and hand both to
/// [Autograd#record]. It gets the same harness as ours from an [dev.loran.engine.testing.OpCase]. A kernel of its own asks
/// the backend for what it needs by [dev.loran.engine.backend.Backend#capability]. Under [Autograd#noGrad], or when no
/// input requires a gradient, nothing is recorded and `saved` is not retained.
///
/// A fused operation without a gradient cannot exist: recording needs an Op, and an Op has a backward.
public interface Op {

    /// The tensors a gradient may flow to: the edges of the graph.
    List<Tensor> inputs();

    /// The tensors whose memory backward reads; a subset of the inputs and of what forward made on the way. Each is
    /// retained when the operation is recorded and released when the walk has passed it.
    List<Tensor> saved();

    /// Adds this operation's contribution to the gradients of its inputs, given that of its output (same shape as the
    /// output). `gradOut` belongs to the walk: read it, or pass it on by [Gradients#pass].
    void backward(Tensor gradOut, Gradients gradients);
}
