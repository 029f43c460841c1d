package dev.loran.peft.train;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Backend;
import dev.loran.engine.Buffer;
import dev.loran.engine.DType;
import dev.loran.engine.Functional;
import dev.loran.engine.Scope;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.nn.Linear;
import dev.loran.engine.optim.Optimizer;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.Labels;
import dev.loran.peft.data.Task;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Guard;
import dev.loran.peft.model.HfModels;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.TaskType;
import dev.loran.peft.train.TextClassifier.Pooling;
import dev.loran.peft.tuner.PeftModel;
import dev.loran.peft.tuner.PeftModel.ParameterCount;
import dev.loran.peft.tuner.Tuner;
import java.lang.foreign.MemorySegment;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.SplittableRandom;
import java.util.function.Consumer;
import java.util.function.Supplier;
import java.util.random.RandomGenerator;
import org.jspecify.annotations.Nullable;

/// A model made ready for a task: with an adapter that trains, or all of whose parameters train, and where the task is to
/// classify with a [TextClassifier].
///
/// | model | task | head |
/// |---|---|---|
/// | causal | lm, generate | the model's own |
/// | with classes of its own | classify | the model's own |
/// | without, pooled as the family's own head would be ([Pooling#of]) | classify | the family's own, new: saved as peft does it, with the task type SEQ_CLS |
/// | without, pooled otherwise | classify | a linear layer beside the model: [TextClassifier#FILE] |
///
/// A model's own classes are trained by an adapter of the task type SEQ_CLS, other heads always. Owns a head beside the
/// model; model and adapter are closed by who made them.
///
/// **Threads**: reading ([#logits], [#loss] in evaluation mode, a [Predictor] each) is safe from any number of threads, with the
/// active adapter or with that of its own ([#load(PeftModel, String, Path)]). What changes it (training, loading, closing) must
/// be alone, and fails with a [java.util.ConcurrentModificationException] where it meets another thread's use of the model.
public final class TaskModel implements Learner, AutoCloseable {
    private final Model model;
    private final @Nullable PeftModel peft;
    /// The adapter that answers, whichever is active; null: the active one.
    private final @Nullable String adapter;

    private final TaskCard card;
    private final @Nullable TextClassifier classifier;
    private Consumer<Path> beside = folder -> {};

    private TaskModel(
            Model model,
            @Nullable PeftModel peft,
            @Nullable String adapter,
            TaskCard card,
            @Nullable TextClassifier classifier) {
        this.model = model;
        this.peft = peft;
        this.adapter = adapter;
        this.card = card;
        this.classifier = classifier;
        if (classifier != null) {
            classifier.requiresGrad(true);
        }
        model.prepare();
    }

    /// The active adapter of `peft` trains, and a new head, if one is needed, drawn from `seed`.
    ///
    /// Add the adapter first ([PeftModel#addAdapter]). Without one the model answers and can be evaluated as it is, with
    /// its head; it does not train, for that would be the head alone: [#parameters] throws. [#full] trains all of a model.
    ///
    /// Training goes on from the weights of an adapter that was saved where [PeftModel#loadAdapter] added it: for the same
    /// classes with the head that it brings, if that is the family's own, and with one beside the model after [#loadHead].
    /// For other classes, load it without its head.
    ///
    /// @throws InputException if the model cannot do the task
    public static TaskModel of(PeftModel peft, TaskCard card, long seed) {
        Model model = peft.model();
        RandomGenerator random = new SplittableRandom(seed);
        Labels labels = checked(model, card);
        boolean trains = peft.activeAdapter() != null;
        if (labels != null && trains && isFamilyHead(model, card) && !hasOwnClasses(model)) {
            peft.addClassifier(labels.size(), random);
        }
        boolean trained = trains && peft.active().hasNewClassifier();
        return new TaskModel(
                model, peft, null, card, labels == null ? null : classifier(model, trained, labels, card, random));
    }

    /// All parameters of `model` train, and a new head, if one is needed, drawn from `seed`.
    ///
    /// @throws InputException if the model cannot do the task
    public static TaskModel full(Model model, TaskCard card, long seed) {
        RandomGenerator random = new SplittableRandom(seed);
        Labels labels = checked(model, card);
        Linear head = labels == null || !isFamilyHead(model, card) || hasOwnClasses(model)
                ? null
                : model.addClassifier(labels.size());
        model.makeWritable();
        if (head != null) {
            Model.drawHead(head.weight(), random);
        }
        model.requiresGrad(true);
        return new TaskModel(
                model, null, null, card, labels == null ? null : classifier(model, head != null, labels, card, random));
    }

