package dev.loran.peft.tuner;

import dev.loran.engine.Buffer;
import dev.loran.engine.Tensor;
import dev.loran.peft.data.InputException;
import dev.loran.peft.model.Model;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.SplittableRandom;
import org.jspecify.annotations.Nullable;

/// A frozen model with its adapters, by name; one of them is active. peft's `PeftModel`.
///
/// The base's parameters collect no gradient, but for those an adapter asks for (biases). Closing closes the adapters and
/// leaves the model as it was.
public final class PeftModel implements AutoCloseable {
    /// The name of an adapter nobody named.
    public static final String DEFAULT_ADAPTER = "default";

    private final Model model;
    private final long seed;
    private final Buffer microStep;
    private final Map<String, Tuner> adapters = new LinkedHashMap<>();
    private @Nullable String active;

    /// How many parameters there are: [#parameterCount].
    ///
    /// @param trainableParameters those that collect gradients
    /// @param totalParameters those of base and active adapter together
    public record ParameterCount(long trainableParameters, long totalParameters) {
        /// Share of the trainable ones, in percent.
        public double trainablePercentage() {
            return 100.0 * trainableParameters / totalParameters;
        }
    }

    /// Freezes `model`.
    ///
    /// @param seed of initial values and dropout masks
    public PeftModel(Model model, long seed) {
        this.model = model;
        this.seed = seed;
        this.microStep = model.backend().ofInts(0);
        model.requiresGrad(false);
    }

    public Model model() {
        return model;
    }

    public Map<String, Tuner> adapters() {
        return java.util.Collections.unmodifiableMap(adapters);
    }

    /// The active adapter's name; null when there is none or it is disabled.
    public @Nullable String activeAdapter() {
        return active;
    }

    /// Attaches a new adapter and makes it active if it is the first.
    ///
    /// @throws InputException if the name is taken, or the configuration does not fit the model
    public Tuner addAdapter(String name, PeftConfig config) {
        return addAdapter(name, config, false);
    }

    /// As above; with `partialTargets` names of the target list that match nothing are let pass as long as one matches, as
    /// files from elsewhere need.
    public Tuner addAdapter(String name, PeftConfig config, boolean partialTargets) {
        if (name.isEmpty() || name.contains(".") || name.contains("/") || name.contains("\\")) {
            throw new InputException(
                    "addAdapter: \"" + name + "\" is no adapter name; it may hold no dot and no slash");
        }
        if (adapters.containsKey(name)) {
            throw new InputException("addAdapter: adapter " + name + " exists already; delete it first");
        }
        Tuner tuner = config.attach(new Attachment(
                model, name, new SplittableRandom(seed + adapters.size()), seed, microStep, partialTargets));
        adapters.put(name, tuner);
        if (adapters.size() == 1) {
            setAdapter(name);
        }
        return tuner;
    }

    /// Makes one adapter active and trainable, all others inactive.
    ///
    /// @throws InputException if there is no adapter of this name
    public void setAdapter(String name) {
        Tuner next = adapter(name);
        suspend();
        next.activate();
        next.parameters().values().forEach(t -> t.requiresGrad(true));
        active = name;
    }

    private void suspend() {
        if (active != null) {
            Tuner before = adapter(active);
            before.deactivate();
            before.parameters().values().forEach(t -> t.requiresGrad(false));
            active = null;
        }
    }

    /// Removes and closes an adapter. If it was the active one, none is active afterwards.
    public void deleteAdapter(String name) {
        Tuner tuner = adapter(name);
        if (name.equals(active)) {
            suspend();
        }
        adapters.remove(name);
        tuner.close();
    }

    /// Closed by the caller to make the adapter active again.
    public interface Disabled extends AutoCloseable {
        @Override
        void close();
    }

    /// The bare base model until the result is closed. (peft leaves trained base biases in place, and so does this.)
    public Disabled disableAdapter() {
        String before = active;
        suspend();
        return () -> {
            if (before != null && adapters.containsKey(before)) {
                setAdapter(before);
            }
        };
    }

    private Tuner adapter(String name) {
        Tuner tuner = adapters.get(name);
        if (tuner == null) {
            throw new InputException("adapter " + name + " does not exist; there are " + adapters.keySet());
        }
        return tuner;
    }

    /// The active adapter.
    ///
    /// @throws IllegalStateException if none is active
    public Tuner active() {
        if (active == null) {
            throw new IllegalStateException(
                    "no adapter is active; call setAdapter first, adapters are " + adapters.keySet());
        }
        return adapter(active);
    }

    /// Every tensor the active adapter trains, by peft's name.
    public Map<String, Tensor> trainableParameters() {
        return active == null ? Map.of() : active().parameters();
    }

    /// Trainable and total parameters, tied ones once.
    public ParameterCount parameterCount() {
        long trainable = 0;
        java.util.Set<Tensor> all =
                new java.util.LinkedHashSet<>(model.namedParameters().values());
        for (Tensor t : trainableParameters().values()) {
            trainable += t.shape().size();
            all.add(t);
        }
        return new ParameterCount(
                trainable, all.stream().mapToLong(t -> t.shape().size()).sum());
    }

    /// Says which forward this is: dropout draws its masks from it. The trainer calls this before each micro-batch.
    public void microStep(int number) {
        Buffer value = model.backend().ofInts(number);
        model.backend().copy(microStep, 1, value, 1, 1, 1, false);
        value.release();
    }

    /// Mean cross-entropy of a batch; see [Model#loss].
    public Tensor loss(Tensor inputIds, @Nullable Tensor attentionMask, Tensor labels) {
        return model.loss(inputIds, attentionMask, labels);
    }

    /// The head's answer; see [Model#logits].
    public Tensor logits(Tensor inputIds, @Nullable Tensor attentionMask) {
        return model.logits(inputIds, attentionMask);
    }

    /// Writes the active adapter as peft does: adapter_config.json and adapter_model.safetensors, in `folder` itself for
    /// the adapter `default`, else in a folder of its name below.
    public void savePretrained(Path folder) {
        Tuner tuner = active();
        String name = tuner.attachment().name();
        AdapterFiles.save(tuner, name.equals(DEFAULT_ADAPTER) ? folder : folder.resolve(name));
    }

    /// Reads an adapter that Loran or peft saved and adds it under `name`; active if it is the first.
    ///
    /// @throws InputException if files are missing or damaged, the method is not supported, or the adapter does not fit this
    ///     model: tensors missing, unknown or of another shape
    public Tuner loadAdapter(String name, Path folder) {
        PeftConfig config = AdapterFiles.config(folder);
        Tuner tuner = addAdapter(name, config, true);
        try {
            AdapterFiles.load(tuner, folder);
        } catch (RuntimeException e) {
            deleteAdapter(name);
            throw e;
        }
        return tuner;
    }

    /// As [#loadAdapter], in the place of adapter `name`, which is kept if the files do not fit.
    public Tuner replaceAdapter(String name, Path folder) {
        PeftConfig config = AdapterFiles.config(folder);
        Tuner before = adapter(name);
        Tuner next = config.attach(
                new Attachment(model, name, new SplittableRandom(seed + adapters.size()), seed, microStep, true));
        try {
            AdapterFiles.load(next, folder);
        } catch (RuntimeException e) {
            next.close();
            throw e;
        }
        boolean wasActive = name.equals(active);
        if (wasActive) {
            suspend();
        }
        adapters.put(name, next);
        before.close();
        if (wasActive) {
            setAdapter(name);
        }
        return next;
    }

    @Override
    public void close() {
        suspend();
        adapters.values().forEach(Tuner::close);
        adapters.clear();
        microStep.release();
    }
}
