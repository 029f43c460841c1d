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
import dev.loran.peft.data.Labels;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Losses;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.Problem;
import dev.loran.peft.model.TaskType;
import dev.loran.peft.model.WithPooler;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/// A head over the pooled hidden states of a model: logits = pool(hidden)·weightᵀ + bias. The head is the model's own
/// ([Model#classifier]), or, if the model has none, a separate one, which this object owns.
public final class TextClassifier extends Head {
    private final Model model;
    private final TextPooling pooling;
    private final Problem problem;
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

    private TextClassifier(Model model, Pooling pooling, boolean normalize, Problem problem, @Nullable Linear head) {
        super(head);
        this.model = model;
        this.pooling = new TextPooling(model, pooling, normalize, head == null);
        this.problem = problem;
        this.head = head;
    }

    /// The model's own head if it has one; a new one of the family's kind if that pools as the card says; otherwise a
    /// separate one.
    ///
    /// @param problem what the outputs mean
    /// @param outputs how many there are
    /// @throws InputException if the model has a head for something else, or cannot be pooled that way, or if the saved
    ///     head does not fit
    static Head at(Site site, Problem problem, int outputs) {
        Model model = site.model();
        TaskCard card = site.card();
        requireProblem(model, card.task(), problem, outputs);
        boolean own;
        if (site.saved() != null) {
            own = model.classifier() != null && !Head.isIn(site.saved());
        } else if (model.classifier() != null && !model.hasNewClassifier()) {
            own = true;
        } else {
            boolean family = card.pooling() == Pooling.of(model) && !card.normalize();
            own = family && site.addClassifier(TaskType.SEQ_CLS, outputs);
        }
        if (!own) {
            return beside(site, problem, outputs);
        }
        requireOutputs(model, card, outputs);
        model.problem(problem);
        return of(model);
    }

    /// One output is a number, or the logit of one label: the weights do not say which.
    private static void requireProblem(Model model, Task task, Problem needed, int outputs) {
        Problem given = model.hasNewClassifier() ? needed : model.problem();
        boolean one = outputs == 1 && model.labels().size() == 1;
        if (given != null && (model.ofTokens() || given != needed && !one)) {
            throw new InputException("task " + task.name() + ": the head of " + model.title() + " gives "
                    + (model.ofTokens() ? "classes of tokens" : inWords(given)) + ", not " + inWords(needed)
                    + " for a text; use a model with another head, or without one");
        }
    }

    private static String inWords(Problem problem) {
        return switch (problem) {
            case SINGLE_LABEL -> "one class";
            case MULTI_LABEL -> "several labels";
            case REGRESSION -> "a number";
        };
    }

    /// Gives the model's own head the card's classes.
    static void requireOutputs(Model model, TaskCard card, int outputs) {
        int classes = model.labels().size();
        Labels labels = card.labels();
        if (classes != outputs) {
            throw new InputException("the model's classifier has " + classes
                    + (labels == null
                            ? " outputs but task " + card.task().name() + " has " + outputs + "; use another model"
                            : " classes but the data has " + outputs + " labels: " + labels
                                    + "; use rows of the model's classes, or a model without a head"));
        }
        if (labels != null) {
            model.labels(labels.names());
        }
    }

    private static Head beside(Site site, Problem problem, int outputs) {
        Model model = site.model();
        TaskCard card = site.card();
        int width = model.facts().hiddenSize();
        Linear head = newLinear(model.backend(), model.dtype().accumulator(), width, outputs, site.random());
        return new TextClassifier(model, card.pooling(), card.normalize(), problem, head).from(site);
    }

    /// A classifier with the model's own head.
    public static TextClassifier of(Model model) {
        Problem problem = Objects.requireNonNull(model.problem(), "a model with a head");
        return new TextClassifier(model, Pooling.of(model), false, problem, null);
    }

    /// The scores of the classes, (B, labels); for regression the numbers, (B, 1).
    @Override
    public Tensor logits(Feed batch) {
        return logits(pooled(batch));
    }

    /// Cross-entropy of the classes, the batch's target (B); for several labels binary cross-entropy, with the target
    /// (B, labels), 1 for each label that applies; for regression the mean squared error, with the target (B). With a
    /// second target, the weights, the losses of [Losses] that use them.
    @Override
    public Tensor loss(Feed batch) {
        Tensor outputs = logits(batch);
        Tensor target = batch.target(0);
        boolean weighted = batch.targets() > 1;
        return switch (problem) {
            case SINGLE_LABEL ->
                weighted
                        ? Losses.weightedCrossEntropy(outputs, batch.target(1))
                        : Functional.crossEntropy(outputs, target, Batch.IGNORE);
            case MULTI_LABEL ->
                weighted
                        ? Losses.weightedBinaryCrossEntropy(outputs, target, batch.target(1))
                        : Losses.binaryCrossEntropy(outputs, target);
            case REGRESSION -> Losses.squaredError(outputs, target);
        };
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
