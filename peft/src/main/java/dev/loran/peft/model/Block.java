package dev.loran.peft.model;

import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.AttentionKernels.Scoring;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.nn.Layer;
import dev.loran.engine.nn.Slot;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/// A transformer block: attention and a feed-forward network, with the slots that adapters can fill.
public abstract class Block extends Layer {
    private final Slot<Consumer<Prefix>> observer = new Slot<>();
    private final Slot<SublayerAdapter> afterAttention = new Slot<>();
    private final Slot<SublayerAdapter> afterFeedForward = new Slot<>();

    /// Keys and values that precede the block's own, each (P, kvHeads, D), or (B, P, kvHeads, D) if the rows of a batch
    /// differ. Keys are used as they are, without rotation.
    public record Prefix(Tensor keys, Tensor values) {
        /// The number of keys, P.
        public int length() {
            return keys.shape().dim(-3);
        }
    }

    /// A function applied to a sublayer's output before it is added to the residual stream.
    public interface SublayerAdapter extends AutoCloseable {
        /// Computes (B, T, C) from the sublayer's own output and its input, both (B, T, C).
        Tensor forward(Tensor output, Tensor input);

        @Override
        void close();
    }

    /// Sets a callback that receives the keys and values of each forward pass; null for none.
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

    /// The attention's output after its adapter, if any.
    protected final Tensor adaptAttention(Tensor output, Tensor input) {
        SublayerAdapter adapter = afterAttention.get();
        return adapter == null ? output : adapter.forward(output, input);
    }

    /// The feed-forward network's output after its adapter, if any.
    protected final Tensor adaptFeedForward(Tensor output, Tensor input) {
        SublayerAdapter adapter = afterFeedForward.get();
        return adapter == null ? output : adapter.forward(output, input);
    }

    /// Computes the block's output (B, T, C) from x (B, T, C). Opens a [dev.loran.engine.Scope] and keeps only the
    /// result.
    ///
    /// @param mask I32 (B, P + T), where 0 hides a key; or null
    /// @param prefix precedes the keys and values of the text, which then starts at position P; or null
    protected abstract Tensor forward(Tensor x, @Nullable Tensor mask, @Nullable Prefix prefix);

    /// A view of (B, T, H · D) as (B, T, H, D).
    public static Tensor heads(Tensor x, int headDim) {
        return x.reshape(x.shape().dim(0), x.shape().dim(1), -1, headDim);
    }

    /// Reports the keys and values (B, T, kvHeads, D) of a forward pass to whom it may concern.
    public final void observe(Tensor k, Tensor v) {
        Consumer<Prefix> shown = observer.get();
        if (shown != null) {
            shown.accept(new Prefix(k, v));
        }
    }

    /// Scaled dot-product attention of q (B, T, H, D) and k, v (B, T, kvHeads, D), with the heads concatenated again:
    /// (B, T, H · D). See [Functional#attention].
    protected final Tensor attend(
            Tensor q, Tensor k, Tensor v, @Nullable Tensor mask, @Nullable Prefix prefix, boolean causal) {
        return attend(
                q,
                k,
                v,
                mask,
                prefix,
                new Scoring(causal, 1 / Math.sqrt(q.shape().dim(3))));
    }

    /// As above, for any scores.
    protected final Tensor attend(
            Tensor q, Tensor k, Tensor v, @Nullable Tensor mask, @Nullable Prefix prefix, Scoring scoring) {
        observe(k, v);
        Shape s = q.shape();
        Tensor prefixKeys = prefix == null ? null : prefix.keys;
        Tensor prefixValues = prefix == null ? null : prefix.values;
        return Functional.attention(q, k, v, prefixKeys, prefixValues, mask, scoring)
                .reshape(s.dim(0), s.dim(1), s.dim(2) * s.dim(3));
    }
}
