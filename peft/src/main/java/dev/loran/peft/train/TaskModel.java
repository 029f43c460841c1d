package dev.loran.peft.train;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Backend;
import dev.loran.engine.Buffer;
import dev.loran.engine.DType;
import dev.loran.engine.Functional;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.nn.Layer;
import dev.loran.engine.nn.Linear;
import dev.loran.engine.optim.Optimizer;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.InputException;
import dev.loran.peft.data.Labels;
import dev.loran.peft.data.Task;
import dev.loran.peft.model.Guard;
import dev.loran.peft.model.HfModels;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.TaskType;
import dev.loran.peft.tuner.PeftModel;
import dev.loran.peft.tuner.PeftModel.ParameterCount;
import dev.loran.peft.tuner.Tuner;
import java.lang.foreign.MemorySegment;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.SplittableRandom;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;

/// A model made ready for a task: with an adapter that trains, or all of whose parameters train, and a [TextClassifier]
/// where the task is to classify and the model has no classes of its own.
///
/// | model | task | head |
/// |---|---|---|
/// | causal | lm, generate | the model's own |
/// | BERT with a classifier | classify | the model's own; LoRA trains it with the task type SEQ_CLS |
/// | any other | classify | a [TextClassifier], always trained |
///
/// Owns the head; model and adapter are closed by who made them.
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

    private TaskModel(Model model, @Nullable PeftModel peft, @Nullable String adapter, TaskCard card, long seed) {
        this.model = model;
        this.peft = peft;
        this.adapter = adapter;
        this.card = card;
        Labels labels = card.labels();
        boolean causal = model.task() == TaskType.CAUSAL_LM;
        if (labels == null && !causal) {
            throw new InputException("task " + card.task() + " needs a causal language model, not the encoder "
                    + model.facts().modelType());
        }
        if (labels != null && model.task() == TaskType.SEQ_CLS) {
            checkClasses(labels);
        }
        if (labels == null || model.task() == TaskType.SEQ_CLS) {
            this.classifier = null;
        } else {
            this.classifier = new TextClassifier(model, labels.size(), card.pooling(), new SplittableRandom(seed));
            classifier.requiresGrad(true);
        }
        model.prepare();
    }

    private void checkClasses(Labels labels) {
        Layer head = model.namedModules().get("classifier");
        if (head instanceof Linear linear && linear.outFeatures() != labels.size()) {
            throw new InputException("the model's classifier has " + linear.outFeatures() + " classes but the data has "
                    + labels.size() + " labels: " + labels);
        }
    }

    /// The active adapter of `peft` trains, and a new head, if one is needed, drawn from `seed`.
    ///
    /// Add the adapter first ([PeftModel#addAdapter]). Without one the model answers and can be evaluated as it is, with
    /// its head; it does not train, for that would be the head alone: [#parameters] throws. [#full] trains all of a model.
    ///
    /// @throws InputException if the model cannot do the task
    public static TaskModel of(PeftModel peft, TaskCard card, long seed) {
        return new TaskModel(peft.model(), peft, null, card, seed);
    }

    /// All parameters of `model` train, and a new head, if one is needed, drawn from `seed`.
    ///
    /// @throws InputException if the model cannot do the task
    public static TaskModel full(Model model, TaskCard card, long seed) {
        model.makeWritable();
        model.requiresGrad(true);
        return new TaskModel(model, null, null, card, seed);
    }

    /// What [#save] wrote: adds the adapter to `peft` as `default`, with its head.
    ///
    /// @throws InputException if files are missing, damaged, or do not fit the model
    public static TaskModel load(PeftModel peft, Path folder) {
        peft.loadAdapter(PeftModel.DEFAULT_ADAPTER, folder);
        TaskModel loaded = of(peft, TaskCard.read(folder), 0);
        loaded.loadHead(folder);
        return loaded;
    }

    /// As above, with the adapter under `name`: what this model is asked, that adapter and its head answer, whichever is active.
    /// So one base serves many adapters, each with a TaskModel of its own with its labels, and any number of threads ask them
    /// side by side. It trains while its adapter is the active one.
    ///
    /// @throws InputException as above, or if the name is taken
    public static TaskModel load(PeftModel peft, String name, Path folder) {
        peft.loadAdapter(name, folder);
        TaskModel loaded = new TaskModel(peft.model(), peft, name, TaskCard.read(folder), 0);
        loaded.loadHead(folder);
        return loaded;
    }

    /// Takes over the head in `folder`; does nothing where the model has its own.
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
        Map<String, Tensor> all =
                new LinkedHashMap<>(peft == null ? model.namedParameters() : own(peft).trainableParameters());
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
                return scope.keep(classifier == null ? model.logits(b.ids, b.mask) : classifier.logits(b.pooled()));
            }
        });
    }

    /// The vectors (B, C) that the [TextClassifier] sees.
    Tensor pooled(Batch batch) {
        return reading(() -> {
            try (Scope scope = Scope.open()) {
                return scope.keep(new OnBackend(batch).pooled());
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

    /// Whether a [TextClassifier] pools hidden states: whether the model has no head of its own.
    public boolean hasPooling() {
        return classifier != null;
    }

    /// The scores (B, labels) of vectors (B, C) of [#pooled].
    Tensor classify(Tensor pooled) {
        return Objects.requireNonNull(classifier, "no head").logits(pooled);
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
            labels = batch.labels().length == b
                    ? Tensor.ofInts(backend(), batch.labels(), b)
                    : Tensor.ofInts(backend(), batch.labels(), b, t);
        }

        /// Until closed, not until the scope's end.
        OnBackend outliving() {
            ids.detachFromScope();
            labels.detachFromScope();
            if (mask != null) {
                mask.detachFromScope();
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
                                : Functional.crossEntropy(classifier.logits(pooled()), labels, Batch.IGNORE));
            }
        }

        Tensor pooled() {
            if (classifier == null) {
                throw new IllegalStateException("pooled: the model classifies by a head of its own");
            }
            Tensor hidden = model.hidden(ids, mask);
            Tensor w = weights;
            if (w == null) {
                int positions = hidden.shape().dim(1);
                double[] values = classifier.weights(batch, positions);
                w = Tensor.of(backend(), model.dtype(), values, batch.batchSize(), 1, positions);
                if (outlives) {
                    weights = w.detachFromScope();
                }
            }
            return classifier.pooled(hidden, w);
        }

        @Override
        public void close() {
            ids.close();
            labels.close();
            if (mask != null) {
                mask.close();
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
