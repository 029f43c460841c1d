package dev.loran.peft.train;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.optim.Optimizer;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.DataLoader;
import dev.loran.peft.data.Examples;
import dev.loran.peft.hf.HfModels;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Guard;
import dev.loran.peft.model.Model;
import dev.loran.peft.task.Feed;
import dev.loran.peft.task.Head;
import dev.loran.peft.task.Site;
import dev.loran.peft.task.Task;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.task.TextClassifier;
import dev.loran.peft.tuner.AdapterFiles;
import dev.loran.peft.tuner.PeftModel;
import dev.loran.peft.tuner.PeftModel.ParameterCount;
import dev.loran.peft.tuner.Tuner;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.function.BooleanSupplier;
import java.util.function.Consumer;
import java.util.function.Function;
import java.util.function.IntConsumer;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;

/// A model prepared for a task: with an adapter that trains, or with all of its own parameters training, and with the
/// [Head] of the task.
///
/// | model | task | head |
/// |---|---|---|
/// | causal | lm, generate, chat, prefer | the model's own |
/// | with outputs of its own | classify, regress, rerank, tag | the model's own |
/// | without, pooled as the family's own head would be (`Pooling.of`) | classify, regress, rerank | the family's own, new |
/// | without, pooled otherwise | classify, regress, rerank | a separate linear layer: [Head#FILE] |
/// | encoder without | tag | the family's own, new |
/// | causal | tag | a separate linear layer |
///
/// A new head of the family's own kind is saved as peft does it, with the task type SEQ_CLS or TOKEN_CLS. A model's own
/// classification head is trained only by an adapter of that task type, other heads always. This class owns a separate
/// head; the model and the adapter must be closed by their creators.
///
/// **Threads**: reading ([#logits], [#loss] in evaluation mode, a [Predictor] per thread) is safe from any number of
/// threads, with the active adapter or with this object's own ([#load(PeftModel, String, Path)]). Operations that
/// change it (training, loading, closing) need exclusive access, and throw a
/// [java.util.ConcurrentModificationException] if another thread is using the model.
public final class TaskModel implements Learner, AutoCloseable {
    /// The subfolder of the adapter that the training began with, and its name while it answers.
    private static final String REFERENCE = "ref";

    private final Model model;
    private final @Nullable PeftModel peft;
    /// The adapter that answers, whichever is active; null for the active one.
    private final @Nullable String adapter;

    private final TaskCard card;
    private final Head head;
    /// Names this in messages: the folder that was loaded, or the model.
    private final String title;
    private Consumer<Path> beside = folder -> {};
    /// The adapter that the training began with, which is the reference of a task that has one; null for none.
    private @Nullable Path reference;
    private @Nullable Penalty penalty;
    /// Whether a step in training has begun, or its state was loaded.
    private boolean trained;

    /// A term of the training loss that [#penalize] adds.
    private record Penalty(String name, Supplier<Tensor> term) {}

    private TaskModel(
            Model model, @Nullable PeftModel peft, @Nullable String adapter, TaskCard card, Head head, String title) {
        this.model = model;
        this.peft = peft;
        this.adapter = adapter;
        this.card = card;
        this.head = head;
        this.title = title;
        head.requiresGrad(true);
        model.prepare();
    }

    /// The active adapter of `peft` trains, and a new head, if one is needed, initialized from `seed`.
    ///
    /// Add the adapter first ([PeftModel#addAdapter]). Without one, the model can answer and be evaluated as it is,
    /// with its head, but it cannot be trained, since only the head would train: [#parameters] throws. To train all of
    /// a model, use [#full].
    ///
    /// To continue training a saved adapter, add it with [PeftModel#loadAdapter]. With the same classes, the head
    /// continues too: one of the family's own kind is loaded with the adapter, a separate one by [#loadHead]. For other
    /// classes, load the adapter without its head.
    ///
    /// @throws InputException if the model cannot do the task
    public static TaskModel of(PeftModel peft, TaskCard card, long seed) {
        Model model = peft.model();
        return new TaskModel(model, peft, null, card, card.task().head(Site.of(peft, card, seed)), model.title());
    }

