package dev.loran.peft.tuner;

import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Buffer;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Guard;
import dev.loran.peft.model.Model;
import java.util.ArrayList;
import java.util.Collections;
import java.util.ConcurrentModificationException;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.SplittableRandom;
import java.util.function.UnaryOperator;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;

/// The adapters of a frozen model, by name, and which of them are active. Active adapters fill the model's slots and
/// collect gradients, unless they are disabled or merged into the base's weights. [PeftModel] is the public API on top.
abstract class Adapters implements AutoCloseable {
    private final Model model;
    private final long seed;
    private final Buffer microStep;
    private final Map<String, Tuner> adapters = new LinkedHashMap<>();
    /// The adapters that are active unless disabled, in the order in which they were named.
    private List<Tuner> active = List.of();
    /// The names of those that are active without being trained.
    private Set<String> frozen = Set.of();
    /// The filled slots if several adapters are active.
    private @Nullable Slots together;

    private final Runnable check = this::requireOwnChoice;
    /// The thread that last chose the active adapters; `choice` holds each thread's own last choice.
    private @Nullable Thread chooser;

    @SuppressWarnings("ThreadLocalUsage") // Each thread's choice is per PeftModel.
    private final ThreadLocal<@Nullable List<String>> choice = new ThreadLocal<>();

    private @Nullable MergedWeights merged;
    private int disabled;
    private boolean closed;

    Adapters(Model model, long seed) {
        this.model = model;
        this.seed = seed;
        this.microStep = model.backend().ofInts(0);
        model.requiresGrad(false);
        model.check(check);
    }

    public final Model model() {
        return model;
    }

    public final Map<String, Tuner> adapters() {
        return Collections.unmodifiableMap(adapters);
    }

    /// Attaches a new adapter and activates it if it is the first.
    ///
    /// @throws InputException if the name is taken or invalid, or the configuration does not fit the model
    /// @throws IllegalStateException while adapters are merged
    public final Tuner addAdapter(String name, PeftConfig config) {
        return addAdapter(name, config, false);
    }

    /// As above; with `partialTargets`, names in the target list that match nothing are ignored as long as one matches,
    /// as files from other tools need.
    public final Tuner addAdapter(String name, PeftConfig config, boolean partialTargets) {
        try (Guard.Use use = model.changing("addAdapter")) {
            checkNew(name);
            return add(name, attach(name, config, partialTargets, UnaryOperator.identity()));
        }
    }

    final Tuner add(String name, Tuner tuner) {
        adapters.put(name, tuner);
        if (adapters.size() == 1) {
            setAdapter(name);
        }
        return tuner;
    }

    final void checkNew(String name) {
        requireUnmerged("addAdapter");
        if (adapters.containsKey(name)) {
            throw new InputException("addAdapter: adapter " + name + " exists already; delete it first");
        }
        boolean isName = !name.isBlank() && Stream.of(".", "/", "\\").noneMatch(name::contains);
        if (!isName || name.equals(PeftModel.BASE)) {
            throw new InputException(
                    "addAdapter: \"" + name + "\" is no adapter name; it may hold no dot and no slash, and "
                            + PeftModel.BASE + " means the base");
        }
    }

    /// Attaches to the bare base: a method that starts from its weights must not see those of another adapter.
    final Tuner attach(String name, PeftConfig config, boolean partialTargets, UnaryOperator<String> naming) {
        empty();
        // The scope releases what attaching creates on the way (activations, for example); parameters are detached from
        // it.
        boolean done = false;
        try (Scope scope = Scope.attempt()) {
            try {
                SplittableRandom random = new SplittableRandom(seed + adapters.size());
                Attachment to = new Attachment(model, name, random, seed, microStep, partialTargets, naming);
                Tuner tuner = config.attach(to);
                done = true;
                return tuner;
            } finally {
                if (!done) {
                    scope.undo();
                }
            }
        } finally {
            fill();
        }
    }

