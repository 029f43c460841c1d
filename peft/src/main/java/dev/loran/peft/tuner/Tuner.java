package dev.loran.peft.tuner;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.nn.AdaptedLayer;
import dev.loran.engine.nn.Adapter;
import dev.loran.engine.nn.Layer;
import dev.loran.engine.optim.Optimizer;
import dev.loran.peft.io.InputException;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.function.BiConsumer;
import java.util.function.Function;
import java.util.random.RandomGenerator;
import java.util.regex.Pattern;
import org.jspecify.annotations.Nullable;

/// One method attached to one model under one name: its tensors, and the slots it fills while it is active.
///
/// This class suffices for every method whose parts replace layers ([Adapter]); methods with more (virtual tokens, a
/// prefix, an allocator) override what they add.
public class Tuner implements AutoCloseable {
    /// An adapter and the layer it adapts.
    ///
    /// @param module the layer's name in the model
    public record Placed<L extends Layer>(String module, AdaptedLayer<L> layer, Adapter<? super L> adapter) {
        void fill() {
            layer.adapter(adapter);
        }

        void clear() {
            layer.adapter(null);
        }
    }

    /// A tensor of the base and this adapter's own values for it, which are swapped when the adapter is activated.
    private record Borrowed(Tensor base, Tensor own) {
        void swap() {
            Buffer before = base.buffer().retain();
            base.assign(base.shape(), own.buffer().retain());
            own.assign(own.shape(), before);
        }
    }

    private final PeftConfig config;
    private final Attachment to;
    private final List<Placed<?>> placements = new ArrayList<>();
    private final Map<String, Borrowed> borrowed = new LinkedHashMap<>();
    private boolean active;
    private boolean classifies;
    private boolean headCameLater;

    /// @param config with everything that [#savedConfig] writes
    public Tuner(PeftConfig config, Attachment to) {
        this.config = config;
        this.to = to;
    }

    public final PeftConfig config() {
        return config;
    }

    public final Attachment attachment() {
        return to;
    }

    /// This adapter in messages: its name and its method.
    final String title() {
        return to.name() + " (" + config.peftType() + ")";
    }

    /// The prefix before a module's name: peft uses `base_model.model.`, but only `base_model.` for prompt methods.
    protected String prefix() {
        return AdapterFiles.PREFIX;
    }

    /// The beginning of the names of parameters in `module`. An adapter with a new head is made for a model with a
    /// head, where the family may put a prefix before the modules below it.
    protected final String key(String module) {
        return prefix() + (classifies ? to.model().belowHead(module) : module);
    }

    /// Registers `adapter` for `layer`; [#activate] installs it.
    public final <L extends Layer> void place(String module, AdaptedLayer<L> layer, Adapter<? super L> adapter) {
        classifies |= layer == to.model().classifier() && to.model().hasNewClassifier();
        placements.add(new Placed<>(module, layer, adapter));
    }

    /// Trains a tensor of the base model itself, such as a bias; `name` is its name inside the PeftModel. The adapter
    /// has its own values for it, in F32 if the base has lower precision, which are in the base while the adapter is
    /// active.
    protected final void trainBase(String name, Tensor tensor) {
        borrowed.put(name, new Borrowed(tensor, Merge.wide(tensor).detachFromScope()));
    }

    /// The tensors of the base registered by [#trainBase], by name; they hold the adapter's values while it is active.
    final Map<String, Tensor> baseTensors() {
        Map<String, Tensor> all = new LinkedHashMap<>();
        borrowed.forEach((name, b) -> all.put(key(name.substring(prefix().length())), active ? b.base : b.own));
        return all;
    }

    protected final List<Placed<?>> placements() {
        return placements;
    }

    /// Trains the model's new classification head, which was added after this adapter.
    final void trainClassifier(RandomGenerator random) {
        to.model().headLayers().forEach((name, layer) -> {
            String module = Objects.requireNonNull(Heads.whole(Heads.CLASSIFIERS, name), name);
            String below = name.equals(module) ? "" : name.substring(module.length() + 1);
            ModulesToSave.place(this, module, below, layer).draw(random);
        });
        headCameLater = true;
    }

    /// Whether this adapter trains a head that the base's own files lack.
    public final boolean hasNewClassifier() {
        return classifies;
    }

    /// Fills the model's slots.
    public void activate() {
        placements.forEach(Placed::fill);
        borrow(true);
    }

