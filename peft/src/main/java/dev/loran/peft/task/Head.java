package dev.loran.peft.task;

import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.io.SafeTensors;
import dev.loran.engine.nn.Layer;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.io.InputException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.random.RandomGenerator;
import org.jspecify.annotations.Nullable;

/// A task's head: computes outputs and a loss from hidden states. It may be the model's own, or a separate layer that
/// is trained together with the model and saved in a file of its own.
public abstract class Head extends Layer {
    /// The file of a separate head in an adapter's folder: the parameters of the layer by name (`weight`, `bias`).
    public static final String FILE = "head.safetensors";

    private final @Nullable Layer layer;

    /// @param layer the separate layer, which this head then owns; null for the model's own head
    @SuppressWarnings("this-escape") // Registering a child does not access a subclass.
    protected Head(@Nullable Layer layer) {
        this.layer = layer == null ? null : child("head", layer);
    }

    /// The outputs for a batch.
    public abstract Tensor logits(Feed batch);

    /// The mean over the batch's `lossTerms`, a scalar.
    public abstract Tensor loss(Feed batch);

    // ---- a separate layer

    /// Whether `folder` contains a separate head.
    public static boolean isIn(Path folder) {
        return Files.isRegularFile(folder.resolve(FILE));
    }

    /// A linear layer, initialized as torch's is: weight and bias uniform in ±1/√width.
    public static Linear newLinear(Backend backend, DType dtype, int width, int out, RandomGenerator random) {
        double bound = 1 / Math.sqrt(width);
        Tensor weight = Tensor.uniform(backend, dtype, random, bound, out, width);
        return new Linear(weight, Tensor.uniform(backend, dtype, random, bound, out), false);
    }

    /// Writes a separate head; does nothing for the model's own.
    public void save(Path folder) {
        if (layer != null) {
            SafeTensors.write(folder.resolve(FILE), layer.namedParameters());
        }
    }

    /// Loads a separate head from `folder`; does nothing for the model's own.
    ///
    /// @throws InputException if a tensor is missing or has the wrong shape
    public void load(Path folder) {
        if (layer == null) {
            return;
        }
        Path file = folder.resolve(FILE);
        Map<String, Tensor> parameters = layer.namedParameters();
        try (SafeTensors stored = SafeTensors.open(file)) {
            parameters.forEach((name, tensor) -> {
                if (!stored.names().contains(name)
                        || !stored.entry(name).shape().equals(tensor.shape())) {
                    throw new InputException(file + ": needs a tensor " + name + " " + tensor.shape()
                            + (stored.names().contains(name)
                                    ? " but has " + stored.entry(name).shape()
                                    : " and has none"));
                }
                try (Tensor value = stored.copy(tensor.backend(), name, tensor.dtype())) {
                    tensor.copyFrom(value);
                }
            });
        }
    }

    /// Loads this head from `site`'s folder, if it has one, and returns it.
    ///
    /// @throws InputException as [#load]; this head is closed then
    protected final Head from(Site site) {
        Path saved = site.saved();
        if (saved == null) {
            return this;
        }
        boolean read = false;
        try {
            load(saved);
            read = true;
            return this;
        } finally {
            if (!read) {
                close();
            }
        }
    }
}
