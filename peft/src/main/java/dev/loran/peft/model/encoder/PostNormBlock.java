package dev.loran.peft.model.encoder;

import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.peft.model.Block;
import dev.loran.peft.model.FeedForward;
import dev.loran.peft.model.Norm;
import dev.loran.peft.model.Parts;
import org.jspecify.annotations.Nullable;

/// The block of BERT and later encoders: norm(x + attention(x)), then the same with the feed-forward network.
final class PostNormBlock extends Block {
    private final Attending attention;
    private final Norm attentionNorm;
    private final FeedForward feedForward;
    private final Norm feedForwardNorm;

    /// The attention sublayer: (B, T, C) from x (B, T, C); see [Block#forward].
    interface Attending {
        Tensor forward(Block block, Tensor x, @Nullable Tensor mask, @Nullable Prefix prefix);
    }

    /// @param parts the layers of the sublayers and norms
    PostNormBlock(Parts parts, Attending attention, Norm attentionNorm, FeedForward feedForward, Norm feedForwardNorm) {
        this.attention = attention;
        this.attentionNorm = attentionNorm;
        this.feedForward = feedForward;
        this.feedForwardNorm = feedForwardNorm;
        parts.layers().forEach(this::child);
    }

    @Override
    protected Tensor forward(Tensor x, @Nullable Tensor mask, @Nullable Prefix prefix) {
        try (Scope scope = Scope.open()) {
            Tensor attended = attentionNorm
                    .forward(adaptAttention(attention.forward(this, x, mask, prefix), x), x)
                    .norm();
            Tensor fed = adaptFeedForward(feedForward.forward(attended), attended);
            return scope.keep(feedForwardNorm.forward(fed, attended).norm());
        }
    }
}