    /// What [#save] wrote: adds the adapter to `peft` as `default`, with its head.
    ///
    /// @throws InputException if files are missing, damaged, or do not fit the model
    public static TaskModel load(PeftModel peft, Path folder) {
        return loadWhole(peft, PeftModel.DEFAULT_ADAPTER, null, folder);
    }

    /// As above, with the adapter under `name`: what this model is asked, that adapter and its head answer, whichever is active.
    /// So one base serves many adapters, each with a TaskModel of its own with its labels, and any number of threads ask them
    /// side by side. It trains while its adapter is the active one.
    ///
    /// @throws InputException as above, or if the name is taken
    public static TaskModel load(PeftModel peft, String name, Path folder) {
        return loadWhole(peft, name, name, folder);
    }

    /// All of it, or nothing.
    private static TaskModel loadWhole(PeftModel peft, String as, @Nullable String adapter, Path folder) {
        TaskCard card = TaskCard.read(folder);
        peft.loadAdapter(as, folder);
        boolean done = false;
        try {
            TaskModel loaded = load(peft, adapter, card, folder);
            done = true;
            return loaded;
        } finally {
            if (!done) {
                peft.deleteAdapter(as);
            }
        }
    }

    /// As above where the adapter, if there is one, stands on the model already.
    ///
    /// @param folder where a head beside the model is, if it has one
    public static TaskModel load(PeftModel peft, TaskCard card, Path folder) {
        return load(peft, null, card, folder);
    }

    private static TaskModel load(PeftModel peft, @Nullable String adapter, TaskCard card, Path folder) {
        Model model = peft.model();
        Labels labels = checked(model, card);
        TextClassifier classifier = null;
        if (labels != null && model.classifier() != null && !TextClassifier.isIn(folder)) {
            classifier = ofModel(model, labels);
        } else if (labels != null) {
            classifier = beside(model, labels, card, new SplittableRandom(0));
            boolean read = false;
            try {
                classifier.load(folder);
                read = true;
            } finally {
                if (!read) {
                    classifier.close();
                }
            }
        }
        return new TaskModel(model, peft, adapter, card, classifier);
    }

    /// The labels of a task to classify, else null.
    private static @Nullable Labels checked(Model model, TaskCard card) {
        if (card.labels() == null && model.task() != TaskType.CAUSAL_LM) {
            throw new InputException("task " + card.task() + " needs a causal language model, not the "
                    + (model.task() == TaskType.SEQ_CLS ? "classifier " : "encoder ")
                    + model.facts().modelType());
        }
        return card.labels();
    }

    /// Whether the model's classes are part of its own weights.
    private static boolean hasOwnClasses(Model model) {
        return model.classifier() != null && !model.hasNewClassifier();
    }

    /// Whether a new head is to be the family's own: one that sees what that sees.
    private static boolean isFamilyHead(Model model, TaskCard card) {
        return card.pooling() == Pooling.of(model) && !card.normalize();
    }

    /// @param trained whether what trains has the model's new head
    private static TextClassifier classifier(
            Model model, boolean trained, Labels labels, TaskCard card, RandomGenerator random) {
        return hasOwnClasses(model) || trained && isFamilyHead(model, card)
                ? ofModel(model, labels)
                : beside(model, labels, card, random);
    }

    private static TextClassifier ofModel(Model model, Labels labels) {
        int classes = model.labels().size();
        if (classes != labels.size()) {
            throw new InputException("the model's classifier has " + classes + " classes but the data has "
                    + labels.size() + " labels: " + labels);
        }
        model.labels(labels.names());
        return TextClassifier.of(model);
    }

    private static TextClassifier beside(Model model, Labels labels, TaskCard card, RandomGenerator random) {
        return TextClassifier.beside(model, labels.size(), card.pooling(), card.normalize(), random);
    }

    /// Takes over the head in `folder`; does nothing where it is the model's own.
    ///
    /// @throws InputException if the file is missing, damaged, or does not fit
    public void loadHead(Path folder) {
        if (classifier != null) {
            try (Guard.Use use = model.changing("loadHead")) {
                classifier.load(folder);
            }
        }
    }

    public TaskCard card() {
        return card;
    }

    public Model model() {
        return model;
    }

    /// Trainable and all parameters, the head among both.
    public ParameterCount parameterCount() {
        long head = classifier == null ? 0 : classifier.parameterCount();
        long own = model.parameterCount();
        ParameterCount rest = peft == null ? new ParameterCount(own, own) : peft.parameterCount();
        return new ParameterCount(rest.trainableParameters() + head, rest.totalParameters() + head);
    }

    // ---- as a learner

    @Override
    public Task task() {
        return card.task();
    }

    @Override
    public Backend backend() {
        return model.backend();
    }

