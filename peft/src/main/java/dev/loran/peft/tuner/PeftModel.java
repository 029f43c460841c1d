package dev.loran.peft.tuner;

import dev.loran.engine.Autograd;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.DType;
import dev.loran.engine.nn.Linear;
import dev.loran.engine.nn.Slot;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Guard;
import dev.loran.peft.model.Model;
import dev.loran.peft.model.TaskType;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.Function;
import java.util.function.Supplier;
import java.util.random.RandomGenerator;
import org.jspecify.annotations.Nullable;

/// A frozen model with its adapters, by name, of which one or more are active. Corresponds to peft's `PeftModel`.
///
/// The base's parameters collect no gradients, except those that the active adapter trains (biases). Unlike in peft,
/// the trained values belong to the adapter and are in the base only while it is active. Closing closes the adapters
/// and restores the model bit for bit.
///
/// Merging writes the active adapters into the base's weights; [#unmergeAdapter] restores the old bits. While adapters
/// are merged, they can be neither trained nor changed.
///
/// **Threads**: any number of threads may read concurrently, either with the active adapters as long as no thread
/// changes them, or with an adapter per call ([#withAdapter]) or per row ([#logits(Tensor, Tensor, List)]). Operations
/// that change the model (adding, removing, choosing, merging, training, closing) need exclusive access; if another
/// thread is using the model they fail with a [java.util.ConcurrentModificationException]. So does a forward pass on a
/// thread whose choice of adapters another thread has replaced.
public final class PeftModel extends Adapters {
    /// The default name of an adapter.
    public static final String DEFAULT_ADAPTER = "default";

    /// Stands for no adapter in lists of adapter names, one per row.
    public static final String BASE = "__base__";

    private final Methods methods;
    /// Whether this object added the model's classification head.
    private boolean ownsHead;

    /// The number of parameters: [#parameterCount].
    ///
    /// @param trainableParameters those that collect gradients
    /// @param totalParameters those of the base and the active adapters
    public record ParameterCount(long trainableParameters, long totalParameters) {
        /// Percentage of trainable parameters.
        public double trainablePercentage() {
            return 100.0 * trainableParameters / totalParameters;
        }
    }

    /// Closing it makes the adapters active again.
    public interface Disabled extends AutoCloseable {
        @Override
        void close();
    }

    /// Freezes `model`.
    ///
    /// @param seed of initial values and dropout masks
    public PeftModel(Model model, long seed) {
        this(model, seed, Methods.shipped());
    }

    /// As above.
    ///
    /// @param methods those that adapter files may name
    public PeftModel(Model model, long seed, Methods methods) {
        super(model, seed);
        this.methods = methods;
    }

    // ---- files

    /// As [#savePretrained], in a form that needs only the unmodified base: an adapter initialized by PiSSA or OLoRA
    /// becomes an equivalent plain LoRA of twice the rank (peft's `path_initial_model_for_weight_conversion`). Others
    /// are written unchanged.
    public void saveConverted(Path folder) {
        try (Guard.Use use = model().reading("saveConverted")) {
            Tuner tuner = active();
            AdapterFiles.saveConverted(tuner, ofAdapter(tuner, folder));
        }
    }

    private static Path ofAdapter(Tuner tuner, Path folder) {
        String name = tuner.attachment().name();
        return name.equals(DEFAULT_ADAPTER) ? folder : folder.resolve(name);
    }

    /// Reads an adapter saved by Loran or peft and adds it under `name`; it becomes active if it is the first. Training
    /// an active adapter continues from these weights, with the method and options of its file: `TaskModel.of` prepares
    /// it for a task, including its head if that is the model family's own and has the same number of classes.
    ///
    /// @throws InputException if files are missing or damaged, the method is not supported, or the adapter does not fit
    ///     this model: it was made for other weights, or tensors are missing, unknown or of another shape
    public Tuner loadAdapter(String name, Path folder) {
        return loadAdapter(name, folder, true);
    }

    /// As above; without `head` the head in its files is left out, so that the adapter can be trained for other
    /// classes.
    public Tuner loadAdapter(String name, Path folder, boolean head) {
        PeftConfig config = AdapterFiles.config(folder, head, methods);
        try (Guard.Use use = model().changing("loadAdapter")) {
            checkNew(name);
            return add(name, attachFrom(folder, name, config, head));
        }
    }

    private void removeHead() {
        if (ownsHead) {
            model().removeClassifier();
            ownsHead = false;
        }
    }