    /// All parameters of `model` train, and a new head, if one is needed, initialized from `seed`.
    ///
    /// @throws InputException if the model cannot do the task
    public static TaskModel full(Model model, TaskCard card, long seed) {
        Head head = card.task().head(Site.whole(model, card, seed));
        model.makeWritable();
        model.requiresGrad(true);
        return new TaskModel(model, null, null, card, head, model.title());
    }

    /// Loads what [#save] wrote: adds the adapter to `peft` as `default`, with its head.
    ///
    /// @throws InputException if files are missing, damaged, or do not fit the model
    public static TaskModel load(PeftModel peft, Path folder) {
        return loadWhole(peft, PeftModel.DEFAULT_ADAPTER, null, folder);
    }

    /// As above, with the adapter under `name`: this object always answers with that adapter and its head, whichever
    /// adapter is active. One base model can thus serve many adapters, each through its own TaskModel with its own
    /// labels, and any number of threads can use them concurrently. It trains only while its adapter is the active one.
    ///
    /// @throws InputException as above, or if the name is taken
    public static TaskModel load(PeftModel peft, String name, Path folder) {
        return loadWhole(peft, name, name, folder);
    }

    /// Loads everything or nothing.
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

    /// As above, if the adapter, if any, has already been added to the model.
    ///
    /// @param folder contains the head, if it is a separate one
    public static TaskModel load(PeftModel peft, TaskCard card, Path folder) {
        return load(peft, null, card, folder);
    }

    private static TaskModel load(PeftModel peft, @Nullable String adapter, TaskCard card, Path folder) {
        Head head = card.task().head(Site.saved(peft, card, folder));
        TaskModel loaded = new TaskModel(peft.model(), peft, adapter, card, head, folder.toString());
        Path kept = folder.resolve(REFERENCE);
        loaded.trained = true;
        loaded.reference = Files.isRegularFile(kept.resolve(AdapterFiles.CONFIG)) ? kept : null;
        return loaded;
    }

    /// Says that the adapter was loaded from `folder`, which must stay there: a task that compares the model with what
    /// it was before its training ([Task#referenceNumbers]) then compares it with the model with that adapter, not
    /// without any. [#save] writes a copy of it into the subfolder `ref`, as TRL does, by which an evaluation later
    /// knows it.
    public void beganWith(Path folder) {
        reference = folder;
    }

    /// Loads the head in `folder`; does nothing if the head is the model's own.
    ///
    /// @throws InputException if the file is missing, damaged, or does not fit
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

    /// Trainable and total parameters, both including the head.
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

    /// @throws IllegalStateException if no adapter is active, since only the head would train
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
    public @Nullable Examples withReference(Examples rows, int batchSize, BooleanSupplier stop, IntConsumer progress) {
        if (task().referenceNumbers() == 0 || rows.hasReference()) {
            return rows;
        }
        PeftModel with = peft;
        if (with == null ? trained : with.adapters().isEmpty()) {
            throw new InputException("task " + task().name() + " compares the model with what it was before its"
                    + " training, " + (with == null ? "which is gone" : "and nothing says what that was")
                    + "; use a model with an adapter");
        }
        model.train(false);
        if (with == null || reference != null && !trained) {
            return withReference(rows, batchSize, stop, progress, this::outputs);
        }
        if (reference == null) {
            return withReference(
                    rows, batchSize, stop, progress, batch -> with.withAdapter(PeftModel.BASE, () -> outputs(batch)));
        }
        with.loadAdapter(REFERENCE, reference);
        try {
            return withReference(
                    rows, batchSize, stop, progress, batch -> with.withAdapter(REFERENCE, () -> outputs(batch)));
        } finally {
            with.deleteAdapter(REFERENCE);
        }
    }

    private @Nullable Examples withReference(
            Examples rows,
            int batchSize,
            BooleanSupplier stop,
            IntConsumer progress,
            Function<Batch, double[]> answers) {
        int each = task().referenceNumbers();
        float[] numbers = new float[each * rows.size()];
        Examples blank = rows.withReference(numbers);
        int done = 0;
        try (Autograd.Mode mode = Autograd.noGrad()) {
            for (Batch batch : new DataLoader(blank, DataLoader.Options.evaluation(batchSize)).epoch(0)) {
                if (stop.getAsBoolean()) {
                    return null;
                }
                progress.accept(done);
                double[] outputs = answers.apply(batch);
                for (int i = 0; i < outputs.length; i++) {
                    numbers[batch.rows()[i / each] * each + i % each] = (float) outputs[i];
                }
                done += batch.rows().length;
            }
        }
        progress.accept(done);
        return rows.withReference(numbers);
    }

