package dev.loran.peft.model;

import dev.loran.engine.nn.Embedding;
import dev.loran.engine.nn.Layer;
import dev.loran.engine.nn.LayerNorm;
import dev.loran.engine.nn.Linear;
import dev.loran.engine.nn.RmsNorm;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.function.BiConsumer;

/// Creates the layers of a block and records them in the family's order, under the family's names.
public final class Parts {
    private final Weights weights;
    private final double std;
    private final Map<String, Layer> layers = new LinkedHashMap<>();
    private final BiConsumer<String, Layer> observer;

    /// @param std standard deviation of random weights unless another is given
    public Parts(Weights weights, double std) {
        this(weights, std, (name, layer) -> {});
    }

    /// @param observer is told of each layer when it is made
    public Parts(Weights weights, double std, BiConsumer<String, Layer> observer) {
        this.weights = weights;
        this.std = std;
        this.observer = observer;
    }

    public Map<String, Layer> layers() {
        return layers;
    }

    private <L extends Layer> L add(String name, L layer) {
        layers.put(name, layer);
        observer.accept(name, layer);
        return layer;
    }

    public Linear linear(String name, int in, int out, boolean bias) {
        return linear(name, in, out, bias, std);
    }

    public Linear linear(String name, int in, int out, boolean bias, double std) {
        return add(name, weights.linear(name, in, out, bias, std));
    }

    /// A linear layer that files hold as (in, out): GPT-2's `Conv1D`.
    public Linear conv1d(String name, int in, int out, double std) {
        return add(name, weights.conv1d(name, in, out, std));
    }

    public Embedding embedding(String name, int rows, int cols) {
        return add(name, weights.embedding(name, rows, cols, std));
    }

    /// Whether there is a layer that only some models of the family have.
    public boolean has(String name) {
        return weights.has(name + ".weight");
    }

    public Norm layerNorm(String name, int size, double eps) {
        return layerNorm(name, size, eps, true);
    }

    public Norm layerNorm(String name, int size, double eps, boolean bias) {
        LayerNorm norm = weights.layerNorm(name, size, eps, bias);
        return new Norm(add(name, norm));
    }

    public Norm rmsNorm(String name, int size, double eps) {
        RmsNorm norm = weights.rmsNorm(name, size, eps);
        return new Norm(add(name, norm));
    }

    /// A norm that multiplies by 1 + weight.
    public Norm rmsNormAddingOne(String name, int size, double eps) {
        RmsNorm norm = weights.rmsNormAddingOne(name, size, eps);
        return new Norm(add(name, norm));
    }
}
