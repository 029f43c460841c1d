package dev.loran.peft.model;

import dev.loran.engine.Tensor;
import dev.loran.engine.nn.Layer;
import org.jspecify.annotations.Nullable;

/// One transformer block: attention and a feed-forward network, with the slots that adapters may fill.
public abstract class Block extends Layer {
    private @Nullable Prefix prefix;
    private @Nullable SublayerAdapter afterAttention;
    private @Nullable SublayerAdapter afterFeedForward;

    /// Keys and values that stand before the real ones of this block, each (P, kvHeads, D), or (B, P, kvHeads, D) where
    /// the
    /// rows of a batch differ. Keys enter as they are, unrotated.
    public record Prefix(Tensor keys, Tensor values) {}

    /// A function on a sublayer's output, before it is added to the residual stream.
    public interface SublayerAdapter extends AutoCloseable {
        /// (B, T, C) from the sublayer's own output and the sublayer's input, both (B, T, C).
        Tensor forward(Tensor output, Tensor input);

        @Override
        void close();
    }

    public final @Nullable Prefix prefix() {
        return prefix;
    }

    /// Sets the prefix for the next forward, or takes it away.
    public final void prefix(@Nullable Prefix next) {
        prefix = next;
    }

    public final @Nullable SublayerAdapter afterAttention() {
        return afterAttention;
    }

    public final void afterAttention(@Nullable SublayerAdapter next) {
        afterAttention = next;
    }

    public final @Nullable SublayerAdapter afterFeedForward() {
        return afterFeedForward;
    }

    public final void afterFeedForward(@Nullable SublayerAdapter next) {
        afterFeedForward = next;
    }

    /// The attention's output as the adapter after it, if any, leaves it.
    protected final Tensor adaptAttention(Tensor output, Tensor input) {
        return afterAttention == null ? output : afterAttention.forward(output, input);
    }

    /// The feed-forward network's output as the adapter after it, if any, leaves it.
    protected final Tensor adaptFeedForward(Tensor output, Tensor input) {
        return afterFeedForward == null ? output : afterFeedForward.forward(output, input);
    }
}
