package dev.loran.peft.model.decoder;

import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.peft.model.Attention;
import dev.loran.peft.model.Block;
import dev.loran.peft.model.FeedForward;
import dev.loran.peft.model.Norm;
import dev.loran.peft.model.Parts;
import org.jspecify.annotations.Nullable;

/// A block whose sublayers read the same input: x + attention(norm(x)) + feedForward(otherNorm(x)). **Source**: Wang
/// and Komatsuzaki, "GPT-J-6B", 2021.
final class ParallelBlock extends Block {
    private final Norm attentionNorm;
    private final Attention attention;
    private final Norm feedForwardNorm;
    private final FeedForward feedForward;

    /// @param parts the layers of the sublayers and norms
    ParallelBlock(Parts parts, Norm attentionNorm, Attention attention, Norm feedForwardNorm, FeedForward feedForward) {
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
            Tensor attended = adaptAttention(attention.forward(this, a, mask, prefix), a);
            Tensor m = feedForwardNorm.forward(x);
            return scope.keep(x.add(attended).add(adaptFeedForward(feedForward.forward(m), m)));
        }
    }
}
