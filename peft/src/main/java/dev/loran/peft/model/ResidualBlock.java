package dev.loran.peft.model;

import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.functional.Functional.NormedSum;
import org.jspecify.annotations.Nullable;

/// The block of decoders: x + attention(norm(x)), then the same with the feed-forward network. Families differ in where
/// the norms are, before a sublayer, after it or both, and in whether a sublayer's result is scaled.
public final class ResidualBlock extends Block {
    private final Attention attention;
    private final FeedForward feedForward;
    private final Norms aroundAttention;
    private final Norms aroundFeedForward;
    private final double scale;

    /// The norms of a sublayer f, which contributes after(f(before(x))); null for none.
    public record Norms(@Nullable Norm before, @Nullable Norm after) {}

    /// A block with norms before its sublayers.
    ///
    /// @param parts the layers of the sublayers and norms
    public ResidualBlock(
            Parts parts, Norm attentionNorm, Attention attention, Norm feedForwardNorm, FeedForward feedForward) {
        this(parts, new Norms(attentionNorm, null), attention, new Norms(feedForwardNorm, null), feedForward, 1);
    }

    /// @param parts the layers of the sublayers and norms
    /// @param scale factor of what each sublayer adds
    public ResidualBlock(
            Parts parts,
            Norms aroundAttention,
            Attention attention,
            Norms aroundFeedForward,
            FeedForward feedForward,
            double scale) {
        this.attention = attention;
        this.feedForward = feedForward;
        this.aroundAttention = aroundAttention;
        this.aroundFeedForward = aroundFeedForward;
        this.scale = scale;
        parts.layers().forEach(this::child);
    }

    @Override
    protected Tensor forward(Tensor x, @Nullable Tensor mask, @Nullable Prefix prefix) {
        try (Scope scope = Scope.open()) {
            Norm first = aroundAttention.before;
            Tensor a = first == null ? x : first.forward(x);
            Tensor attended =
                    contribution(aroundAttention, adaptAttention(attention.forward(this, a, mask, prefix), a));
            Norm second = aroundFeedForward.before;
            if (second == null) {
                Tensor sum = x.add(attended);
                return scope.keep(sum.add(fed(sum)));
            }
            NormedSum sum = second.forward(x, attended);
            return scope.keep(sum.sum().add(fed(sum.norm())));
        }
    }

    private Tensor fed(Tensor m) {
        return contribution(aroundFeedForward, adaptFeedForward(feedForward.forward(m), m));
    }

    private Tensor contribution(Norms norms, Tensor output) {
        Tensor normed = norms.after == null ? output : norms.after.forward(output);
        return scale == 1 ? normed : normed.scale(scale);
    }
}
