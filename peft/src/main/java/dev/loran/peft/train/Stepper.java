package dev.loran.peft.train;

import dev.loran.engine.Scope;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.BinaryFn;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.HostBuffer;
import dev.loran.engine.backend.Scratch;
import dev.loran.engine.optim.GradClip;
import dev.loran.engine.optim.GradScaler;
import dev.loran.engine.optim.Optimizer;
import dev.loran.peft.data.Batch;
import dev.loran.peft.tuner.Tuner;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.function.BooleanSupplier;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;

/// Takes optimizer steps: forward and backward over micro-batches, clipping, the update. Holds everything that a step
/// changes (the parameters, the optimizer's moments, the step counters) and exports it as tensors for resuming. The
/// [Trainer] chooses the learning rate of a step and decides what happens after one whose values are not finite.
final class Stepper implements AutoCloseable {
    private static final String STEP = "trainer.step";
    private static final String MICRO_STEP = "trainer.micro_step";
    private static final String SCALER = "scaler.";
    private static final String LEARNER = "learner.";
    private static final String PARAMETER = "parameter.";

    private final Learner learner;
    private final Backend backend;
    private final DType dtype;
    private final Map<String, Tensor> parameters;
    private final Optimizer optimizer;
    private final GradClip clip;
    private final @Nullable GradScaler scaler;
    /// Loss, penalty and norm of the step.
    private final Tensor numbers;

    /// 0, or NaN from a step with a non-finite loss or gradient on: no updates are made until that step has been
    /// examined.
    private final Tensor bad;

    private final @Nullable RecordedSteps recorded;
    private int step;
    private int microStep;

    /// A step that was submitted to the backend.
    ///
    /// @param microStep the number of its first forward pass
    /// @param updated whether the update was submitted; with a non-finite loss or norm it changed nothing
    record Taken(StepResult result, List<Batch> batches, int microStep, boolean updated) {
        boolean isFinite() {
            return Stepper.isFinite(result);
        }
    }

    /// @param optimizer is closed with this object
    Stepper(Learner learner, TrainerConfig config, Optimizer optimizer) {
        this.learner = learner;
        this.backend = learner.backend();
        this.dtype = learner.dtype();
        this.optimizer = optimizer;
        // In their original order: the norm is a sum in this order.
        this.parameters = new LinkedHashMap<>(learner.parameters());
        this.clip = new GradClip(backend, dtype, config.maxGradNorm());
        this.scaler = config.lossScale() == 0
                ? null
                : new GradScaler(backend, dtype, GradScaler.Config.of(config.lossScale()));
        this.numbers = Tensor.own(Shape.of(StepResult.NUMBERS), backend.allocate(dtype, StepResult.NUMBERS));
        backend.fill(numbers.buffer(), 0);
        this.bad = Tensor.own(Shape.of(), backend.allocate(dtype, 1));
        backend.fill(bad.buffer(), 0);
        // Scaled losses are examined before the update, which a recording cannot do.
        this.recorded = backend.captures() && scaler == null ? new RecordedSteps(learner, backend) : null;
    }

    /// The number of optimizer steps done.
    int step() {
        return step;
    }

    /// The number of forward passes done in training.
    int microStep() {
        return microStep;
    }

    /// Whether a non-finite loss cannot be cured by a lower loss scale.
    boolean isHopeless() {
        return scaler == null || scaler.value() < 1;
    }

    private static boolean isFinite(StepResult result) {
        return Double.isFinite(result.loss()) && Double.isFinite(result.gradNorm());
    }

    // ---- one step

    /// Takes one step on all rows of `microBatches` together. Stops between two of them once `stop` returns true; then
    /// the result is null and nothing has changed.
    @Nullable
    Taken take(double learningRate, List<Batch> microBatches, BooleanSupplier stop) {
        int first = microStep;
        int tokens = microBatches.stream().mapToInt(Batch::tokens).sum();
        boolean repeats = learner.repeats(step + 1);
        StepResult result = null;
        boolean updated = true;
        if (recorded != null && microBatches.size() == 1 && repeats) {
            replay(recorded, learningRate, microBatches.getFirst());
        } else {
            if (!accumulate(microBatches, stop)) {
                optimizer.zeroGrad(parameters);
                microStep = first;
                return null;
            }
            Tensor norm = norm();
            if (scaler == null && !backend.isHollow() && (!backend.captures() || !repeats)) {
                // Waiting for the values costs nothing here, and what the host does after an update cannot be gated.
                result = numbers(step + 1, learningRate, tokens);
                updated = isFinite(result);
            }
            if (updated && (scaler == null || scaler.update(norm))) {
                optimizer.advance(learningRate);
                gate();
                update();
            } else {
                // The step is skipped; the method sees a step without gradients.
                optimizer.zeroGrad(parameters);
                if (scaler != null) {
                    learner.afterStep(step + 1, clip.scale(), optimizer);
                }
            }
        }
        step++;
        if (result == null) {
            result = numbers(step, learningRate, tokens);
        }
        if (updated && !repeats && !backend.isHollow()) {
            result.allotted(learner.ranks());
        }
        return new Taken(result, microBatches, first, updated);
    }

