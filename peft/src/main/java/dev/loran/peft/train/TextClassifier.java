package dev.loran.peft.train;

import dev.loran.engine.Backend;
import dev.loran.engine.DType;
import dev.loran.engine.Functional;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.io.SafeTensors;
import dev.loran.engine.nn.Layer;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.InputException;
import dev.loran.peft.model.Model;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Locale;
import java.util.Map;
import java.util.random.RandomGenerator;

/// A linear head over the pooled hidden states of a model that has no classes of its own:
/// logits = pool(hidden)·weightᵀ + bias. Owns the head, not the model.
public final class TextClassifier extends Layer {
    /// The file of the head in an adapter folder: `weight` (labels, C) and `bias` (labels).
    public static final String FILE = "head.safetensors";

    private final Pooling pooling;
    private final Linear head;

    /// How the hidden states (B, S, C) of a text become one vector (B, C).
    public enum Pooling {
        /// The mean over the text's tokens and the virtual tokens before them: for encoders, all of whose positions see
        /// the whole text.
        MEAN,
        /// The last token of the text: the only one of a causal model that has seen all of it.
        LAST;

        /// As files have it.
        @Override
        public String toString() {
            return name().toLowerCase(Locale.ROOT);
        }

        /// The pooling of that name.
        ///
        /// @throws InputException for any other name
        public static Pooling named(String name) {
            for (Pooling p : values()) {
                if (p.toString().equals(name)) {
                    return p;
                }
            }
            throw new InputException("pooling \"" + name + "\" is not known; choose mean or last");
        }
    }

    /// With a new head.
    public TextClassifier(Model model, int labels, Pooling pooling, RandomGenerator random) {
        this.pooling = pooling;
        int width = model.facts().hiddenSize();
        this.head = child("head", newHead(model.backend(), model.dtype().accumulator(), width, labels, random));
    }

    /// A head that starts as torch's linear layer does: weight and bias uniform in ±1/√width.
    static Linear newHead(Backend backend, DType dtype, int width, int labels, RandomGenerator random) {
        double bound = 1 / Math.sqrt(width);
        Tensor weight = Tensor.uniform(backend, dtype, random, bound, labels, width);
        return new Linear(weight, Tensor.uniform(backend, dtype, random, bound, labels), false);
    }

    public Linear head() {
        return head;
    }

    /// The scores of the classes, (B, labels), from [#pooled].
    Tensor logits(Tensor pooled) {
        return head.forward(pooled);
    }

    /// The vectors of texts, (B, C), in the head's type: a product of their hidden states (B, P + T, C) with the weight that each position has.
    Tensor pooled(Tensor hidden, Tensor weights) {
        Shape s = hidden.shape();
        Tensor mean = weights.matmul(hidden).reshape(s.dim(0), s.dim(2));
        return Functional.cast(mean, head.weight().dtype());
    }

    /// (B, 1, P + T) from the mask (B, T).
    double[] weights(Batch batch, int positions) {
        int virtual = positions - batch.length();
        double[] weights = new double[batch.batchSize() * positions];
        for (int row = 0; row < batch.batchSize(); row++) {
            int length = 0;
            while (length < batch.length() && batch.attentionMask()[row * batch.length() + length] != 0) {
                length++;
            }
            int from = row * positions;
            int to = from + virtual + length;
            if (pooling == Pooling.MEAN) {
                Arrays.fill(weights, from, to, 1.0 / (virtual + length));
            } else {
                weights[to - 1] = 1;
            }
        }
        return weights;
    }

    void save(Path folder) {
        SafeTensors.write(folder.resolve(FILE), head.namedParameters());
    }

    /// Takes over the head in `folder`.
    ///
    /// @throws InputException if a tensor is missing or has another shape
    void load(Path folder) {
        Path file = folder.resolve(FILE);
        Map<String, Tensor> parameters = head.namedParameters();
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
}
