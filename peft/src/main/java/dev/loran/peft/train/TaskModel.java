package dev.loran.peft.train;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Scope;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.optim.Optimizer;
import dev.loran.peft.data.Batch;
import dev.loran.peft.model.Guard;
import dev.loran.peft.model.HfModels;
import dev.loran.peft.model.Model;
import dev.loran.peft.task.Feed;
import dev.loran.peft.task.Head;
import dev.loran.peft.task.Site;
import dev.loran.peft.task.Task;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.task.TextClassifier;
import dev.loran.peft.tuner.PeftModel;
import dev.loran.peft.tuner.PeftModel.ParameterCount;
import dev.loran.peft.tuner.Tuner;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.function.Consumer;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;

/// A model made ready for a task: with an adapter that trains, or all of whose parameters train, and with the [Head] of
/// the task.
///
/// | model | task | head |
/// |---|---|---|
/// | causal | lm, generate | the model's own |
/// | with classes of its own | classify | the model's own |
/// | without, pooled as the family's own head would be (`Pooling.of`) | classify | the family's own, new |
/// | without, pooled otherwise | classify | a linear layer beside the model: [Head#FILE] |
///
/// A new head of the family's own is saved as peft does it, with the task type SEQ_CLS. A model's own classes are
/// trained by an adapter of that task type, other heads always. Owns a head beside the model; model and adapter are
/// closed by who made them.
///
/// **Threads**: reading ([#logits], [#loss] in evaluation mode, a [Predictor] each) is safe from any number of threads,
/// with the active adapter or with that of its own ([#load(PeftModel, String, Path)]). What changes it (training,
/// loading, closing) must be alone, and fails with a [java.util.ConcurrentModificationException] where it meets another
/// thread's use of the model.
public final class TaskModel implements Learner, AutoCloseable {
    private final Model model;
    private final @Nullable PeftModel peft;
    /// The adapter that answers, whichever is active; null: the active one.
    private final @Nullable String adapter;

    private final TaskCard card;
    private final Head head;
    private Consumer<Path> beside = folder -> {};

    private TaskModel(Model model, @Nullable PeftModel peft, @Nullable String adapter, TaskCard card, Head head) {
        this.model = model;
        this.peft = peft;
        this.adapter = adapter;
        this.card = card;
        this.head = head;
        head.requiresGrad(true);
        model.prepare();
    }

    /// The active adapter of `peft` trains, and a new head, if one is needed, drawn from `seed`.
    ///
    /// Add the adapter first ([PeftModel#addAdapter]). Without one the model answers and can be evaluated as it is,
    /// with its head; it does not train, for that would be the head alone: [#parameters] throws. [#full] trains all of
    /// a model.
    ///
    /// Training goes on from the weights of an adapter that was saved where [PeftModel#loadAdapter] added it: for the
    /// same classes with the head that it brings, if that is the family's own, and with one beside the model after
    /// [#loadHead]. For other classes, load it without its head.
    ///
    /// @throws dev.loran.peft.io.InputException if the model cannot do the task
    public static TaskModel of(PeftModel peft, TaskCard card, long seed) {
        return new TaskModel(peft.model(), peft, null, card, card.task().head(Site.of(peft, card, seed)));
    }

    /// All parameters of `model` train, and a new head, if one is needed, drawn from `seed`.
    ///
    /// @throws dev.loran.peft.io.InputException if the model cannot do the task
    public static TaskModel full(Model model, TaskCard card, long seed) {
        Head head = card.task().head(Site.whole(model, card, seed));
        model.makeWritable();
        model.requiresGrad(true);
        return new TaskModel(model, null, null, card, head);
    }

    /// What [#save] wrote: adds the adapter to `peft` as `default`, with its head.
    ///
    /// @throws dev.loran.peft.io.InputException if files are missing, damaged, or do not fit the model
    public static TaskModel load(PeftModel peft, Path folder) {
        return loadWhole(peft, PeftModel.DEFAULT_ADAPTER, null, folder);
    }

    /// As above, with the adapter under `name`: what this model is asked, that adapter and its head answer, whichever
    /// is active. So one base serves many adapters, each with a TaskModel of its own with its labels, and any number of
    /// threads ask them side by side. It trains while its adapter is the active one.
    ///
    /// @throws dev.loran.peft.io.InputException as above, or if the name is taken
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
        return new TaskModel(peft.model(), peft, adapter, card, card.task().head(Site.saved(peft, card, folder)));
    }

    /// Takes over the head in `folder`; does nothing where it is the model's own.
    ///
    /// @throws dev.loran.peft.io.InputException if the file is missing, damaged, or does not fit
    public void loadHead(Path folder) {
        try (Guard.Use use = model.changing("loadHead")) {
            head.load(folder);
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
        long beside = head.parameterCount();
        long own = model.parameterCount();
        ParameterCount rest = peft == null ? new ParameterCount(own, own) : peft.parameterCount();
        return new ParameterCount(rest.trainableParameters() + beside, rest.totalParameters() + beside);
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
        all.putAll(head.namedParameters());
        return all;
    }

    @Override
    public boolean isHead(String name) {
        return name.startsWith("head.") || name.startsWith("classifier.") || name.contains(".modules_to_save.");
    }

    @Override
    public Tensor loss(Batch batch) {
        return reading(() -> inScope(() -> head.loss(new Feed(model, batch))));
    }

    @Override
    public Inputs inputs(Batch batch) {
        try (Scope scope = Scope.open()) {
            Feed feed = new Feed(model, batch).outliving();
            return new Inputs() {
                @Override
                public void write(Batch next) {
                    feed.write(next);
                }

                @Override
                public Tensor loss() {
                    return inScope(() -> head.loss(feed));
                }

                @Override
                public void close() {
                    feed.close();
                }
            };
        }
    }

    @Override
    public boolean repeats(int step) {
        return peft == null || active(peft).repeats(step);
    }

    @Override
    public Tensor logits(Batch batch) {
        return reading(() -> inScope(() -> head.logits(new Feed(model, batch))));
    }

    /// The vectors (B, C) that the head sees.
    ///
    /// @throws IllegalStateException if it is not one over pooled texts
    Tensor pooled(Batch batch) {
        if (!(head instanceof TextClassifier classifier)) {
            throw new IllegalStateException("pooled: task " + card.task().name() + " makes no vector of a text");
        }
        return reading(() -> inScope(() -> classifier.pooled(new Feed(model, batch))));
    }

    /// What `work` makes; all else that it made goes.
    private static Tensor inScope(Supplier<Tensor> work) {
        try (Scope scope = Scope.open()) {
            return scope.keep(work.get());
        }
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

    /// What answers.
    public Head head() {
        return head;
    }

    /// Positions that the adapter takes from the text.
    int virtualTokens() {
        if (peft != null && adapter != null) {
            return Objects.requireNonNull(peft.adapters().get(adapter), adapter).virtualTokens();
        }
        return peft == null || peft.activeAdapter() == null ? 0 : peft.active().virtualTokens();
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
        head.save(folder);
        card.write(folder);
        beside.accept(folder);
    }

    /// What [#save] writes beside, such as a tokenizer.
    public void alsoSave(Consumer<Path> files) {
        beside = files;
    }

    @Override
    public void close() {
        if (!head.namedParameters().isEmpty()) {
            try (Guard.Use use = model.changing("close")) {
                head.close();
            }
        }
    }
}
