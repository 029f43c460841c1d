package dev.loran.peft.tuner;

import dev.loran.engine.nn.Adapter;
import dev.loran.engine.nn.Layer;

/// An adapter that can be written into the layer it stands in for: afterwards the layer alone answers as the adapted
/// one did.
public interface Mergeable<L extends Layer> extends Adapter<L> {
    /// Says what the parameters of `base` become. Nothing is written here, and nothing is recorded; tensors made on the
    /// way belong to the caller's scope.
    void merge(L base, Merge merge);

    /// Whether every layer that shares a weight which this changes is changed alike: the weight can then be written
    /// although it is tied.
    default boolean keepsTies() {
        return false;
    }
}