    private void replay(RecordedSteps steps, double learningRate, Batch batch) {
        learner.microStep(microStep++);
        optimizer.advance(learningRate);
        steps.step(batch, loss -> {
            forwardBackward(loss, 1, true);
            norm();
            gate();
            update();
        });
        // A replay skips the code that would have marked them.
        parameters.values().forEach(Tensor::markWritten);
    }

    /// @return whether all micro-batches were processed
    private boolean accumulate(List<Batch> microBatches, BooleanSupplier stop) {
        double terms = microBatches.stream().mapToDouble(Batch::lossTerms).sum();
        for (int i = 0; i < microBatches.size(); i++) {
            if (i > 0 && stop.getAsBoolean()) {
                return false;
            }
            Batch b = microBatches.get(i);
            learner.microStep(microStep++);
            // Rows without anything to predict have a loss of 0, whatever their weight.
            double weight = b.lossTerms() == terms ? 1 : b.lossTerms() / terms;
            forwardBackward(() -> learner.loss(b), weight, i == 0);
        }
        return true;
    }

    private StepResult numbers(int number, double learningRate, int tokens) {
        return new StepResult(number, learningRate, tokens, dtype, backend.readLater(numbers.buffer()));
    }

    /// Makes the gradient scale NaN, which disables the update, if the loss or gradient norm of this step or of an
    /// earlier one is not finite.
    private void gate() {
        if (scaler != null) {
            return;
        }
        int[] one = {1};
        try (Scratch scratch = new Scratch(backend)) {
            Buffer zero = scratch.like(bad.buffer());
            for (int which : new int[] {StepResult.LOSS, StepResult.NORM}) {
                // 0, or NaN for NaN and infinity.
                backend.binary(BinaryFn.SUB, zero, number(which), number(which), one, one, one);
                backend.axpby(bad.buffer(), zero, 1, 1);
            }
        }
        backend.axpby(clip.scale(), bad.buffer(), 1, 1);
    }

    private void forwardBackward(Supplier<Tensor> of, double weight, boolean first) {
        try (Scope scope = Scope.open()) {
            Tensor loss = of.get();
            if (weight != 1) {
                loss = loss.mul(Tensor.full(backend, dtype, weight));
            }
            backend.axpby(number(StepResult.LOSS), loss.buffer(), 1, first ? 0 : 1);
            Tensor penalty = first ? learner.penalty() : null;
            loss = Tuner.trainingLoss(loss, penalty);
            if (penalty != null) {
                backend.axpby(number(StepResult.PENALTY), penalty.buffer(), 1, 0);
            }
            (scaler == null ? loss : scaler.scale(loss)).backward();
        }
    }

    private Tensor norm() {
        Tensor norm = clip.norm(parameters.values(), scaler == null ? null : scaler.inverse());
        backend.copy(number(StepResult.NORM), 1, norm.buffer(), 1, 1, 1, false);
        return norm;
    }

    private void update() {
        optimizer.step(parameters, clip.scale());
        learner.afterStep(step + 1, clip.scale(), optimizer);
        optimizer.zeroGrad(parameters);
    }

    private Buffer number(int which) {
        return numbers.buffer().slice(which, 1);
    }

    /// Drops the gradients.
    void zeroGrad() {
        optimizer.zeroGrad(parameters);
    }

    /// The parameters that no gradient has reached, or only zeros: they have no moments, or all of these are zero.
    List<String> withoutGradient() {
        try (Scope scope = Scope.open()) {
            Map<String, Tensor> moments = new LinkedHashMap<>(optimizer.state());
            moments.keySet().removeIf(key -> key.endsWith(".step"));
            Set<String> reached = new HashSet<>();
            moments.forEach((key, moment) -> {
                String name = key.substring(0, key.lastIndexOf('.'));
                if (!reached.contains(name) && !isZero(moment)) {
                    reached.add(name);
                }
            });
            return moments.isEmpty()
                    ? List.of()
                    : parameters.keySet().stream()
                            .filter(name -> !reached.contains(name))
                            .toList();
        }
    }

    private static boolean isZero(Tensor t) {
        boolean[] zero = {true};
        t.withElements(s -> {
            for (long i = 0; i < t.shape().size() && zero[0]; i++) {
                zero[0] = HostBuffer.get(s, t.dtype(), i) == 0;
            }
        });
        return zero[0];
    }

    // ---- taking steps back

    /// Undoes a step that was submitted too early: it changed nothing, because the step before was not finite.
    void undo(Taken taken) {
        optimizer.retreat();
        step--;
        microStep = taken.microStep;
    }

    /// Enables further steps after `taken`, whose update changed nothing.
    void leaveOut(Taken taken) {
        if (taken.updated && scaler == null) {
            optimizer.retreat();
            backend.fill(bad.buffer(), 0);
        }
    }

