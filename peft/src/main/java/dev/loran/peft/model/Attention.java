package dev.loran.peft.model;

import dev.loran.engine.Tensor;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.model.Block.Prefix;
import java.util.List;
import org.jspecify.annotations.Nullable;

/// Multi-head attention, a sublayer of a [Block].
///
/// @param in the projections to queries, keys and values, or one layer that computes all three side by side
/// @param out the projection of the heads' outputs
/// @param headDim width of a head
/// @param isCausal whether later positions are hidden from each position
/// @param angles rotates queries and keys by their positions; null without rotary embeddings
/// @param norms applied to each head's queries and keys before rotation; null for none
record Attention(
        List<Linear> in,
        Linear out,
        int headDim,
        boolean isCausal,
        @Nullable Angles angles,
        @Nullable HeadNorms norms) {
    /// Norms over the width of a head.
    record HeadNorms(Norm queries, Norm keys) {}

    /// The sublayer's output (B, T, C) from x (B, T, C); see [Block#forward].
    Tensor forward(Block block, Tensor x, @Nullable Tensor mask, @Nullable Prefix prefix) {
        List<Tensor> qkv = in.size() == 1 ? parts(in.getFirst().forward(x)) : Linear.forward(x, in);
        Tensor queries = Block.heads(qkv.get(0), headDim);
        Tensor keys = Block.heads(qkv.get(1), headDim);
        if (norms != null) {
            queries = norms.queries.forward(queries);
            keys = norms.keys.forward(keys);
        }
        if (angles != null) {
            int from = prefix == null ? 0 : prefix.length();
            queries = angles.turn(queries, from);
            keys = angles.turn(keys, from);
        }
        Tensor values = Block.heads(qkv.get(2), headDim);
        return out.forward(block.attend(queries, keys, values, mask, prefix, isCausal));
    }

    /// Splits off the queries, as wide as all heads together, then keys and values of equal width.
    private List<Tensor> parts(Tensor qkv) {
        int width = out.inFeatures();
        int end = qkv.shape().dim(2);
        int values = width + (end - width) / 2;
        return List.of(qkv.slice(2, 0, width), qkv.slice(2, width, values), qkv.slice(2, values, end));
    }
}
