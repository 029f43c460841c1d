package dev.loran.peft.tuner;

import dev.loran.engine.Tensor;
import dev.loran.engine.nn.Adapter;
import dev.loran.engine.nn.Layer;

/// An adapter that acts before and after its layer's own function and leaves that as it is: forward(x) is
/// after(x, base(before(x))). The rows of a batch can then share one product with the layer's weight, each with an
/// adapter of its own; and adapters that add a term can stand on one layer together.
public interface AroundLayer<L extends Layer> extends Adapter<L> {
    /// What the layer's own function gets in place of x, of the same shape.
    default Tensor before(Tensor x) {
        return x;
    }

    /// The adapted answer to x; in training mode it is asked of terms only.
    ///
    /// @param y the layer's own answer to before(x)
    Tensor after(L base, Tensor x, Tensor y);

    /// Whether the adapter adds a term that depends on x alone, and neither changes x before the layer nor reads y.
    default boolean isTerm() {
        return false;
    }
}