    /// Removes and closes an adapter. If it was active, the other active adapters stay active.
    ///
    /// @throws IllegalStateException if it is merged
    public final void deleteAdapter(String name) {
        try (Guard.Use use = model.changing("deleteAdapter")) {
            Tuner tuner = adapter(name);
            if (active.contains(tuner)) {
                requireUnmerged("deleteAdapter");
                activate(active.stream().filter(t -> t != tuner).toList(), frozen);
                chosen();
            }
            adapters.remove(name);
            tuner.close();
        }
    }

    // ---- active adapters

    /// The name of the active adapter, or of the first if there are several; null if there is none or they are
    /// disabled.
    public final @Nullable String activeAdapter() {
        return disabled > 0 || active.isEmpty() ? null : activeNames().getFirst();
    }

    /// The names of all active adapters; none while they are disabled.
    public final List<String> activeAdapters() {
        return disabled > 0 ? List.of() : activeNames();
    }

    final List<String> activeNames() {
        return active.stream().map(t -> t.attachment().name()).toList();
    }

    /// The active adapter; if others are active beside it, the one that trains.
    ///
    /// @throws IllegalStateException if none is active, or more than one trains
    public final Tuner active() {
        List<Tuner> trained = trained();
        if (disabled > 0 || trained.size() != 1) {
            throw new IllegalStateException((activeAdapters().isEmpty() ? "no adapter is active" : "several are active")
                    + "; call setAdapter first, adapters are " + adapters.keySet());
        }
        return trained.getFirst();
    }

    private List<Tuner> trained() {
        return active.stream()
                .filter(t -> !frozen.contains(t.attachment().name()))
                .toList();
    }

    /// Makes one adapter active and trainable, and all others inactive. While adapters are disabled, this selects the
    /// adapter that becomes active afterwards.
    ///
    /// @throws InputException if there is no adapter of this name
    /// @throws IllegalStateException while adapters are merged
    public final void setAdapter(String name) {
        setAdapter(List.of(name));
    }

    /// Makes several adapters active and trainable at once. On a layer that they share, their terms are added, which
    /// only LoRA and AdaLoRA support; any other slot can hold only one of them.
    ///
    /// @throws InputException if a name is unknown or given twice, or adapters share a slot where they cannot be added;
    ///     the active adapters then stay as they were
    public final void setAdapter(List<String> names) {
        setAdapter(names, Set.of());
    }

    /// Makes one adapter active and trainable, and others active beside it with their weights frozen: their terms are
    /// added as in [#setAdapter(List)]. [#active] is then the one that trains.
    ///
    /// @throws InputException as [#setAdapter(List)]
    /// @throws IllegalStateException while adapters are merged
    public final void setAdapter(String name, List<String> beside) {
        List<String> names = Stream.concat(Stream.of(name), beside.stream()).toList();
        setAdapter(names, new HashSet<>(beside));
    }

    private void setAdapter(List<String> names, Set<String> still) {
        try (Guard.Use use = model.changing("setAdapter")) {
            requireUnmerged("setAdapter");
            List<Tuner> next = names.stream().map(this::adapter).toList();
            if (Set.copyOf(names).size() < names.size()) {
                throw new InputException("setAdapter: " + names + " names an adapter twice");
            }
            activate(next, still);
            chosen();
        }
    }

    private void chosen() {
        chooser = Thread.currentThread();
        choice.set(activeAdapters());
    }

    /// Prevents a thread that chose adapters from getting the results of those that another thread has chosen since.
    private void requireOwnChoice() {
        List<String> mine = choice.get();
        Thread by = chooser;
        if (mine != null && by != null && by != Thread.currentThread() && !mine.equals(activeAdapters())) {
            throw new ConcurrentModificationException("setAdapter: this thread chose adapters " + mine + ", but thread "
                    + by.getName() + " has chosen " + activeAdapters() + " since; give each call its adapter by"
                    + " withAdapter, or choose again when no other thread does");
        }
    }

    /// @param still the names of those of `next` that are not trained
    private void activate(List<Tuner> next, Set<String> still) {
        List<Tuner> before = active;
        Set<String> frozenBefore = frozen;
        suspend();
        boolean done = false;
        try {
            active = next;
            frozen = still;
            resume();
            done = true;
        } finally {
            if (!done) {
                active = before;
                frozen = frozenBefore;
                resume();
            }
        }
    }

