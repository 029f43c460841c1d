package dev.loran.peft.tuner;

import dev.loran.engine.Tensor;
import dev.loran.engine.nn.AdaptedLayer;
import dev.loran.engine.nn.Adapter;
import dev.loran.engine.nn.Layer;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Block;
import dev.loran.peft.model.Block.Prefix;
import dev.loran.peft.model.Block.SublayerAdapter;
import dev.loran.peft.model.Model;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.function.BiConsumer;
import java.util.function.Consumer;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;

/// What each of several adapters would put into a model's slots, read by activating them one after another. The slots
/// must be empty before and are empty afterwards.
final class Slots {
    /// A layer and the adapter that each tuner has for it: null for none.
    record OnLayer<L extends Layer>(String module, AdaptedLayer<L> layer, List<@Nullable Adapter<? super L>> adapters) {
        static <L extends Layer> OnLayer<L> of(String module, AdaptedLayer<L> layer) {
            return new OnLayer<>(module, layer, new ArrayList<>());
        }

        void read() {
            adapters.add(layer.adapter());
        }
    }

    /// A sublayer's output: its present adapter, and a function that sets it.
    record OnSublayer(
            Block block,
            Supplier<@Nullable SublayerAdapter> slot,
            Consumer<@Nullable SublayerAdapter> fill,
            List<@Nullable SublayerAdapter> adapters) {
        void read() {
            adapters.add(slot.get());
        }
    }

    private final Model model;
    private final List<OnLayer<?>> layers = new ArrayList<>();
    private final List<OnSublayer> sublayers = new ArrayList<>();
    private final List<@Nullable Supplier<List<Prefix>>> prefixes = new ArrayList<>();
    private final List<@Nullable Supplier<Tensor>> virtualTokens = new ArrayList<>();

    /// Reads the slots of each of `tuners`; null stands for the bare base.
    ///
    /// @throws InputException if one of them trains tensors of the base, which have only one value at a time
    Slots(Model model, List<@Nullable Tuner> tuners) {
        this.model = model;
        Targets.candidates(model).forEach((module, layer) -> layers.add(OnLayer.of(module, layer)));
        for (Block b : model.blocks()) {
            sublayers.add(new OnSublayer(b, b::afterAttention, b::afterAttention, new ArrayList<>()));
            sublayers.add(new OnSublayer(b, b::afterFeedForward, b::afterFeedForward, new ArrayList<>()));
        }
        for (Tuner tuner : tuners) {
            read(tuner);
        }
        layers.removeIf(slot -> slot.adapters.stream().allMatch(Objects::isNull));
        sublayers.removeIf(slot -> slot.adapters.stream().allMatch(Objects::isNull));
    }

    private void read(@Nullable Tuner tuner) {
        if (tuner != null && !tuner.baseTensors().isEmpty()) {
            throw new InputException("adapter " + tuner.title() + " trains biases of the base itself ("
                    + tuner.baseTensors().keySet().iterator().next()
                    + ", …) and can only be active alone; train it with bias none to have it beside others");
        }
        if (tuner != null) {
            tuner.activate();
        }
        try {
            layers.forEach(OnLayer::read);
            sublayers.forEach(OnSublayer::read);
            prefixes.add(model.prefixes());
            virtualTokens.add(model.virtualTokens());
        } finally {
            if (tuner != null) {
                tuner.deactivate();
            }
        }
    }

    List<OnLayer<?>> layers() {
        return layers;
    }

    List<OnSublayer> sublayers() {
        return sublayers;
    }

    List<@Nullable Supplier<List<Prefix>>> prefixes() {
        return prefixes;
    }

    List<@Nullable Supplier<Tensor>> virtualTokens() {
        return virtualTokens;
    }

    /// Fills the slots with all adapters at once. Several can share a layer if each adds a term to its output; every
    /// other slot can hold only one.
    ///
    /// @param titles the adapters' names in messages
    /// @throws InputException if adapters share a slot that can hold only one
    void fillTogether(List<String> titles) {
        // All slots are checked first, so that nothing is filled if something does not fit.
        List<Runnable> fills = new ArrayList<>();
        layers.forEach(slot -> fills.add(together(slot, titles)));
        for (OnSublayer slot : sublayers) {
            SublayerAdapter one = only(slot.adapters, titles, "behind the same sublayer");
            fills.add(() -> slot.fill.accept(one));
        }
        Supplier<List<Prefix>> prefix = only(prefixes, titles, "in the attention's prefix");
        Supplier<Tensor> tokens = only(virtualTokens, titles, "as virtual tokens before the text");
        fills.forEach(Runnable::run);
        model.prefixes(prefix);
        model.virtualTokens(tokens);
    }

    private static <L extends Layer> Runnable together(OnLayer<L> slot, List<String> titles) {
        List<Adapter<? super L>> terms = new ArrayList<>();
        for (Adapter<? super L> adapter : slot.adapters) {
            if (adapter instanceof AroundLayer<? super L> around && around.isTerm()) {
                terms.add(adapter);
            }
        }
        if (terms.size() == count(slot.adapters) && terms.size() > 1) {
            Adapter<L> sum = new Terms<>(slot.layer, terms);
            return () -> slot.layer.adapter(sum);
        }
        Adapter<? super L> one = only(slot.adapters, titles, "on " + slot.module);
        return () -> slot.layer.adapter(one);
    }

    private static int count(List<?> slots) {
        return (int) slots.stream().filter(Objects::nonNull).count();
    }

    private static <T> @Nullable T only(List<@Nullable T> adapters, List<String> titles, String where) {
        T found = null;
        List<String> who = new ArrayList<>();
        for (int i = 0; i < adapters.size(); i++) {
            T next = adapters.get(i);
            if (next != null) {
                found = next;
                who.add(titles.get(i));
            }
        }
        if (who.size() > 1) {
            throw new InputException("setAdapter: adapters " + String.join(", ", who) + " meet " + where
                    + " and do not add up there; only LoRA and AdaLoRA do, each adding a term to a layer's answer");
        }
        return found;
    }

    /// Empties all slots.
    void clear() {
        layers.forEach(slot -> slot.layer.adapter(null));
        sublayers.forEach(slot -> slot.fill.accept(null));
        model.prefixes(null);
        model.virtualTokens(null);
    }

    /// Several adapters on one layer: the layer's output plus the term of each.
    record Terms<L extends Layer>(AdaptedLayer<L> layer, List<Adapter<? super L>> terms) implements Adapter<L> {
        @Override
        public Tensor forward(L base, Tensor x) {
            Tensor y = layer.base(x);
            for (Adapter<? super L> term : terms) {
                if (term instanceof AroundLayer<? super L> around) {
                    y = around.after(base, x, y);
                }
            }
            return y;
        }

        @Override
        public void collect(BiConsumer<String, Tensor> visitor) {
            terms.forEach(term -> term.collect(visitor));
        }

        /// The adapters belong to their own [Tuner]s.
        @Override
        public void close() {}
    }
}
