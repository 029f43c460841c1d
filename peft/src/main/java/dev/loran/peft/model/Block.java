package dev.loran.peft.model;

import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.nn.Layer;
import dev.loran.engine.nn.Slot;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/// One transformer block: attention and a feed-forward network, with the slots that adapters may fill.
public abstract class Block extends Layer {
    private final Slot<Consumer<Prefix>> observer = new Slot<>();
    private final Slot<SublayerAdapter> afterAttention = new Slot<>();
    private final Slot<SublayerAdapter> afterFeedForward = new Slot<>();

    /// Keys and values that stand before the real ones of this block, each (P, kvHeads, D), or (B, P, kvHeads, D) where
    /// the rows of a batch differ. Keys enter as they are, unrotated.
    public record Prefix(Tensor keys, Tensor values) {
        /// The number of keys, P.
        public int length() {
            return keys.shape().dim(-3);
        }
    }

    /// A function on a sublayer's output, before it is added to the residual stream.
    public interface SublayerAdapter extends AutoCloseable {
        /// (B, T, C) from the sublayer's own output and the sublayer's input, both (B, T, C).
        Tensor forward(Tensor output, Tensor input);

        @Override
        void close();
    }

    /// Is shown the keys and values of each forward; null: nobody.
    final void observer(@Nullable Consumer<Prefix> next) {
        observer.set(next);
    }

    public final @Nullable SublayerAdapter afterAttention() {
        return afterAttention.get();
    }

    public final void afterAttention(@Nullable SublayerAdapter next) {
        afterAttention.set(next);
    }

    public final @Nullable SublayerAdapter afterFeedForward() {
        return afterFeedForward.get();
    }

    public final void afterFeedForward(@Nullable SublayerAdapter next) {
        afterFeedForward.set(next);
    }

    /// The attention's output as the adapter after it, if any, leaves it.
    protected final Tensor adaptAttention(Tensor output, Tensor input) {
        SublayerAdapter adapter = afterAttention.get();
        return adapter == null ? output : adapter.forward(output, input);
    }

    /// The feed-forward network's output as the adapter after it, if any, leaves it.
    protected final Tensor adaptFeedForward(Tensor output, Tensor input) {
        SublayerAdapter adapter = afterFeedForward.get();
        return adapter == null ? output : adapter.forward(output, input);
    }

    /// The block's function: (B, T, C) from x (B, T, C). Opens a [dev.loran.engine.Scope] and keeps only its result.
    ///
    /// @param mask I32 (B, P + T), 0 hides a key; or null
    /// @param prefix stands before the keys and values of the text, which is then at positions P, P + 1, …; or null
    protected abstract Tensor forward(Tensor x, @Nullable Tensor mask, @Nullable Prefix prefix);

    /// (B, T, H · D) seen as (B, T, H, D).
    protected static Tensor heads(Tensor x, int headDim) {
        return x.reshape(x.shape().dim(0), x.shape().dim(1), -1, headDim);
    }

    /// Scaled dot-product attention of q (B, T, H, D) and k, v (B, T, kvHeads, D), the heads side by side again:
    /// (B, T, H · D). See [Functional#attention].
    protected final Tensor attend(
            Tensor q, Tensor k, Tensor v, @Nullable Tensor mask, @Nullable Prefix prefix, boolean causal) {
        Consumer<Prefix> shown = observer.get();
        if (shown != null) {
            shown.accept(new Prefix(k, v));
        }
        Shape s = q.shape();
        Tensor prefixKeys = prefix == null ? null : prefix.keys;
        Tensor prefixValues = prefix == null ? null : prefix.values;
        return Functional.attention(q, k, v, prefixKeys, prefixValues, mask, causal, 1 / Math.sqrt(s.dim(3)))
                .reshape(s.dim(0), s.dim(1), s.dim(2) * s.dim(3));
    }
}