    @Override
    public DType dtype() {
        return model.dtype().accumulator();
    }

    /// @throws IllegalStateException if no adapter is active: the head alone would train
    @Override
    public Map<String, Tensor> parameters() {
        if (peft != null && peft.activeAdapter() == null) {
            throw new IllegalStateException("nothing of the model trains: " + model.title() + " has no active adapter;"
                    + " call peft.addAdapter(PeftModel.DEFAULT_ADAPTER, LoraConfig.defaults()), or that of another"
                    + " method, before TaskModel.of, or train all of it by TaskModel.full");
        }
        Map<String, Tensor> all = new LinkedHashMap<>(
                peft == null ? model.namedParameters() : own(peft).trainableParameters());
        if (classifier != null) {
            all.putAll(classifier.namedParameters());
        }
        return all;
    }

    @Override
    public boolean isHead(String name) {
        return name.startsWith("head.") || name.startsWith("classifier.") || name.contains(".modules_to_save.");
    }

    @Override
    public Tensor loss(Batch batch) {
        return reading(() -> {
            try (Scope scope = Scope.open()) {
                return scope.keep(new OnBackend(batch).loss());
            }
        });
    }

    @Override
    public Inputs inputs(Batch batch) {
        try (Scope scope = Scope.open()) {
            return new OnBackend(batch).outliving();
        }
    }

    @Override
    public boolean repeats(int step) {
        return peft == null || active(peft).repeats(step);
    }

    @Override
    public Tensor logits(Batch batch) {
        return reading(() -> {
            try (Scope scope = Scope.open()) {
                OnBackend b = new OnBackend(batch);
                return scope.keep(
                        classifier == null
                                ? model.logits(b.ids, b.mask, b.tokenTypes)
                                : classifier.logits(b.pooled(classifier)));
            }
        });
    }

    /// The vectors (B, C) that the head sees.
    Tensor pooled(Batch batch) {
        return reading(() -> {
            try (Scope scope = Scope.open()) {
                return scope.keep(new OnBackend(batch).pooled(head()));
            }
        });
    }

    /// Runs `work` with the adapter that is to answer. In training it is the active one, and what it does is recorded.
    private <T> T reading(Supplier<T> work) {
        if (peft == null || adapter == null || model.isTraining()) {
            return work.get();
        }
        return peft.withAdapter(adapter, work);
    }

    /// The adapter that trains and is saved: the active one, which must be this model's own.
    private Tuner active(PeftModel of) {
        return own(of).active();
    }

    private PeftModel own(PeftModel of) {
        if (adapter != null && !of.activeAdapters().equals(List.of(adapter))) {
            throw new IllegalStateException("this TaskModel has adapter " + adapter + ", but active are "
                    + of.activeAdapters() + "; call setAdapter(\"" + adapter + "\") to train or save it");
        }
        return of;
    }

    private TextClassifier head() {
        return Objects.requireNonNull(classifier, "no head");
    }

    /// The scores (B, labels) of vectors (B, C) of [#pooled].
    Tensor classify(Tensor pooled) {
        return head().logits(pooled);
    }

    /// Positions that the adapter takes from the text.
    int virtualTokens() {
        if (peft != null && adapter != null) {
            return Objects.requireNonNull(peft.adapters().get(adapter), adapter).virtualTokens();
        }
        return peft == null || peft.activeAdapter() == null ? 0 : peft.active().virtualTokens();
    }

    /// The arrays of a batch as tensors.
    private final class OnBackend implements Inputs {
        private final Tensor ids;
        /// Null where nothing is padded.
        private final @Nullable Tensor mask;
        /// Null where all are 0, or the model does not look at them.
        private final @Nullable Tensor tokenTypes;

        private final Tensor labels;
        private Batch batch;
        /// Of the positions, for the [TextClassifier]; how many there are is known once the model has run.
        private @Nullable Tensor weights;

        private boolean outlives;

        OnBackend(Batch batch) {
            int b = batch.batchSize();
            int t = batch.length();
            this.batch = batch;
            ids = Tensor.ofInts(backend(), batch.inputIds(), b, t);
            mask = batch.tokens() == batch.inputIds().length
                    ? null
                    : Tensor.ofInts(backend(), batch.attentionMask(), b, t);
            tokenTypes = batch.tokenTypes() == null || model.tokenTypes() == 1
                    ? null
                    : Tensor.ofInts(backend(), known(batch.tokenTypes()), b, t);
            labels = batch.labels().length == b
                    ? Tensor.ofInts(backend(), batch.labels(), b)
                    : Tensor.ofInts(backend(), batch.labels(), b, t);
        }

