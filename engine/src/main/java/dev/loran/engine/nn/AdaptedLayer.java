package dev.loran.engine.nn;

import dev.loran.engine.Tensor;
import java.util.function.BiConsumer;
import org.jspecify.annotations.Nullable;

/// A layer whose forward an [Adapter] can take over. `L` is the layer's own type.
public abstract class AdaptedLayer<L extends Layer> extends Layer {
    private final Slot<Adapter<? super L>> slot = new Slot<>();

    /// The layer's own forward, without an adapter.
    public abstract Tensor base(Tensor x);

    /// This layer as its own type.
    public abstract L self();

    /// Applies the adapter if there is one, else the layer itself.
    public final Tensor forward(Tensor x) {
        Adapter<? super L> adapter = slot.get();
        return adapter == null ? base(x) : adapter.forward(self(), x);
    }

    public final @Nullable Adapter<? super L> adapter() {
        return slot.get();
    }

    /// Installs `next`, or removes the adapter (null); see [Slot]. Returns the previous adapter without closing it.
    public final @Nullable Adapter<? super L> adapter(@Nullable Adapter<? super L> next) {
        Adapter<? super L> before = slot.get();
        slot.set(next);
        return before;
    }

    @Override
    protected void collect(String prefix, BiConsumer<String, Tensor> visitor) {
        Adapter<? super L> adapter = slot.get();
        if (adapter == null) {
            super.collect(prefix, visitor);
        } else {
            super.collect(join(prefix, adapter.baseName()), visitor);
            adapter.collect((name, tensor) -> visitor.accept(join(prefix, name), tensor));
        }
    }

    @Override
    public void close() {
        super.close();
        Adapter<? super L> adapter = slot.get();
        if (adapter != null) {
            adapter.close();
        }
    }
}
