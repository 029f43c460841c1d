package dev.loran.peft.task;

import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.ReferenceBackend;
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
    private final Model model;
    private final TextPooling pooling;
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
        this.pooling = new TextPooling(model, pooling, normalize, head == null);
        this.head = head;
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
        return pooling.pooled(batch);
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