    private double[] outputs(Batch batch) {
        try (Scope scope = Scope.open()) {
            return head.logits(new Feed(model, batch)).toDoubles();
        }
    }

    @Override
    public Tensor logits(Batch batch) {
        return reading(() -> inScope(() -> head.logits(new Feed(model, batch))));
    }

    /// The vectors (B, C) that are the head's input.
    ///
    /// @throws IllegalStateException if the head does not work on pooled texts
    Tensor pooled(Batch batch) {
        if (!(head instanceof TextClassifier classifier)) {
            throw new IllegalStateException("pooled: task " + card.task().name() + " makes no vector of a text");
        }
        return reading(() -> inScope(() -> classifier.pooled(new Feed(model, batch))));
    }

    /// Refuses outputs that are no numbers, as damaged weights give them, or training that diverged.
    ///
    /// @throws InputException if any is NaN or infinite
    public void requireFinite(double... outputs) {
        if (!Arrays.stream(outputs).allMatch(Double::isFinite)) {
            throw new InputException(title + ": answers with what is no number (NaN or infinity); its weights are"
                    + " damaged, or its training diverged; train again, with a lower --lr");
        }
    }

    /// Returns what `work` creates and frees everything else that it created.
    private static Tensor inScope(Supplier<Tensor> work) {
        try (Scope scope = Scope.open()) {
            return scope.keep(work.get());
        }
    }

    /// Runs `work` with this object's adapter. In training, that is the active one, and operations are recorded.
    private <T> T reading(Supplier<T> work) {
        if (peft == null || adapter == null || model.isTraining()) {
            return work.get();
        }
        return peft.withAdapter(adapter, work);
    }

    /// The adapter that trains and is saved: the active one, which must be this object's own.
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

    /// The head that answers.
    public Head head() {
        return head;
    }

    /// The number of positions that the adapter takes from the text.
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
        Tensor own = peft == null ? null : active(peft).penalty();
        if (penalty == null) {
            return own;
        }
        Tensor added = penalty.term.get();
        return own == null ? added : Tuner.trainingLoss(added, own);
    }

    /// Adds a term to the training loss, in addition to the method's own penalty, and replaces one added before.
    ///
    /// @param name identifies the term with its strength: a checkpoint can only be resumed with the same one
    /// @param term computes it, a scalar; called once for each step
    public void penalize(String name, Supplier<Tensor> term) {
        penalty = new Penalty(name, term);
    }

    @Override
    public void microStep(int number) {
        trained = true;
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
    public Map<String, Integer> ranks() {
        return peft == null ? Map.of() : active(peft).ranks();
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
        trained = true;
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
        if (penalty != null) {
            json.put("penalty", penalty.name);
        }
        return json;
    }

    // ---- files

    /// Writes the adapter as peft does (or the whole model as transformers does, if all of it trains), the head as
    /// `head.safetensors`, and `loran.json`.
    @Override
    public void save(Path folder) {
        if (peft == null) {
            HfModels.save(model, folder, dtype());
            task().describe(folder, model, card);
        } else {
            own(peft).savePretrained(folder);
        }
        head.save(folder);
        card.write(folder);
        if (reference != null && task().referenceNumbers() > 0) {
            keep(reference, folder.resolve(REFERENCE));
        }
        beside.accept(folder);
    }

    private static void keep(Path adapter, Path place) {
        try {
            Files.createDirectories(place);
            for (String file : List.of(AdapterFiles.CONFIG, AdapterFiles.WEIGHTS, AdapterFiles.TRAINING)) {
                if (!file.equals(AdapterFiles.TRAINING) || Files.isRegularFile(adapter.resolve(file))) {
                    Files.copy(adapter.resolve(file), place.resolve(file), StandardCopyOption.REPLACE_EXISTING);
                }
            }
        } catch (IOException e) {
            throw InputException.io(place, "the adapter that the training began with cannot be kept there", e);
        }
    }

    /// Registers additional files for [#save] to write, such as a tokenizer.
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
