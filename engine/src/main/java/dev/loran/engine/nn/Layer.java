package dev.loran.engine.nn;

import dev.loran.engine.Tensor;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Set;
import java.util.function.BiConsumer;
import java.util.function.Supplier;

/// A tree of named layers with named parameters, in the order of registration: torch's `Module`. Names are joined by
/// dots,
/// as in torch's `named_parameters`.
///
/// A layer owns its parameters: [#close] closes them and those of its children.
public abstract class Layer implements AutoCloseable {
    private static final ScopedValue<Boolean> EVALUATING = ScopedValue.newInstance();

    private final Map<String, Layer> children = new LinkedHashMap<>();
    private final Map<String, Tensor> parameters = new LinkedHashMap<>();
    private boolean training;

    /// Registers `layer` under `name`, which may hold dots for levels that have no layer of their own.
    protected final <T extends Layer> T child(String name, T layer) {
        if (children.putIfAbsent(name, layer) != null) {
            throw new IllegalArgumentException("layer: child " + name + " exists already");
        }
        return layer;
    }

    /// Takes the child `name` out again, unclosed.
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

    /// Registers `value` in the place of parameter `name`, which belongs to the caller from then on.
    protected final Tensor replaceParameter(String name, Tensor value) {
        if (parameters.replace(name, value.detachFromScope()) == null) {
            throw new IllegalArgumentException("layer: there is no parameter " + name);
        }
        return value;
    }

    /// Every parameter below this layer by its torch name, each once: a tied one under its first name.
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

    /// This layer (under the empty name) and every layer below it by its torch name.
    public final Map<String, Layer> namedModules() {
        Map<String, Layer> all = new LinkedHashMap<>();
        modules("", all);
        return all;
    }

    private void modules(String name, Map<String, Layer> all) {
        all.put(name, this);
        children.forEach((n, layer) -> layer.modules(join(name, n), all));
    }

    /// Reports the parameters of this layer and those below, named from `prefix`.
    protected void collect(String prefix, BiConsumer<String, Tensor> visitor) {
        parameters.forEach((name, tensor) -> visitor.accept(join(prefix, name), tensor));
        children.forEach((name, layer) -> layer.collect(join(prefix, name), visitor));
    }

    static String join(String prefix, String name) {
        return prefix.isEmpty() ? name : prefix + "." + name;
    }

    /// Whether dropout acts.
    public final boolean isTraining() {
        return training && !EVALUATING.isBound();
    }

    /// Runs `work` on this thread with all layers in evaluation mode, whatever mode they are in for others.
    public static <R> R evaluating(Supplier<R> work) {
        return ScopedValue.where(EVALUATING, true).call(work::get);
    }

    /// Sets training or evaluation mode here and below.
    public void train(boolean mode) {
        namedModules().values().forEach(layer -> layer.training = mode);
    }

    /// Sets whether the parameters here and below collect gradients.
    public final void requiresGrad(boolean value) {
        namedParameters().values().forEach(p -> p.requiresGrad(value));
    }

    /// Number of parameters here and below, tied ones once.
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
