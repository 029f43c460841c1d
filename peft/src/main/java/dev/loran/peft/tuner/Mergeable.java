package dev.loran.peft.tuner;

import dev.loran.engine.nn.Adapter;
import dev.loran.engine.nn.Layer;

/// An adapter that can be merged into the layer it adapts: afterwards the layer alone computes what the adapted one
/// did.
public interface Mergeable<L extends Layer> extends Adapter<L> {
    /// Computes the new parameters of `base`. Nothing is written or recorded here; intermediate tensors belong to the
    /// caller's scope.
    void merge(L base, Merge merge);

    /// Whether all layers that share a weight changed by this adapter change it in the same way, so that it can be
    /// merged although it is tied.
    default boolean keepsTies() {
        return false;
    }
}
