package dev.loran.peft.task;

import dev.loran.engine.Scope;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
import dev.loran.engine.backend.UnaryFn;
import dev.loran.engine.functional.Functional;
import dev.loran.engine.io.SafeTensors;
import dev.loran.engine.io.SafeTensorsException;
import dev.loran.engine.nn.Linear;
import dev.loran.peft.data.Batch;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.WithPooler;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/// A head over the pooled hidden states of a model: logits = pool(hidden)·weightᵀ + bias. The head is the model's own
/// ([Model#classifier]), or, if the model has none, a separate one, which this object owns.
public final class TextClassifier extends Head {
    private static final double MASKED = -1e9;

    private final Model model;
    private final Pooling pooling;
    private final boolean normalize;
    /// Null for the model's own head.
    private final @Nullable Linear head;

    /// How the hidden states (B, S, C) of a text become one vector (B, C).
    public enum Pooling {
        /// The mean over the text's tokens and the virtual tokens before them: for encoders, in which every position
        /// sees the whole text.
        MEAN,
        /// The last token of the text: in a causal model, the only one that sees the whole text.
        LAST,
        /// The first position: BERT's `[CLS]`, or the first virtual token if there are any.
        CLS,
        /// The largest value of each component over the positions used by [#MEAN].
        MAX,
        /// The sum over those positions, divided by the square root of their number.
        MEAN_SQRT_LEN,
        /// The input of the classifier in an encoder's own head, such as tanh of a linear layer, the pooler, on the
        /// first position.
        POOLER;

        /// The pooling of the family's own classification head.
        public static Pooling of(Model model) {
            return model instanceof WithPooler ? POOLER : LAST;
        }

        /// The name in lower case, as in files.
        @Override
        public String toString() {
            return name().toLowerCase(Locale.ROOT);
        }

        /// The pooling with this name.
        ///
        /// @throws InputException for any other name
        public static Pooling named(String name) {
            for (Pooling p : values()) {
                if (p.toString().equals(name)) {
                    return p;
                }
            }
            throw new InputException("pooling \"" + name + "\" is not known; choose one of "
                    + String.join(
                            ", ", Arrays.stream(values()).map(Pooling::toString).toList()));
        }
    }

    private TextClassifier(Model model, Pooling pooling, boolean normalize, @Nullable Linear head) {
        super(head);
        this.model = model;
        this.pooling = pooling;
        this.normalize = normalize;
        this.head = head;
        if (pooling == Pooling.POOLER && !(model instanceof WithPooler with && with.hasPooler())) {
            throw new InputException("pooling pooler: " + model.title()
                    + " has no pooler, which only encoders have, where their folder holds the weights; choose another"
                    + " one");
        }
    }

    /// A classifier with a separate head, new or saved, as `site`'s card says.
    ///
    /// @throws InputException if the model cannot be pooled that way, or the saved head does not fit
    static Head beside(Site site, int labels) {
        Model model = site.model();
        TaskCard card = site.card();
        int width = model.facts().hiddenSize();
        Linear head = newLinear(model.backend(), model.dtype().accumulator(), width, labels, site.random());
        return new TextClassifier(model, card.pooling(), card.normalize(), head).from(site);
    }

    /// A classifier with the model's own head.
    public static TextClassifier of(Model model) {
        return new TextClassifier(model, Pooling.of(model), false, null);
    }

    /// The scores of the classes, (B, labels).
    @Override
    public Tensor logits(Feed batch) {
        return logits(pooled(batch));
    }

    /// Cross-entropy of the labels, the batch's target (B).
    @Override
    public Tensor loss(Feed batch) {
        return Functional.crossEntropy(logits(batch), batch.target(0), Batch.IGNORE);
    }

    /// The scores of the classes, (B, labels), from [#pooled].
    public Tensor logits(Tensor pooled) {
        return head == null ? model.classify(pooled) : head.forward(pooled);
    }

    /// The vectors of texts, (B, C), in the accumulator's type.
    public Tensor pooled(Feed batch) {
        Tensor hidden = batch.hidden();
        Shape s = hidden.shape();
        return pooled(hidden, batch.derived("weights", b -> weights(b, s.dim(1)), s.dim(0), 1, s.dim(1)), batch.mask());
    }

    /// As above, from the hidden states (B, P + T, C) and the weight of each position, (B, 1, P + T).
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

    private static Tensor normalized(Tensor x) {
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
                case LAST -> weights[head == null ? lastToken(batch, row, length) + from + virtual : to - 1] = 1;
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

    /// Writes Σ wᵢ · headᵢ for several separate heads.
    ///
    /// @param folders the folders of the heads, all for the same classes
    /// @throws InputException if one is missing or damaged, or their shapes differ
    public static void combine(List<Path> folders, List<Double> weights, Path out) {
        try (Backend backend = new ReferenceBackend();
                Scope scope = Scope.open()) {
            Map<String, Tensor> sums = new LinkedHashMap<>();
            for (int i = 0; i < folders.size(); i++) {
                Path file = folders.get(i).resolve(FILE);
                double weight = weights.get(i);
                try (SafeTensors stored = SafeTensors.open(file)) {
                    for (String name : List.of("weight", "bias")) {
                        Tensor term = stored.copy(backend, name, DType.F64).scale(weight);
                        Tensor sum = sums.get(name);
                        if (sum != null && !sum.shape().equals(term.shape())) {
                            throw new InputException(file + ": " + name + " is " + term.shape() + " but that of "
                                    + folders.getFirst() + " is " + sum.shape());
                        }
                        sums.put(name, sum == null ? term : sum.add(term));
                    }
                } catch (SafeTensorsException e) {
                    throw new InputException(String.valueOf(e.getMessage()), e);
                }
            }
            Map<String, SafeTensors.Part> parts = new LinkedHashMap<>();
            sums.forEach((name, t) -> parts.put(name, SafeTensors.Part.of(t, DType.F32)));
            SafeTensors.writeParts(out.resolve(FILE), parts, SafeTensors.PYTORCH);
        }
    }
}
