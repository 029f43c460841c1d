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

/// A frozen model with its adapters, by name; one or more of them are active. peft's `PeftModel`.
///
/// The base's parameters collect no gradient, but for those that the active adapter asks for (biases). Unlike with
/// peft, those are the adapter's own: they stand in the base only while it is active. Closing closes the adapters and
/// leaves the model as it was, bit for bit.
///
/// Merging writes the active adapters into the base's weights, [#unmergeAdapter] brings the old bits back. While they
/// are merged, there is neither training nor a change of adapters.
///
/// **Threads**: reading is safe from any number of threads, with the active adapters as long as nobody changes them, or
/// with an adapter for each call ([#withAdapter]) or each row ([#logits(Tensor, Tensor, List)]). What changes it
/// (adding, removing, choosing, merging, training, closing) must be alone, and fails with a
/// [java.util.ConcurrentModificationException] where it meets another thread's use. So does a forward of a thread
/// whose choice of adapters another thread has replaced.
public final class PeftModel extends Adapters {
    /// The name of an adapter nobody named.
    public static final String DEFAULT_ADAPTER = "default";

    /// Stands for no adapter where names of adapters are asked for, row by row.
    public static final String BASE = "__base__";

    private final Methods methods;
    /// Whether the model has its classification head from here.
    private boolean ownsHead;

    /// How many parameters there are: [#parameterCount].
    ///
    /// @param trainableParameters those that collect gradients
    /// @param totalParameters those of base and active adapters together
    public record ParameterCount(long trainableParameters, long totalParameters) {
        /// Share of the trainable ones, in percent.
        public double trainablePercentage() {
            return 100.0 * trainableParameters / totalParameters;
        }
    }

    /// Closed by the caller to make the adapters active again.
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
    /// @param methods those that files of adapters may name
    public PeftModel(Model model, long seed, Methods methods) {
        super(model, seed);
        this.methods = methods;
    }

    // ---- files

    /// As [#savePretrained], in a form that needs nothing but the untouched base: an adapter that started by PiSSA or
    /// OLoRA becomes a plain LoRA of twice the rank with the same answers (peft's
    /// `path_initial_model_for_weight_conversion`). Others are written as they are.
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

    /// Reads an adapter that Loran or peft saved and adds it under `name`; active if it is the first. Active, it trains
    /// on from these weights, by the method and the options of its file: `TaskModel.of` makes it ready for a task, with
    /// its head where that is the model family's own and has as many classes.
    ///
    /// @throws InputException if files are missing or damaged, the method is not supported, or the adapter does not fit
    ///     this model: made on other weights, or tensors missing, unknown or of another shape
    public Tuner loadAdapter(String name, Path folder) {
        return loadAdapter(name, folder, true);
    }

    /// As above; without `head` the adapter alone, to be trained for other classes than those of the head in its files.
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

