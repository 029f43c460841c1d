package dev.loran.peft.task;

import dev.loran.engine.Autograd;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.UnaryFn;
import dev.loran.engine.functional.Functional;
import dev.loran.peft.data.Batch;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.WithPooler;
import dev.loran.peft.task.TextClassifier.Pooling;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.jspecify.annotations.Nullable;

/// Makes one vector of the hidden states of a text.
final class TextPooling {
    private static final double MASKED = -1e9;

    private final Model model;
    private final Pooling pooling;
    private final boolean normalize;
    private final boolean skipsPadding;

    /// @param normalize whether the vector is divided by its Euclidean length
    /// @param skipsPadding whether [Pooling#LAST] takes the last token that is not the padding token, as the models'
    ///     own heads do; otherwise it is the last token of the text, whatever that is
    /// @throws InputException if the model cannot be pooled that way
    TextPooling(Model model, Pooling pooling, boolean normalize, boolean skipsPadding) {
        this.model = model;
        this.pooling = pooling;
        this.normalize = normalize;
        this.skipsPadding = skipsPadding;
        if (pooling == Pooling.POOLER && !(model instanceof WithPooler with && with.hasPooler())) {
            throw new InputException("pooling pooler: " + model.title()
                    + " has no pooler, which only encoders have, where their folder holds the weights; choose another"
                    + " one");
        }
    }

    /// The vectors of texts, (B, C), in the accumulator's type.
    Tensor pooled(Feed batch) {
        Tensor hidden = batch.hidden();
        return pooled(hidden, weights(batch, hidden), batch.mask());
    }

    /// As above, but at most `rows` texts pass the model together, unless that is 0. Only their vectors are kept; as
    /// gradients are computed, each part passes the model again ([Autograd#checkpoint]).
    Tensor pooled(Feed batch, int rows) {
        int all = batch.ids().shape().dim(0);
        if (rows == 0 || rows >= all) {
            return pooled(batch);
        }
        List<Tensor> parts = new ArrayList<>();
        for (int from = 0; from < all; from += rows) {
            parts.add(part(batch, from, Math.min(all, from + rows)));
        }
        return Functional.concat(parts, 0);
    }

    private Tensor part(Feed batch, int from, int to) {
        List<Tensor> inputs = new ArrayList<>(List.of(batch.ids()));
        int mask = added(inputs, batch.mask());
        int types = added(inputs, batch.tokenTypes());
        inputs.replaceAll(x -> x.slice(0, from, to));
        return Autograd.checkpoint(
                in -> {
                    Tensor padding = mask < 0 ? null : in.get(mask);
                    Tensor hidden = model.hidden(in.getFirst(), padding, types < 0 ? null : in.get(types));
                    return pooled(hidden, weights(batch, hidden).slice(0, from, to), padding);
                },
                inputs);
    }

    /// The place of `x` in the list, to which it is added; -1 for none.
    private static int added(List<Tensor> list, @Nullable Tensor x) {
        if (x == null) {
            return -1;
        }
        list.add(x);
        return list.size() - 1;
    }

    private Tensor weights(Feed batch, Tensor hidden) {
        int positions = hidden.shape().dim(1);
        return batch.derived(
                "weights", b -> weights(b, positions), batch.ids().shape().dim(0), 1, positions);
    }

    /// The vectors of texts, from their hidden states (B, P + T, C) and the weight of each position, (B, 1, P + T).
    private Tensor pooled(Tensor hidden, Tensor weights, @Nullable Tensor mask) {
        Shape s = hidden.shape();
        Tensor pooled = switch (pooling) {
            case POOLER -> ((WithPooler) model).pooled(hidden, mask);
            case MAX -> max(hidden.add(weights.reshape(s.dim(0), s.dim(1), 1)));
            case MEAN, LAST, CLS, MEAN_SQRT_LEN -> weights.matmul(hidden).reshape(s.dim(0), s.dim(2));
        };
        Tensor wide = Functional.cast(pooled, hidden.dtype().accumulator());
        return normalize ? normalized(wide) : wide;
    }

    /// The maximum over the positions of x (B, S, C). Masked positions come last, so that a valid value is never
    /// computed as a masked value plus a difference, which would lose precision.
    private static Tensor max(Tensor x) {
        Tensor rest = x;
        for (int n = x.shape().dim(1); n > 1; n = rest.shape().dim(1)) {
            int half = Math.ceilDiv(n, 2);
            Tensor first = rest.slice(1, 0, half);
            Tensor low = rest.slice(1, 0, n - half);
            Tensor larger = low.add(Functional.relu(rest.slice(1, half, n).sub(low)));
            rest = half == n - half ? larger : Functional.concat(List.of(larger, first.slice(1, half - 1, half)), 1);
        }
        return rest.reshape(x.shape().dim(0), x.shape().dim(2));
    }

    /// The rows of x (B, C), each divided by its Euclidean length; a row of zeros stays one.
    static Tensor normalized(Tensor x) {
        Tensor squares = x.mul(x).sum(1).add(Tensor.full(x.backend(), x.dtype(), 1e-24, 1));
        return x.mul(Functional.unary(UnaryFn.RSQRT, squares).reshape(-1, 1));
    }

    /// What [#pooled] needs to know about the positions, (B, 1, P + T), from the mask (B, T): the weight of each, or
    /// for [Pooling#MAX] the value added to mask it.
    private double[] weights(Batch batch, int positions) {
        int virtual = positions - batch.length();
        double[] weights = new double[batch.batchSize() * positions];
        for (int row = 0; row < batch.batchSize(); row++) {
            int length = 0;
            while (length < batch.length() && batch.attentionMask()[row * batch.length() + length] != 0) {
                length++;
            }
            int from = row * positions;
            int to = from + virtual + length;
            switch (pooling) {
                case MEAN -> Arrays.fill(weights, from, to, 1.0 / (virtual + length));
                case MEAN_SQRT_LEN -> Arrays.fill(weights, from, to, 1 / Math.sqrt(virtual + length));
                case LAST -> weights[skipsPadding ? lastToken(batch, row, length) + from + virtual : to - 1] = 1;
                case CLS -> weights[from] = 1;
                case MAX -> Arrays.fill(weights, to, from + positions, MASKED);
                case POOLER -> {}
            }
        }
        return weights;
    }

    /// The last token, as the model's own head determines it: [Model#isPadding].
    private int lastToken(Batch batch, int row, int length) {
        int last = length - 1;
        while (last > 0 && model.isPadding(batch.inputIds()[row * batch.length() + last])) {
            last--;
        }
        return last;
    }
}
