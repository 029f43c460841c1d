package dev.loran.peft.tuner;

import dev.loran.engine.Tensor;
import dev.loran.engine.nn.Adapter;
import dev.loran.engine.nn.Layer;

/// An adapter that acts before and after its layer's own function and leaves that function unchanged: forward(x) is
/// after(x, base(before(x))). The rows of a batch can therefore share one product with the layer's weight while each
/// has its own adapter, and adapters that add a term can be combined on one layer.
public interface AroundLayer<L extends Layer> extends Adapter<L> {
    /// The input of the layer's own function in place of x, of the same shape.
    default Tensor before(Tensor x) {
        return x;
    }

    /// The adapted output for x; in training mode it is called for terms only.
    ///
    /// @param y the layer's own output for before(x)
    Tensor after(L base, Tensor x, Tensor y);

    /// Whether the adapter adds a term that depends on x alone, so that it neither changes x before the layer nor reads
    /// y.
    default boolean isTerm() {
        return false;
    }
}
