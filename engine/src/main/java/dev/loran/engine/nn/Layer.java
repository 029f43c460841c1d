package dev.loran.engine.nn;

import dev.loran.engine.Tensor;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Set;
import java.util.function.BiConsumer;
import java.util.function.Supplier;

/// A tree of named layers with named parameters, in order of registration: torch's `Module`. Names are joined by dots,
/// as in torch's `named_parameters`.
///
/// A layer owns its parameters: [#close] closes them and those of its children.
public abstract class Layer implements AutoCloseable {
    private static final ScopedValue<Boolean> EVALUATING = ScopedValue.newInstance();

    private final Map<String, Layer> children = new LinkedHashMap<>();
    private final Map<String, Tensor> parameters = new LinkedHashMap<>();
    private boolean training;

    /// Registers `layer` under `name`, which may contain dots for levels that have no layer of their own.
    protected final <T extends Layer> T child(String name, T layer) {
        if (children.putIfAbsent(name, layer) != null) {
            throw new IllegalArgumentException("layer: child " + name + " exists already");
        }
        return layer;
    }

    /// Removes the child `name` without closing it.
    protected final void removeChild(String name) {
        if (children.remove(name) == null) {
            throw new IllegalArgumentException("layer: there is no child " + name);
        }
    }

    /// Registers `value` under `name` and takes it out of any scope.
    protected final Tensor parameter(String name, Tensor value) {
        if (parameters.putIfAbsent(name, value.detachFromScope()) != null) {
            throw new IllegalArgumentException("layer: parameter " + name + " exists already");
        }
        return value;
    }

    /// Registers `value` in place of parameter `name`; the previous parameter then belongs to the caller.
    protected final Tensor replaceParameter(String name, Tensor value) {
        if (parameters.replace(name, value.detachFromScope()) == null) {
            throw new IllegalArgumentException("layer: there is no parameter " + name);
        }
        return value;
    }

    /// Returns every parameter below this layer by its torch name, each once; a tied parameter appears under its first
    /// name.
    public final Map<String, Tensor> namedParameters() {
        Map<String, Tensor> all = new LinkedHashMap<>();
        Set<Tensor> seen = new HashSet<>();
        collect("", (name, tensor) -> {
            if (seen.add(tensor)) {
                all.put(name, tensor);
            }
        });
        return all;
    }

    /// Returns this layer (under the empty name) and every layer below it by its torch name.
    public final Map<String, Layer> namedModules() {
        Map<String, Layer> all = new LinkedHashMap<>();
        modules("", all);
        return all;
    }

    private void modules(String name, Map<String, Layer> all) {
        all.put(name, this);
        children.forEach((n, layer) -> layer.modules(join(name, n), all));
    }

    /// Passes the parameters of this layer and of those below it to `visitor`, with names starting with `prefix`.
    protected void collect(String prefix, BiConsumer<String, Tensor> visitor) {
        parameters.forEach((name, tensor) -> visitor.accept(join(prefix, name), tensor));
        children.forEach((name, layer) -> layer.collect(join(prefix, name), visitor));
    }

    static String join(String prefix, String name) {
        return prefix.isEmpty() ? name : prefix + "." + name;
    }

    /// Whether dropout is active.
    public final boolean isTraining() {
        return training && !EVALUATING.isBound();
    }

    /// Runs `work` on this thread with all layers in evaluation mode, whatever mode other threads see.
    public static <R> R evaluating(Supplier<R> work) {
        return ScopedValue.where(EVALUATING, true).call(work::get);
    }

    /// Sets training or evaluation mode for this layer and those below it.
    public void train(boolean mode) {
        namedModules().values().forEach(layer -> layer.training = mode);
    }

    /// Sets whether the parameters of this layer and of those below it collect gradients.
    public final void requiresGrad(boolean value) {
        namedParameters().values().forEach(p -> p.requiresGrad(value));
    }

    /// The number of parameters in this layer and those below it; tied ones count once.
    public final long parameterCount() {
        return namedParameters().values().stream()
                .mapToLong(p -> p.shape().size())
                .sum();
    }

    @Override
    public void close() {
        children.values().forEach(Layer::close);
        parameters.values().forEach(Tensor::close);
    }
}