    /// Gives the model the classification head that the adapter in `folder` is for, where it has none: peft's adapters
    /// are made on models whose head is new, and bring the trained one.
    ///
    /// @return whether it did
    /// @throws InputException if the model cannot have one, or has one for other numbers of classes
    private boolean makeRoomForHead(PeftConfig config, Path folder) {
        int classes = config.taskType() == TaskType.SEQ_CLS ? Heads.classes(folder.resolve(AdapterFiles.WEIGHTS)) : 0;
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
            model().addClassifier(classes, module -> Heads.brings(folder.resolve(AdapterFiles.WEIGHTS), module));
            ownsHead = true;
        } catch (InputException e) {
            throw new InputException(folder + ": " + e.getMessage(), e);
        }
        return true;
    }

    /// Gives the model a new classification head, unless it has one, and has the active adapter train it: what peft
    /// does for the task type SEQ_CLS, which the adapter's file then says. Closing takes the head away again.
    ///
    /// @param random draws the head's start
    /// @throws InputException if the model cannot have a head
    /// @throws IllegalStateException if no adapter is active, or the model has classes of its own
    public void addClassifier(int classes, RandomGenerator random) {
        try (Guard.Use use = model().changing("addClassifier")) {
            requireUnmerged("addClassifier");
            Tuner tuner = active();
            if (!model().hasNewClassifier()) {
                model().addClassifier(classes);
                ownsHead = true;
            }
            if (!tuner.hasNewClassifier()) {
                tuner.trainClassifier(random);
                resume();
            }
        }
    }

    /// As [#loadAdapter], in the place of adapter `name`, which is kept if the files do not fit.
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

    /// An adapter with what its files hold; where they do not fit, everything is as it was.
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

    /// Adds adapter `name`, a LoRA made of the low-rank updates of others: see [Combination]. LoRA on linear layers and
    /// tables, with any mixture of ranks, alphas and scaling rules, PiSSA, OLoRA and AdaLoRA can be combined. The file
    /// of the result is plain LoRA; Hugging Face peft, which copies `use_rslora` into a result whose alpha is its rank,
    /// makes its own too large by the root of the rank.
    ///
    /// @param names of the adapters
    /// @param weights w of each; negative ones take away
    /// @return the relative error of each layer, ‖result − Σ wᵢΔᵢ‖ / ‖Σ wᵢΔᵢ‖, by the layer's name
    /// @throws InputException if a name is unknown, numbers of names and weights differ, or an adapter cannot be
    ///     combined: DoRA, biases or rows of tables trained beside, adapters without low-rank updates, factors of
    ///     different ranks
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

    /// What merging the active adapters into weights of `dtype` would do, layer by layer; nothing is written.
    ///
    /// @throws InputException if an active adapter cannot be merged: bottleneck adapters, prompts, prefixes
    /// @throws IllegalStateException if none is active, or they are merged already
    public MergeReport mergeReport(DType dtype) {
        try (Guard.Use use = model().changing("mergeReport")) {
            requireMergeable("mergeReport");
            return MergedWeights.forecast(model(), chosenAdapters(), dtype);
        }
    }

    /// Writes the active adapters into the weights of the base, which then answers alone and at no extra cost. Weights
    /// that an adapter changes exist twice until [#unmergeAdapter]; prepared ones are prepared again, and mapped files
    /// are not written to. A head that is the table of token embeddings gets a weight of its own where an adapter
    /// changes only one of the two: the model is no longer tied then, and its config.json says so.
    ///
    /// @return what became of each weight, and how much of the update rounding to its type lost
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

    /// The reverse of [#mergeAdapter], bit for bit: the adapters are active beside the base again.
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

    /// Merges the active adapters for good, unless they are merged already, and closes this PeftModel with all
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

    /// Closes this PeftModel with all adapters: the model is as it was before them, bit for bit, merged or not.
    ///
    /// @return the model, which belongs to the caller
    public Model unload() {
        close();
        return model();
    }

    // ---- training and answering

    /// Every tensor the active adapters train, by peft's name.
    ///
    /// @throws IllegalStateException while adapters are merged: what is merged is not trained
    public Map<String, Tensor> trainableParameters() {
        requireUnmerged("trainableParameters");
        return trainable();
    }

    /// Trainable and total parameters, tied ones once. What is merged or disabled counts as none.
    public ParameterCount parameterCount() {
        long trainable = 0;
        Set<Tensor> all = new LinkedHashSet<>(model().namedParameters().values());
        for (Tensor t : trainable().values()) {
            trainable += t.shape().size();
            all.add(t);
        }
        return new ParameterCount(
                trainable, all.stream().mapToLong(t -> t.shape().size()).sum());
    }

    /// Says which forward this is: dropout draws its masks from it. The trainer calls this before each micro-batch.
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

    /// The head's answer; see [Model#logits].
    public Tensor logits(Tensor inputIds, @Nullable Tensor attentionMask) {
        return model().logits(inputIds, attentionMask);
    }

    /// The head's answer to rows that use different adapters of any kinds, whatever is active: row i uses
    /// `adapterNames.get(i)`, [#BASE] for none. The batch runs once, and each row's answer is that of its adapter
    /// alone. Where adapters have virtual tokens, every row's hidden states have as many positions as the longest
    /// needs, and a row's own stand at the end. Nothing is recorded.
    ///
    /// @throws InputException if a name is unknown, or an adapter trains biases of the base itself
    /// @throws IllegalStateException in training mode, or while adapters are merged
    public Tensor logits(Tensor inputIds, @Nullable Tensor attentionMask, List<String> adapterNames) {
        return apart("logits", adapterNames, ofRows -> new MixedBatch(model(), ofRows).logits(inputIds, attentionMask));
    }

    /// Runs `work` on this thread with one adapter in the place of what is active, for this thread alone: whatever it
    /// asks of the model, through this object or past it, by [dev.loran.peft.model.KvCache] or a head of your own.
    /// Threads with different adapters run side by side. Nothing is recorded.
    ///
    /// ```java
    /// List<int[]> answers = peft.withAdapter("titles", () -> Generation.tokens(model, prompts, config));
    /// ```
    ///
    /// An adapter that trains biases of the base itself changes these for everybody: where it is the one asked for, or
    /// is active, no other thread may use the model meanwhile.
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

    /// Runs `work`, given the adapters of these names, on slots of its own, empty ones.
    private <T> T apart(String operation, List<String> names, Function<List<@Nullable Tuner>, T> work) {
        try (Guard.Use use = model().reading(operation)) {
            List<@Nullable Tuner> wanted = wanted(operation, names);
            if (chosenAdapters().stream().noneMatch(Tuner::borrows)
                    && wanted.stream().noneMatch(t -> t != null && t.borrows())) {
                return Slot.callEmpty(() -> work.apply(wanted));
            }
        }
        // What is borrowed is put into the base, or taken out of it, for all threads.
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

    /// Writes the active adapter as peft does: adapter_config.json and adapter_model.safetensors, in `folder` itself
    /// for the adapter `default`, else in a folder of its name below.
    public void savePretrained(Path folder) {
        try (Guard.Use use = model().reading("savePretrained")) {
            Tuner tuner = active();
            AdapterFiles.save(tuner, ofAdapter(tuner, folder));
        }
    }

    /// Takes the adapters off the model and closes them. A second call does nothing.
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