    /// Adds the classification head that the adapter in `folder` needs, if the model lacks it: peft's adapters are made
    /// on models with a new head, and their files hold the trained one.
    ///
    /// @return whether a head was added
    /// @throws InputException if the model cannot have one, or has one with another number of classes
    private boolean makeRoomForHead(PeftConfig config, Path folder) {
        TaskType kind = config.taskType() == TaskType.TOKEN_CLS ? TaskType.TOKEN_CLS : TaskType.SEQ_CLS;
        int classes = config.taskType() == kind ? Heads.classes(folder.resolve(AdapterFiles.WEIGHTS)) : 0;
        Linear present = model().classifier();
        if (classes == 0 || present != null && present.outFeatures() == classes) {
            return false;
        }
        requireUnmerged("loadAdapter");
        if (present != null && adapters().values().stream().noneMatch(Tuner::hasNewClassifier)) {
            removeHead();
            present = model().classifier();
        }
        if (present != null) {
            throw new InputException(folder + ": tells " + classes + " classes apart, but the model has a head for "
                    + present.outFeatures()
                    + (model().hasNewClassifier()
                            ? ", which adapters beside it have trained; load this one on a model of its own"
                            : " of its own; the adapter was made for another base model"));
        }
        try {
            model().addClassifier(kind, classes, module -> Heads.brings(folder.resolve(AdapterFiles.WEIGHTS), module));
            ownsHead = true;
        } catch (InputException e) {
            throw new InputException(folder + ": " + e.getMessage(), e);
        }
        return true;
    }

    /// Adds a new classification head to the model, unless it has one, and makes the active adapter train it. This is
    /// what peft does for the task type SEQ_CLS, which is then recorded in the adapter's file. Closing removes the
    /// head.
    ///
    /// @param random draws the head's initial values
    /// @throws InputException if the model cannot have a head
    /// @throws IllegalStateException if no adapter is active, or the model has its own classification head
    public void addClassifier(int classes, RandomGenerator random) {
        addClassifier(TaskType.SEQ_CLS, classes, random);
    }

    /// As above, for classes of texts or of tokens.
    ///
    /// @param kind [TaskType#SEQ_CLS] or [TaskType#TOKEN_CLS]
    public void addClassifier(TaskType kind, int classes, RandomGenerator random) {
        try (Guard.Use use = model().changing("addClassifier")) {
            requireUnmerged("addClassifier");
            Tuner tuner = active();
            if (!model().hasNewClassifier()) {
                model().addClassifier(kind, classes, module -> false);
                ownsHead = true;
            }
            if (!tuner.hasNewClassifier()) {
                tuner.trainClassifier(random);
                resume();
            }
        }
    }

    /// As [#loadAdapter], but replaces adapter `name`, which is kept if the files do not fit.
    public Tuner replaceAdapter(String name, Path folder) {
        PeftConfig config = AdapterFiles.config(folder, true, methods);
        try (Guard.Use use = model().changing("replaceAdapter")) {
            requireUnmerged("replaceAdapter");
            adapter(name);
            Tuner next = attachFrom(folder, name, config, true);
            replace(name, next);
            return next;
        }
    }

    /// Attaches an adapter with the content of its files; if they do not fit, everything stays unchanged.
    private Tuner attachFrom(Path folder, String name, PeftConfig config, boolean withHead) {
        boolean head = makeRoomForHead(config, folder);
        Tuner next = null;
        boolean done = false;
        try {
            AdapterFiles.requireSizes(config, folder);
            next = attach(name, config, true, AdapterFiles.naming(folder, model()));
            AdapterFiles.load(next, folder, withHead);
            done = true;
            return next;
        } catch (InputException e) {
            throw next == null ? AdapterFiles.of(folder.resolve(AdapterFiles.CONFIG), e) : e;
        } finally {
            if (!done && next != null) {
                next.close();
            }
            if (!done && head) {
                removeHead();
            }
        }
    }

    /// Adds adapter `name`, a LoRA combined from the low-rank updates of others: see [Combination]. It supports LoRA on
    /// linear layers and tables, with any mixture of ranks, alphas and scaling rules, as well as PiSSA, OLoRA and
    /// AdaLoRA. The result's file is plain LoRA; Hugging Face peft copies `use_rslora` into a result whose alpha is its
    /// rank, which makes its result too large by the square root of the rank.
    ///
    /// @param names of the adapters
    /// @param weights w of each adapter; negative ones subtract
    /// @return the relative error of each layer, ‖result − Σ wᵢΔᵢ‖ / ‖Σ wᵢΔᵢ‖, by the layer's name
    /// @throws InputException if a name is unknown, the numbers of names and weights differ, or an adapter cannot be
    ///     combined: DoRA, trained biases or table rows, adapters without low-rank updates, factors of different ranks
    /// @throws IllegalStateException while adapters are merged
    public Map<String, Double> addWeightedAdapter(
            String name, List<String> names, List<Double> weights, Combination how) {
        if (names.isEmpty() || names.size() != weights.size()) {
            throw new InputException("addWeightedAdapter: adapters are " + names + " but weights are " + weights
                    + "; needs one weight an adapter, and at least one");
        }
        if (!weights.stream().allMatch(Double::isFinite)) {
            throw new InputException("addWeightedAdapter: weights are " + weights + ", must be finite");
        }
        try (Guard.Use use = model().changing("addWeightedAdapter")) {
            requireUnmerged("addWeightedAdapter");
            List<Tuner> tuners = names.stream().map(this::adapter).toList();
            return WeightedAdapter.add(
                    this, name, tuners, weights.stream().mapToDouble(w -> w).toArray(), how);
        }
    }

