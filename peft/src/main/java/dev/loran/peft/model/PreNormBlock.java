package dev.loran.peft.model;

import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.functional.Functional.NormedSum;
import org.jspecify.annotations.Nullable;

/// The block of decoders: x + attention(norm(x)), then the same with the feed-forward network.
final class PreNormBlock extends Block {
    private final Norm attentionNorm;
    private final Attention attention;
    private final Norm feedForwardNorm;
    private final FeedForward feedForward;

    /// @param parts the layers of the sublayers and norms
    PreNormBlock(Parts parts, Norm attentionNorm, Attention attention, Norm feedForwardNorm, FeedForward feedForward) {
        this.attentionNorm = attentionNorm;
        this.attention = attention;
        this.feedForwardNorm = feedForwardNorm;
        this.feedForward = feedForward;
        parts.layers().forEach(this::child);
    }

    @Override
    protected Tensor forward(Tensor x, @Nullable Tensor mask, @Nullable Prefix prefix) {
        try (Scope scope = Scope.open()) {
            Tensor a = attentionNorm.forward(x);
            NormedSum attended =
                    feedForwardNorm.forward(x, adaptAttention(attention.forward(this, a, mask, prefix), a));
            Tensor m = attended.norm();
            return scope.keep(attended.sum().add(adaptFeedForward(feedForward.forward(m), m)));
        }
    }
}
