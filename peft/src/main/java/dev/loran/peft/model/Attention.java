package dev.loran.peft.model;

import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.AttentionKernels.Scoring;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.model.Block.Prefix;
import java.util.List;
import java.util.function.Function;
import org.jspecify.annotations.Nullable;

/// Multi-head attention, a sublayer of a [Block].
///
/// @param in computes queries, keys and values, each (B, T, heads · D), from x (B, T, C)
/// @param out the projection of the heads' outputs
/// @param headDim width of a head
/// @param scoring how queries weigh keys; its window counts positions
/// @param positions of the tokens; only a window needs them
/// @param angles rotates queries and keys by their positions; null without rotary embeddings
/// @param norms applied to queries and keys before rotation; null for none
public record Attention(
        Function<Tensor, List<Tensor>> in,
        Linear out,
        int headDim,
        Scoring scoring,
        @Nullable Positions positions,
        @Nullable Angles angles,
        @Nullable Norms norms) {
    /// Norms of queries and keys, over the width of a head or of all heads.
    public record Norms(Norm queries, Norm keys) {}

    /// Attention with scores scaled by 1 / √headDim.
    ///
    /// @param in the projections to queries, keys and values, or one layer that computes all three side by side
    public Attention(
            List<Linear> in,
            Linear out,
            int headDim,
            boolean isCausal,
            @Nullable Angles angles,
            @Nullable Norms norms) {
        this(
                in.size() == 1 ? sideBySide(in.getFirst(), out.inFeatures()) : x -> Linear.forward(x, in),
                out,
                headDim,
                new Scoring(isCausal, 1 / Math.sqrt(headDim)),
                null,
                angles,
                norms);
    }

    /// One layer that computes queries, `width` wide, then keys and values of equal width.
    public static Function<Tensor, List<Tensor>> sideBySide(Linear layer, int width) {
        return x -> {
            Tensor qkv = layer.forward(x);
            int end = qkv.shape().dim(2);
            int values = width + (end - width) / 2;
            return List.of(qkv.slice(2, 0, width), qkv.slice(2, width, values), qkv.slice(2, values, end));
        };
    }

    /// One layer that computes query, key and value of the first head, then those of the next.
    public static Function<Tensor, List<Tensor>> headByHead(Linear layer, int headDim) {
        return x -> {
            Tensor qkv = Block.heads(layer.forward(x), 3 * headDim);
            return List.of(
                    qkv.slice(3, 0, headDim),
                    qkv.slice(3, headDim, 2 * headDim),
                    qkv.slice(3, 2 * headDim, 3 * headDim));
        };
    }

    /// The sublayer's output (B, T, C) from x (B, T, C); see [Block#forward].
    public Tensor forward(Block block, Tensor x, @Nullable Tensor mask, @Nullable Prefix prefix) {
        List<Tensor> qkv = in.apply(x);
        Tensor queries = heads(qkv.get(0), norms == null ? null : norms.queries);
        Tensor keys = heads(qkv.get(1), norms == null ? null : norms.keys);
        Tensor values = heads(qkv.get(2), null);
        int from = prefix == null ? 0 : prefix.length();
        Tensor inTexts = Positions.inTexts(mask, x.shape().dim(1), from);
        if (angles != null) {
            queries = angles.turn(queries, from, inTexts);
            keys = angles.turn(keys, from, inTexts);
        }
        boolean isNear =
                scoring.window() == 0 || scoring.window() >= from + x.shape().dim(1);
        if (mask != null && inTexts != null) {
            if (!isNear && from > 0) {
                throw new IllegalArgumentException("attention: through a sliding window, rows of several texts cannot"
                        + " have a prefix, whose distance differs between texts");
            }
            Scoring packed = withWindow(isNear ? 0 : scoring.window()).withPacked(true);
            return out.forward(block.attend(queries, keys, values, Positions.part(mask, 0), prefix, packed));
        }
        if (isNear || positions == null) {
            return out.forward(block.attend(queries, keys, values, mask, prefix, withWindow(0)));
        }
        Tensor near = positions.near(x, from, scoring.window());
        return out.forward(
                near == null
                        ? block.attend(queries, keys, values, mask, prefix, scoring)
                        : block.attend(queries, keys, values, near, prefix, withWindow(0)));
    }

    private Tensor heads(Tensor x, @Nullable Norm norm) {
        Shape s = x.shape();
        Tensor normed = norm == null ? x : norm.forward(x.reshape(s.dim(0), s.dim(1), -1, norm.width()));
        return normed.reshape(s.dim(0), s.dim(1), -1, headDim);
    }

    private Scoring withWindow(int window) {
        return window == scoring.window() ? scoring : scoring.withWindow(window);
    }
}