    /// Empties the model's slots.
    public void deactivate() {
        placements.forEach(Placed::clear);
        borrow(false);
    }

    /// Whether it trains tensors of the base, which have one value at a time: it can then be in use for all threads or
    /// for none.
    final boolean borrows() {
        return !borrowed.isEmpty();
    }

    private void borrow(boolean now) {
        if (borrows() && active != now) {
            borrowed.values().forEach(Borrowed::swap);
            active = now;
        }
    }

    /// The tensors that this method trains, by their names inside the PeftModel.
    public Map<String, Tensor> parameters() {
        Map<String, Tensor> all = new LinkedHashMap<>();
        for (Placed<?> p : placements) {
            p.adapter().collect((local, tensor) -> all.put(key(p.module()) + "." + local, tensor));
        }
        all.putAll(baseTensors());
        return all;
    }

    /// The tensors of the adapter file by their keys there; tensors created for this belong to the caller's scope.
    public Map<String, Tensor> fileTensors() {
        return placedTensors();
    }

    private Map<String, Tensor> placedTensors() {
        Map<String, Tensor> all = new LinkedHashMap<>();
        for (Placed<?> p : placements) {
            BiConsumer<String, Tensor> put = (local, tensor) -> all.put(fileName(p, local), tensor);
            if (p.adapter() instanceof ModulesToSave<?> whole) {
                whole.collectFiles(put);
            } else {
                p.adapter().collect(put);
            }
        }
        all.putAll(baseTensors());
        return all;
    }

    /// The keys of those tensors that also belong to another layer, so that a file may omit them.
    final Set<String> tiedKeys() {
        Set<String> keys = new HashSet<>();
        for (Placed<?> p : placements) {
            if (p.adapter() instanceof ModulesToSave<?> whole && whole.isTied()) {
                whole.collectFiles((local, tensor) -> keys.add(fileName(p, local)));
            }
        }
        return keys;
    }

    /// The base's table of token embeddings and its head, by their keys, if resizing made them differ from the base's
    /// own files: peft saves them with the adapter.
    final Map<String, Tensor> resizedTables() {
        Map<String, Tensor> all = new LinkedHashMap<>();
        if (to.model().isResized()) {
            to.tables().forEach((module, layer) -> {
                Placed<?> placed = placements.stream()
                        .filter(p -> p.layer() == layer)
                        .findFirst()
                        .orElse(null);
                String below = placed == null ? "" : placed.adapter().baseName() + ".";
                if (placed == null || !(placed.adapter() instanceof ModulesToSave<?>)) {
                    all.put(key(module) + "." + below + "weight", Attachment.weight(layer));
                }
            });
        }
        return all;
    }

    private String fileName(Placed<?> placed, String local) {
        return key(placed.module()) + "." + fileName(local);
    }

    /// Frozen weights of the base that an adapter file may repeat, by their keys there: when it is read, they are
    /// compared with the model's and not copied.
    public Map<String, Tensor> repeated() {
        return Map.of();
    }

    /// The content of an adapter folder: see [AdapterFiles].
    record Saved(ObjectNode config, Map<String, Tensor> tensors, Map<String, Tensor> training) {}

    /// The present state of this adapter; tensors created for this belong to the caller's scope.
    final Saved saved() {
        Map<String, Tensor> tensors = new LinkedHashMap<>(fileTensors());
        tensors.putAll(resizedTables());
        return new Saved(withHead(savedConfig()), tensors, trainingTensors());
    }

    /// Adds the task and the module names to a configuration if a classification head was added after this adapter.
    final ObjectNode withHead(ObjectNode json) {
        if (headCameLater) {
            json.put("task_type", to.model().task().name());
            Set<String> names = new LinkedHashSet<>(Heads.CLASSIFIERS);
            json.path("modules_to_save").forEach(name -> names.add(name.asText()));
            ConfigJson.put(json, "modules_to_save", List.copyOf(names));
        }
        return json;
    }

    /// As [#saved], for the unmodified base model, even if the adapter's initialization changed the base.
    Saved converted() {
        return saved();
    }

    /// Copies the tensors of an adapter file: those with the keys and shapes of [#fileTensors], without [#repeated].
    public void load(Map<String, Tensor> values) {
        Map<String, Tensor> rest = new LinkedHashMap<>(fileTensors());
        rest.keySet().removeAll(placedTensors().keySet());
        copy(rest, values);
        loadPlaced(values);
    }