    final void resume() {
        fill();
        if (disabled == 0 && merged == null) {
            trained().forEach(t -> t.parameters().values().forEach(p -> p.requiresGrad(true)));
        }
    }

    final void suspend() {
        active.forEach(t -> t.parameters().values().forEach(p -> p.requiresGrad(false)));
        empty();
    }

    /// Fills the slots, unless adapters are disabled or merged.
    final void fill() {
        if (disabled > 0 || merged != null || active.isEmpty()) {
            return;
        }
        if (active.size() == 1) {
            active.getFirst().activate();
        } else {
            Slots slots = new Slots(model, new ArrayList<>(active));
            slots.fillTogether(active.stream().map(Tuner::title).toList());
            together = slots;
        }
    }

    final void empty() {
        if (together != null) {
            together.clear();
            together = null;
        } else {
            active.forEach(Tuner::deactivate);
        }
    }

    /// Deactivates all adapters until the result is closed; calls may be nested. Nothing is trainable meanwhile.
    ///
    /// @throws IllegalStateException while adapters are merged
    public final PeftModel.Disabled disableAdapter() {
        try (Guard.Use use = model.changing("disableAdapter")) {
            requireUnmerged("disableAdapter");
            suspend();
            disabled++;
            chosen();
        }
        boolean[] open = {true};
        return () -> {
            if (open[0]) {
                try (Guard.Use use = model.changing("disableAdapter, closed")) {
                    open[0] = false;
                    disabled--;
                    resume();
                    chosen();
                }
            }
        };
    }

    final Tuner adapter(String name) {
        Tuner tuner = adapters.get(name);
        if (tuner == null) {
            throw new InputException("adapter " + name + " does not exist; there are " + adapters.keySet());
        }
        return tuner;
    }

    private void requireOpen(String operation) {
        if (closed) {
            throw new IllegalStateException(operation + ": this PeftModel is closed, its model stands alone");
        }
    }

    final void requireUnmerged(String operation) {
        requireOpen(operation);
        if (merged != null) {
            throw new IllegalStateException(operation + ": adapters " + activeNames()
                    + " are merged into the model; call unmergeAdapter() first");
        }
    }

    /// Whether the active adapters are merged into the base's weights.
    public final boolean isMerged() {
        return merged != null;
    }

    /// The active adapters, in the order in which they were named, whether disabled or not.
    final List<Tuner> chosenAdapters() {
        return active;
    }

    /// The adapters merged into the base's weights; null if there are none.
    final @Nullable MergedWeights merged() {
        return merged;
    }

    /// Records that the active adapters are merged into the base's weights as `next`, or (null) that none is.
    final void merged(@Nullable MergedWeights next) {
        merged = next;
    }

    /// All tensors of the active adapters that are trained.
    final Map<String, Tensor> trainable() {
        Map<String, Tensor> all = new LinkedHashMap<>();
        if (disabled == 0 && merged == null) {
            trained().forEach(t -> all.putAll(t.parameters()));
        }
        return all;
    }

    /// The counter from which dropout derives its masks.
    final Buffer microStep() {
        return microStep;
    }

    /// Replaces adapter `name` by `next` and closes the old one; the same names stay active.
    final void replace(String name, Tuner next) {
        Tuner before = adapter(name);
        List<String> names = activeNames();
        Set<String> still = frozen;
        activate(List.of(), Set.of());
        adapters.put(name, next);
        before.close();
        setAdapter(names, still);
    }

    final boolean isClosed() {
        return closed;
    }

    /// Leaves the merged updates in the base's weights permanently.
    final void keepMerged() {
        Objects.requireNonNull(merged).keep();
        merged = null;
        active = List.of();
    }

    /// Removes the adapters from the model and closes them.
    final void closeAll() {
        if (disabled == 0) {
            suspend();
        }
        if (model.check() == check) {
            model.check(null);
        }
        closed = true;
        active = List.of();
        adapters.values().forEach(Tuner::close);
        adapters.clear();
        microStep.release();
    }
}