        private int[] known(int[] types) {
            int last = Arrays.stream(types).max().orElse(0);
            if (last >= model.tokenTypes()) {
                throw new InputException("the tokenizer makes tokens of type " + last + ", but " + model.title()
                        + " has " + model.tokenTypes() + " types; use the tokenizer that belongs to it");
            }
            return types;
        }

        /// Until closed, not until the scope's end.
        OnBackend outliving() {
            ids.detachFromScope();
            labels.detachFromScope();
            if (mask != null) {
                mask.detachFromScope();
            }
            if (tokenTypes != null) {
                tokenTypes.detachFromScope();
            }
            outlives = true;
            return this;
        }

        @Override
        public void write(Batch next) {
            batch = next;
            overwrite(ids, next.inputIds());
            overwrite(labels, next.labels());
            if (mask != null) {
                overwrite(mask, next.attentionMask());
            }
            if (tokenTypes != null && next.tokenTypes() != null) {
                overwrite(tokenTypes, known(next.tokenTypes()));
            }
            if (weights != null && classifier != null) {
                int positions = weights.shape().dim(-1);
                try (Tensor w = Tensor.of(
                        backend(),
                        model.dtype(),
                        classifier.weights(next, positions),
                        weights.shape().dims())) {
                    weights.copyFrom(w);
                }
            }
        }

        private static void overwrite(Tensor to, int[] values) {
            to.backend().write(to.buffer(), MemorySegment.ofArray(values));
            to.markWritten();
        }

        @Override
        public Tensor loss() {
            try (Scope scope = Scope.open()) {
                return scope.keep(
                        classifier == null
                                ? model.loss(ids, mask, labels)
                                : Functional.crossEntropy(classifier.logits(pooled(classifier)), labels, Batch.IGNORE));
            }
        }

        Tensor pooled(TextClassifier head) {
            Tensor hidden = model.hidden(ids, mask, tokenTypes);
            Tensor w = weights;
            if (w == null) {
                int positions = hidden.shape().dim(1);
                double[] values = head.weights(batch, positions);
                w = Tensor.of(backend(), model.dtype(), values, batch.batchSize(), 1, positions);
                if (outlives) {
                    weights = w.detachFromScope();
                }
            }
            return head.pooled(hidden, w);
        }

        @Override
        public void close() {
            ids.close();
            labels.close();
            if (mask != null) {
                mask.close();
            }
            if (tokenTypes != null) {
                tokenTypes.close();
            }
            if (weights != null) {
                weights.close();
            }
        }
    }

    @Override
    public void train(boolean mode) {
        model.train(mode);
    }

    @Override
    public Guard.Use changing(String operation) {
        return model.changing(operation);
    }

    @Override
    public @Nullable Tensor penalty() {
        return peft == null ? null : active(peft).penalty();
    }

    @Override
    public void microStep(int number) {
        if (peft != null) {
            peft.microStep(number);
        }
    }

    @Override
    public void beginTraining(int totalSteps) {
        if (peft != null) {
            active(peft).beginTraining(totalSteps);
        }
    }

    @Override
    public void afterStep(int step, Buffer gradScale, Optimizer optimizer) {
        if (peft != null) {
            active(peft).afterStep(step, gradScale, optimizer);
        }
    }

    @Override
    public Map<String, Tensor> trainingState() {
        return peft == null ? Map.of() : active(peft).trainingState();
    }

    @Override
    public Map<String, Shape> shapes(Map<String, Tensor> state) {
        return peft == null ? Map.of() : active(peft).shapes(state);
    }

    @Override
    public void loadTrainingState(Map<String, Tensor> state) {
        if (peft != null) {
            active(peft).loadTrainingState(state);
        }
    }

    /// The base model, task, labels and pooling, and the method with its options.
    @Override
    public ObjectNode identity() {
        ObjectNode json = card.toJson().put("dtype", dtype().toString());
        json.put("operands", backend().operands().toString());
        if (peft != null) {
            json.set("method", active(peft).config().toJson());
        }
        return json;
    }

    // ---- files

    /// Writes the adapter as peft does (or the whole model, where all of it trains, as transformers does), the head as
    /// `head.safetensors`, and `loran.json`.
    @Override
    public void save(Path folder) {
        if (peft == null) {
            HfModels.save(model, folder, dtype());
        } else {
            own(peft).savePretrained(folder);
        }
        if (classifier != null) {
            classifier.save(folder);
        }
        card.write(folder);
        beside.accept(folder);
    }

    /// What [#save] writes beside, such as a tokenizer.
    public void alsoSave(Consumer<Path> files) {
        beside = files;
    }

    @Override
    public void close() {
        if (classifier != null) {
            try (Guard.Use use = model.changing("close")) {
                classifier.close();
            }
        }
    }
}
