package dev.loran.peft.model;

import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.HostBuffer;
import dev.loran.engine.nn.Embedding;
import dev.loran.engine.nn.LayerNorm;
import dev.loran.engine.nn.Linear;
import dev.loran.engine.nn.RmsNorm;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.SplittableRandom;
import java.util.random.RandomGenerator;
import org.jspecify.annotations.Nullable;

/// The source of a model's parameters during its construction: a seeded generator, or files
/// ([dev.loran.peft.hf.HfModels]). A model requests each of its parameters once, by name, in reading order.
@FunctionalInterface
public interface Weights {
    /// Parameter `name` of shape `dims`, in the model's layout.
    ///
    /// @param mean mean of the values if they are random
    /// @param std their standard deviation; 0 sets all of them to the mean
    /// @param transposed whether files hold the parameter transposed
    Tensor make(String name, double mean, double std, boolean transposed, int... dims);

    /// Draws from normal distributions in the order of the requests: the same seed gives the same model. Nothing is
    /// drawn for a hollow backend.
    static Weights random(Backend backend, DType dtype, long seed) {
        SplittableRandom random = new SplittableRandom(seed);
        return (name, mean, std, transposed, dims) -> {
            Shape shape = Shape.of(dims);
            Tensor tensor = Tensor.empty(backend, dtype, dims);
            if (backend.isHollow()) {
                return tensor;
            }
            // Native memory, because the largest tables exceed a Java array.
            try (Arena arena = Arena.ofConfined()) {
                MemorySegment values = arena.allocate(shape.size() * dtype.bytes(), 64);
                for (long i = 0; i < shape.size(); i++) {
                    HostBuffer.set(values, dtype, i, std == 0 ? mean : mean + std * random.nextGaussian());
                }
                backend.write(tensor.buffer(), values);
            }
            return tensor;
        };
    }

    /// Initializes the weight of a new head as transformers does: from N(0, 0.02²).
    static void drawHead(Tensor weight, RandomGenerator random) {
        try (Tensor drawn = Tensor.randn(
                weight.backend(), weight.dtype(), random, 0.02, weight.shape().dims())) {
            weight.copyFrom(drawn);
        }
    }

    /// Whether there is a parameter that only some models of a family have.
    default boolean has(String name) {
        return true;
    }

    /// The parameters whose names start with `prefix`, under their names without it.
    default Weights below(String prefix) {
        Weights all = this;
        return new Weights() {
            @Override
            public Tensor make(String name, double mean, double std, boolean transposed, int... dims) {
                return all.make(prefix + name, mean, std, transposed, dims);
            }

            @Override
            public boolean has(String name) {
                return all.has(prefix + name);
            }
        };
    }

    /// A linear layer with weights from N(0, std²) and a bias of zeros, if any.
    default Linear linear(String name, int in, int out, boolean bias, double std) {
        return linear(name, in, out, bias, std, false);
    }

    /// A linear layer that files hold as (in, out): GPT-2's `Conv1D`.
    default Linear conv1d(String name, int in, int out, double std) {
        return linear(name, in, out, true, std, true);
    }

    private Linear linear(String name, int in, int out, boolean bias, double std, boolean fanInFanOut) {
        Tensor weight = make(name + ".weight", 0, std, fanInFanOut, out, in);
        @Nullable Tensor b = bias ? make(name + ".bias", 0, 0, false, out) : null;
        return new Linear(weight, b, fanInFanOut);
    }

    /// A table with rows from N(0, std²).
    default Embedding embedding(String name, int rows, int cols, double std) {
        return new Embedding(make(name + ".weight", 0, std, false, rows, cols));
    }

    /// A norm initialized to the identity.
    default LayerNorm layerNorm(String name, int size, double eps) {
        return layerNorm(name, size, eps, true);
    }

    /// A norm initialized to the identity, with or without a bias.
    default LayerNorm layerNorm(String name, int size, double eps, boolean bias) {
        Tensor weight = make(name + ".weight", 1, 0, false, size);
        return new LayerNorm(weight, bias ? make(name + ".bias", 0, 0, false, size) : null, eps);
    }

    /// A norm initialized to the identity.
    default RmsNorm rmsNorm(String name, int size, double eps) {
        return new RmsNorm(make(name + ".weight", 1, 0, false, size), eps);
    }

    /// A norm that multiplies by 1 + weight, initialized to the identity.
    default RmsNorm rmsNormAddingOne(String name, int size, double eps) {
        return new RmsNorm(make(name + ".weight", 0, 0, false, size), eps, true);
    }
}