    // ---- merging

    /// What merging the active adapters into weights of `dtype` would change, layer by layer; nothing is written.
    ///
    /// @throws InputException if an active adapter cannot be merged: bottleneck adapters, prompts, prefixes
    /// @throws IllegalStateException if none is active, or they are merged already
    public MergeReport mergeReport(DType dtype) {
        try (Guard.Use use = model().changing("mergeReport")) {
            requireMergeable("mergeReport");
            return MergedWeights.forecast(model(), chosenAdapters(), dtype);
        }
    }

    /// Writes the active adapters into the weights of the base, which then computes the same outputs without extra
    /// cost. Weights that an adapter changes exist twice until [#unmergeAdapter]; prepared ones are prepared again, and
    /// mapped files are not written to. A head that shares the table of token embeddings gets its own weight if an
    /// adapter changes only one of the two: the model is then no longer tied, as its config.json states.
    ///
    /// @return how each weight changed, and how much of the update was lost in rounding to its type
    /// @throws InputException if an active adapter cannot be merged: bottleneck adapters, prompts, prefixes; nothing is
    ///     changed then
    /// @throws IllegalStateException if none is active, or they are merged already
    public MergeReport mergeAdapter() {
        try (Guard.Use use = model().changing("mergeAdapter")) {
            requireMergeable("mergeAdapter");
            MergedWeights weights = MergedWeights.of(model(), chosenAdapters());
            suspend();
            boolean done = false;
            try {
                weights.write();
                merged(weights);
                done = true;
            } finally {
                if (!done) {
                    resume();
                }
            }
            return weights.report();
        }
    }

    private void requireMergeable(String operation) {
        requireUnmerged(operation);
        if (activeAdapters().isEmpty()) {
            throw new IllegalStateException(operation + ": no adapter is active; call setAdapter first, adapters are "
                    + adapters().keySet());
        }
    }

    /// Reverses [#mergeAdapter], bit for bit: the adapters are again active beside the base.
    ///
    /// @throws IllegalStateException if nothing is merged
    public void unmergeAdapter() {
        try (Guard.Use use = model().changing("unmergeAdapter")) {
            MergedWeights weights = merged();
            if (weights == null) {
                throw new IllegalStateException("unmergeAdapter: no adapter is merged");
            }
            weights.undo();
            merged(null);
            resume();
        }
    }

    /// Merges the active adapters permanently, unless they are merged already, and closes this PeftModel with all
    /// adapters.
    ///
    /// @return the model, which belongs to the caller
    /// @throws InputException as [#mergeAdapter]
    public Model mergeAndUnload() {
        try (Guard.Use use = model().changing("mergeAndUnload")) {
            if (!isMerged()) {
                mergeAdapter();
            }
            keepMerged();
            model().weightsChanged();
            return unload();
        }
    }

    /// Closes this PeftModel with all adapters: the model is restored bit for bit, whether they were merged or not.
    ///
    /// @return the model, which belongs to the caller
    public Model unload() {
        close();
        return model();
    }

    // ---- training and inference

    /// All tensors that the active adapters train, by peft's names.
    ///
    /// @throws IllegalStateException while adapters are merged, as merged adapters are not trained
    public Map<String, Tensor> trainableParameters() {
        requireUnmerged("trainableParameters");
        return trainable();
    }

    /// Trainable and total parameters; tied ones are counted once. Merged or disabled adapters do not count.
    public ParameterCount parameterCount() {
        long trainable = 0;
        Set<Tensor> all = new LinkedHashSet<>(model().namedParameters().values());
        for (Tensor t : trainable().values()) {
            trainable += t.shape().size();
        }
        if (!activeAdapters().isEmpty() && !isMerged()) {
            chosenAdapters().forEach(t -> all.addAll(t.parameters().values()));
        }
        return new ParameterCount(
                trainable, all.stream().mapToLong(t -> t.shape().size()).sum());
    }