    /// Resets the counters to where they were before `taken`.
    void back(Taken taken) {
        step = taken.result.step() - 1;
        microStep = taken.microStep;
    }

    /// Notifies the method of a step that was skipped without an update.
    void goOnAfter(Taken taken, int forwards) {
        if (!taken.updated) {
            learner.afterStep(taken.result.step(), clip.scale(), optimizer);
        }
        learner.microStep(forwards);
    }

    // ---- state

    /// Everything that resuming needs: the parameters, the step counters, the optimizer's moments, the learner's own
    /// state.
    Map<String, Tensor> state() {
        Map<String, Tensor> all = new LinkedHashMap<>(optimizer.state());
        parameters.forEach((name, t) -> all.put(PARAMETER + name, t));
        if (scaler != null) {
            scaler.state().forEach((name, t) -> all.put(SCALER + name, t));
        }
        learner.trainingState().forEach((name, t) -> all.put(LEARNER + name, t));
        all.put(STEP, Tensor.ofInts(backend, new int[] {step}));
        all.put(MICRO_STEP, Tensor.ofInts(backend, new int[] {microStep}));
        return all;
    }

    /// The steps and forward passes done when a state was saved.
    record Counts(int steps, int forwards) {
        /// Removes them from `state`.
        static Counts of(Map<String, Tensor> state) {
            return new Counts(take(state, STEP), take(state, MICRO_STEP));
        }
    }

    /// Restores a copy of such a state, without the counts.
    ///
    /// @param fits is called once everything else fits, and may refuse by throwing
    /// @throws IllegalArgumentException if an entry is missing or unknown, or has the wrong shape; then nothing has
    ///     changed
    void load(Map<String, Tensor> state, Counts counts, Runnable fits) {
        Map<String, Tensor> moments = new LinkedHashMap<>(state);
        Map<String, Tensor> ofScaler = takeAll(moments, SCALER);
        Map<String, Tensor> ofLearner = takeAll(moments, LEARNER);
        Map<String, Tensor> values = takeAll(moments, PARAMETER);
        checkShapes(values, moments, learner.shapes(ofLearner));
        try (Scope scope = Scope.open()) {
            Set<String> needed = scaler == null ? Set.of() : scaler.state().keySet();
            if (!ofScaler.keySet().equals(needed)) {
                throw new IllegalArgumentException(
                        "trainer: state of the loss scale has " + ofScaler.keySet() + ", needs " + needed);
            }
        }
        fits.run();
        if (scaler != null) {
            scaler.load(ofScaler);
        }
        optimizer.load(moments);
        // Before the parameters, some of which change their shape during training.
        learner.loadTrainingState(ofLearner);
        parameters.forEach((name, t) -> t.copyFrom(Objects.requireNonNull(values.get(name), name)));
        step = counts.steps;
        microStep = counts.forwards;
    }

    /// @param changed the new shapes of parameters whose shape will change
    private void checkShapes(Map<String, Tensor> values, Map<String, Tensor> moments, Map<String, Shape> changed) {
        if (!values.keySet().equals(parameters.keySet())) {
            throw new IllegalArgumentException(
                    "trainer: state is of parameters " + values.keySet() + " but " + parameters.keySet() + " train");
        }
        Map<String, Shape> shapes = new LinkedHashMap<>();
        parameters.forEach((name, t) -> shapes.put(name, t.shape()));
        shapes.putAll(changed);
        values.forEach((name, t) -> requireShape(PARAMETER + name, t, shapes.get(name)));
        moments.forEach((key, t) -> {
            String name = key.substring(0, Math.max(0, key.lastIndexOf('.')));
            requireShape(key, t, key.endsWith(".step") ? Shape.of() : shapes.get(name));
        });
    }

    private static void requireShape(String key, Tensor t, @Nullable Shape shape) {
        if (shape == null || !t.shape().equals(shape)) {
            throw new IllegalArgumentException("trainer: state entry " + key
                    + (shape == null ? " is of nothing that trains" : " is " + t.shape() + ", needs " + shape));
        }
    }

    /// Removes the entries whose names start with `prefix` from `state`, and returns them without the prefix.
    private static Map<String, Tensor> takeAll(Map<String, Tensor> state, String prefix) {
        Map<String, Tensor> taken = new LinkedHashMap<>();
        for (String name : List.copyOf(state.keySet())) {
            if (name.startsWith(prefix)) {
                taken.put(name.substring(prefix.length()), Objects.requireNonNull(state.remove(name), name));
            }
        }
        return taken;
    }

    static int take(Map<String, Tensor> state, String key) {
        Tensor t = state.remove(key);
        if (t == null) {
            throw new IllegalArgumentException("trainer: state lacks " + key);
        }
        return (int) t.item();
    }

    @Override
    public void close() {
        if (recorded != null) {
            recorded.close();
        }
        numbers.close();
        bad.close();
        clip.close();
        if (scaler != null) {
            scaler.close();
        }
        optimizer.close();
    }
}