    /// Copies the tensors of the adapters that replace layers, and those of the base.
    protected final void loadPlaced(Map<String, Tensor> values) {
        for (Placed<?> p : placements) {
            Function<String, Tensor> value = local -> {
                String key = fileName(p, local);
                return Objects.requireNonNull(values.get(key), key);
            };
            if (p.adapter() instanceof ModulesToSave<?> whole) {
                whole.load(value);
            } else {
                p.adapter().collect((local, tensor) -> tensor.copyFrom(value.apply(local)));
            }
        }
        copy(baseTensors(), values);
    }

    private static void copy(Map<String, Tensor> to, Map<String, Tensor> from) {
        to.forEach((key, tensor) -> tensor.copyFrom(Objects.requireNonNull(from.get(key), key)));
    }

    /// Parameters that training needs but peft's file cannot hold, by their names in [#parameters] without the prefix;
    /// saved in a separate file.
    public Map<String, Tensor> trainingTensors() {
        return Map.of();
    }

    /// Copies what [#trainingTensors] returned.
    ///
    /// @param file name for the error message
    /// @throws InputException if names or shapes do not match this method
    public void loadTraining(Map<String, Tensor> values, String file) {
        throw new InputException(
                file + ": " + config.peftType() + " needs no such file; it belongs to another adapter");
    }

    /// The present content of `adapter_config.json` for this adapter.
    public ObjectNode savedConfig() {
        return config.toJson();
    }

    /// A scalar that this method adds to the task's loss in training; null for none. It is reported separately.
    public @Nullable Tensor penalty() {
        return null;
    }

    /// The training objective: the task's loss plus the [#penalty] if there is one; a scalar.
    public static Tensor trainingLoss(Tensor loss, @Nullable Tensor penalty) {
        return penalty == null ? loss : loss.add(penalty.reshape(loss.shape().dims()));
    }

    /// Called once before training, when the number of optimizer steps is known.
    public void beginTraining(int totalSteps) {}

    /// Called after each optimizer step, before gradients are dropped.
    ///
    /// @param step optimizer steps done, from 1
    /// @param gradScale the one-element factor that the optimizer applied to gradients (clipping); null for 1
    /// @param optimizer holds the moments, which must be resized with a parameter that changes its shape
    public void afterStep(int step, @Nullable Buffer gradScale, Optimizer optimizer) {}

    /// Whether step `step` (from 1), including [#afterStep], requests the same work from the backend as the previous
    /// one and reads nothing back, so that it can be recorded once and replayed
    /// ([dev.loran.engine.backend.Backend#capture]). User-defined methods must override this to be recorded.
    public boolean repeats(int step) {
        return Methods.shipped().contains(config.peftType());
    }

    /// The number of positions that this method takes from the text: virtual tokens, or a prefix.
    public int virtualTokens() {
        return 0;
    }

    /// The live rank of each adapted layer by module name, for methods whose ranks change; empty for others.
    public Map<String, Integer> ranks() {
        return Map.of();
    }

    /// The state that a checkpoint needs besides the parameters and the optimizer's moments; read within the caller's
    /// scope.
    public Map<String, Tensor> trainingState() {
        return Map.of();
    }

    /// The new shapes of the parameters whose shape [#loadTrainingState] will change, by their full names. Changes
    /// nothing.
    ///
    /// @throws IllegalArgumentException if `state` is not from this method
    public Map<String, Shape> shapes(Map<String, Tensor> state) {
        return Map.of();
    }

    /// Restores what [#trainingState] returned.
    public void loadTrainingState(Map<String, Tensor> state) {}

    /// A parameter's name below its module as used in files: without the adapter's name.
    private String fileName(String local) {
        String name = "\\." + Pattern.quote(to.name()) + "(?=\\.|$)";
        String without = local.replaceFirst(name, "");
        if (without.startsWith("modules_to_save.")) {
            return without.substring("modules_to_save.".length());
        }
        return without.equals("lora_magnitude_vector.weight") ? "lora_magnitude_vector" : without;
    }

    @Override
    public void close() {
        borrow(false);
        placements.forEach(p -> p.adapter().close());
        borrowed.values().forEach(b -> b.own.close());
    }
}