    /// Sets the number of this forward pass, from which dropout derives its masks. The trainer calls this before each
    /// micro-batch.
    public void microStep(int number) {
        try (Guard.Use use = model().changing("microStep")) {
            model().backend().fill(microStep(), number);
        }
    }

    /// Mean cross-entropy of a batch; see [Model#loss].
    ///
    /// @throws IllegalStateException in training mode while adapters are merged
    public Tensor loss(Tensor inputIds, @Nullable Tensor attentionMask, Tensor labels) {
        if (model().isTraining()) {
            requireUnmerged("loss");
        }
        return model().loss(inputIds, attentionMask, labels);
    }

    /// The head's output; see [Model#logits].
    public Tensor logits(Tensor inputIds, @Nullable Tensor attentionMask) {
        return model().logits(inputIds, attentionMask);
    }

    /// The head's output for rows that use different adapters of any kind, regardless of which are active: row i uses
    /// `adapterNames.get(i)`, or none for [#BASE]. The batch runs once, and each row's output is the same as with its
    /// adapter alone. If adapters have virtual tokens, the hidden states of every row have as many positions as the
    /// longest needs, and a row's own are at the end. Nothing is recorded.
    ///
    /// @throws InputException if a name is unknown, or an adapter trains biases of the base itself
    /// @throws IllegalStateException in training mode, or while adapters are merged
    public Tensor logits(Tensor inputIds, @Nullable Tensor attentionMask, List<String> adapterNames) {
        return apart("logits", adapterNames, ofRows -> new MixedBatch(model(), ofRows).logits(inputIds, attentionMask));
    }

    /// Runs `work` on this thread with one adapter instead of the active ones, for this thread only. It applies to
    /// every use of the model, through this object or directly, as by [dev.loran.peft.model.KvCache] or a user-defined
    /// head. Threads with different adapters run concurrently. Nothing is recorded.
    ///
    /// ```java
    /// List<int[]> answers = peft.withAdapter("titles", () -> Generation.tokens(model, prompts, config));
    /// ```
    ///
    /// An adapter that trains biases of the base itself changes these for all threads: if it is the requested adapter,
    /// or is active, no other thread may use the model meanwhile.
    ///
    /// @param name [#BASE] for none
    /// @throws InputException if there is no adapter of this name
    /// @throws IllegalStateException in training mode, or while adapters are merged
    public <T> T withAdapter(String name, Supplier<T> work) {
        return apart("withAdapter " + name, List.of(name), wanted -> {
            Tuner tuner = wanted.getFirst();
            try (Autograd.Mode mode = Autograd.noGrad()) {
                if (tuner == null) {
                    return work.get();
                }
                tuner.activate();
                try {
                    return work.get();
                } finally {
                    tuner.deactivate();
                }
            }
        });
    }

    /// Runs `work` with the adapters of these names, on the call's own, empty slots.
    private <T> T apart(String operation, List<String> names, Function<List<@Nullable Tuner>, T> work) {
        try (Guard.Use use = model().reading(operation)) {
            List<@Nullable Tuner> wanted = wanted(operation, names);
            if (chosenAdapters().stream().noneMatch(Tuner::borrows)
                    && wanted.stream().noneMatch(t -> t != null && t.borrows())) {
                return Slot.callEmpty(() -> work.apply(wanted));
            }
        }
        // Borrowed tensors are swapped into or out of the base for all threads.
        try (Guard.Use use = model().changing(operation)) {
            List<@Nullable Tuner> wanted = wanted(operation, names);
            empty();
            try {
                return Slot.callEmpty(() -> work.apply(wanted));
            } finally {
                fill();
            }
        }
    }

    private List<@Nullable Tuner> wanted(String operation, List<String> names) {
        requireUnmerged(operation);
        if (model().isTraining()) {
            throw new IllegalStateException(
                    operation + ": the model is in training mode, but rows with adapters of their own are"
                            + " for inference; call train(false) on the model");
        }
        List<@Nullable Tuner> wanted = new ArrayList<>();
        names.forEach(name -> wanted.add(name.equals(BASE) ? null : adapter(name)));
        return wanted;
    }

    /// Writes the active adapter in peft's format: adapter_config.json and adapter_model.safetensors, in `folder`
    /// itself for the adapter `default`, otherwise in a subfolder of its name.
    public void savePretrained(Path folder) {
        try (Guard.Use use = model().reading("savePretrained")) {
            Tuner tuner = active();
            AdapterFiles.save(tuner, ofAdapter(tuner, folder));
        }
    }

    /// Removes the adapters from the model and closes them. A second call has no effect.
    @Override
    public void close() {
        if (isClosed()) {
            return;
        }
        try (Guard.Use use = model().changing("close")) {
            if (isMerged()) {
                unmergeAdapter();
            }
            closeAll();
            removeHead();
        }
    }
}
