package dev.loran.engine;

import java.util.List;

/// One recorded operation. The record's header is the list of what is kept; `backward` stands under `forward` in the
/// same file. Implementations are the records of this package and, for operations of your own, [CustomOp].
///
/// A fused operation without a gradient cannot exist: recording needs an Op, and an Op has a backward.
public sealed interface Op
        permits AddOp,
                AttentionOp,
                BottleneckOp,
                CastOp,
                CheckpointOp,
                ConcatOp,
                CrossEntropyOp,
                CustomOp,
                DivOp,
                DropoutOp,
                EmbeddingOp,
                GatedOp,
                LayerNormOp,
                LinearCrossEntropyOp,
                LinearOp,
                LoraLinearOp,
                MatMulOp,
                MulOp,
                PermuteOp,
                ReshapeOp,
                RmsNormOp,
                RopeOp,
                ScaleOp,
                SliceOp,
                SoftmaxOp,
                SumOp,
                UnaryFnOp {

    /// The tensors a gradient may flow to: the edges of the graph.
    List<Tensor> inputs();

    /// The tensors whose memory backward reads; a subset of the inputs and of what forward made on the way. Each is
    /// retained when the operation is recorded and released when the walk has passed it.
    List<Tensor> saved();

    /// Adds this operation's contribution to the gradients of its inputs, given that of its output (same shape as the
    /// output). `gradOut` belongs to the walk: read it, or pass it on by [Gradients#pass].
    void backward(Tensor gradOut, Gradients gradients);
}
