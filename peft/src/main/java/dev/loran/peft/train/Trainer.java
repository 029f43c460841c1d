package dev.loran.peft.train;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Autograd;
import dev.loran.engine.Backend;
import dev.loran.engine.BinaryFn;
import dev.loran.engine.Buffer;
import dev.loran.engine.DType;
import dev.loran.engine.Scope;
import dev.loran.engine.Scratch;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.optim.AdamW;
import dev.loran.engine.optim.GradClip;
import dev.loran.engine.optim.GradScaler;
import dev.loran.engine.optim.LrSchedule;
import dev.loran.engine.optim.ParameterGroup;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.DataLoader;
import dev.loran.peft.data.Examples;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Guard;
import dev.loran.peft.train.Checkpoints.Standing;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.function.BooleanSupplier;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;

/// The training loop: forward and backward over micro-batches, clipping, AdamW, schedule, evaluation.
///
/// ```java
/// try (Trainer trainer = new Trainer(model, TrainerConfig.defaults())) {
///     TrainingReport report = trainer.train(examples, heldOut, RunFolder.create(out), new TrainingListener() {});
/// }
/// ```
///
/// With a loop of your own, say how many steps there will be and call [#trainStep]:
///
/// ```java
/// Trainer trainer = new Trainer(model, TrainerConfig.defaults().withSteps(100));
/// for (Batch batch : loader.epoch(0)) {
///     StepResult result = trainer.trainStep(batch);
///     System.out.println(result.loss() + " at rate " + result.learningRate());
/// }
/// ```
///
/// The same seed, data and shapes give the same bits, also where a run was killed and goes on from a checkpoint.
/// Nothing in a step waits for the backend, but where losses are scaled. Closing gives back the optimizer's memory and
/// leaves the model as it is.
///
/// **Threads**: a trainer belongs to one thread at a time. A step must be alone with its trainer and its model, and
/// fails with a [java.util.ConcurrentModificationException] where it meets another thread's use of either; between
/// steps others may read the model.
public final class Trainer implements AutoCloseable {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final String STEP = "trainer.step";
    private static final String MICRO_STEP = "trainer.micro_step";
    private static final String TOTAL_STEPS = "trainer.total_steps";
    private static final String WARMUP_STEPS = "trainer.warmup_steps";
    private static final String SCALER = "scaler.";
    private static final String LEARNER = "learner.";
    private static final String PARAMETER = "parameter.";

    private final Guard guard = new Guard("trainer");
    private final Learner learner;
    private final TrainerConfig config;
    private final Backend backend;
    private final DType dtype;
    private final Map<String, Tensor> parameters;
    private final AdamW optimizer;
    private final GradClip clip;
    private final @Nullable GradScaler scaler;
    /// Loss, penalty and norm of the step.
    private final Tensor numbers;

    /// 0, or NaN from a step on whose loss or gradients are not finite: no step is taken until that one was looked at.
    private final Tensor bad;

    /// The step whose numbers nobody has looked at yet.
    private @Nullable Taken unseen;

    private int skipped;

    /// Of the last step that was taken.
    private @Nullable List<Batch> lastBatches;

    private final @Nullable RecordedSteps recorded;
    private @Nullable LrSchedule schedule;
    private int totalSteps;
    /// Those of rising rate, with which the run was begun; a longer run does not warm up again.
    private int warmupSteps;

    private boolean prolonged;
    private int step;
    private int microStep;
    private volatile boolean stopping;
    /// Whether the training thread was, which it is not to notice before the end: files and locks would fail.
    private boolean interrupted;

    public Trainer(Learner learner, TrainerConfig config) {
        this.learner = learner;
        this.config = config;
        this.backend = learner.backend();
        this.dtype = learner.dtype();
        // Kept in their order: the norm is a sum over it.
        this.parameters = new LinkedHashMap<>(learner.parameters());
        if (parameters.isEmpty()) {
            throw new InputException("trainer: no parameter trains; add an adapter and make it active");
        }
        double decay = config.weightDecay();
        ParameterGroup head = new ParameterGroup(learner::isHead, config.rate().headFactor(), decay);
        this.optimizer = new AdamW(backend, dtype, AdamW.Config.of(decay, head));
        this.clip = new GradClip(backend, dtype, config.maxGradNorm());
        this.scaler = config.lossScale() == 0
                ? null
                : new GradScaler(backend, dtype, GradScaler.Config.of(config.lossScale()));
        this.numbers = Tensor.own(Shape.of(StepResult.NUMBERS), backend.allocate(dtype, StepResult.NUMBERS));
        backend.fill(numbers.buffer(), 0);
        this.bad = Tensor.own(Shape.of(), backend.allocate(dtype, 1));
        backend.fill(bad.buffer(), 0);
        // Scaled losses are looked at before the step is taken, which no recording can.
        this.recorded = backend.captures() && scaler == null ? new RecordedSteps(learner, backend) : null;
    }

    /// Optimizer steps done.
    public int step() {
        return step;
    }

    int totalSteps() {
        return totalSteps;
    }

    /// Whether the run has more steps than it had when the state was written that it goes on from.
    boolean isProlonged() {
        return prolonged;
    }

    Learner learner() {
        return learner;
    }

    TrainerConfig config() {
        return config;
    }

    /// Whether no lower scale may still help a loss that is no number.
    boolean isHopeless() {
        return scaler == null || scaler.value() < 1;
    }

    private LrSchedule begin(int total) {
        if (schedule == null) {
            warmupSteps = config.rate().warmupOf(total);
            schedule = config.rate().over(total, warmupSteps);
            totalSteps = total;
            learner.beginTraining(total);
            learner.train(true);
        } else if (total != totalSteps) {
            throw new InputException("trainer: this run has " + total + " steps, but it was begun as one of "
                    + totalSteps + "; keep rows, batch size, epochs and steps as they were");
        }
        return schedule;
    }

    /// Goes on with a run of `total` steps, of which `done` are done; it may have become longer, and no shorter.
    private void goOn(int total, int done, int warmup) {
        if (schedule == null) {
            begin(total);
        }
        if (totalSteps < total) {
            throw new InputException(
                    "trainer: %d steps are fewer than the %d of the run that is to go on, of which %d are done;"
                                    .formatted(totalSteps, total, done)
                            + " it can only become longer (epochs, steps)");
        }
        prolonged = totalSteps > total;
        warmupSteps = warmup;
        schedule = config.rate().over(totalSteps, warmup);
    }

    // ---- one step

    /// One optimizer step on a batch; see [#trainStep(List)].
    public StepResult trainStep(Batch batch) {
        return trainStep(List.of(batch));
    }

    /// One optimizer step on all rows of `microBatches` together, which pass one after the other: each one's mean loss
    /// weighs as much as its share of the rows (of the tokens that are predicted, for a language model), so that the
    /// gradient is that of one large batch.
    ///
    /// @throws IllegalStateException if the configuration does not say how many steps there will be
    /// @throws java.util.ConcurrentModificationException if another thread takes a step of this trainer, or uses the
    ///     model
    public StepResult trainStep(List<Batch> microBatches) {
        return Objects.requireNonNull(tryStep(microBatches, () -> false));
    }

    /// A step that was handed over.
    ///
    /// @param microStep the number of its first forward
    /// @param updated whether the update was asked for: numbers that are not finite then made it change nothing
    private record Taken(StepResult result, List<Batch> batches, int microStep, boolean updated) {}

    /// As [#trainStep(List)], given up between two micro-batches once `stop` says so: null, and nothing has changed.
    @Nullable
    StepResult tryStep(List<Batch> microBatches, BooleanSupplier stop) {
        try (Guard.Use own = guard.changing("trainStep");
                Guard.Use use = learner.changing("trainStep")) {
            return step(microBatches, stop);
        }
    }

    private @Nullable StepResult step(List<Batch> microBatches, BooleanSupplier stop) {
        if (schedule == null && config.steps() == 0) {
            throw new IllegalStateException(
                    "trainStep: the learning rate depends on the number of steps; set it with TrainerConfig.withSteps");
        }
        LrSchedule rate = schedule == null ? begin(config.steps()) : schedule;
        if (!learner.repeats(step + 1)) {
            // What the host does after it cannot be taken back.
            settle();
        }
        Taken before = unseen;
        Taken taken = take(rate, microBatches, stop);
        if (before != null && !isGood(before)) {
            // This one came too early: nothing of it was done.
            if (taken != null) {
                optimizer.retreat();
                step--;
                microStep = taken.microStep;
            }
            leaveOut(before);
            unseen = null;
            taken = take(rate, microBatches, stop);
        }
        if (taken == null) {
            return null;
        }
        unseen = taken;
        if (!backend.captures()) {
            settle();
        }
        return taken.result;
    }

    /// Looks at the numbers of the step before, for which this may wait.
    ///
    /// @throws DivergedException if it was not taken, as they are not finite, and no more steps may be left out
    void settle() {
        Taken last = unseen;
        unseen = null;
        if (last != null && !isGood(last)) {
            leaveOut(last);
        }
    }

    private boolean isGood(Taken taken) {
        // What a hollow backend holds says nothing, and a lower scale may still help where there is one.
        if (backend.isHollow()) {
            return true;
        }
        boolean finite = isFinite(taken.result);
        if (finite) {
            lastBatches = taken.batches;
        }
        return finite || !isHopeless();
    }

    private static boolean isFinite(StepResult result) {
        return Double.isFinite(result.loss()) && Double.isFinite(result.gradNorm());
    }

    /// The last step was not taken: it counts as a step of the run, but not for the optimizer, or ends the run.
    private void leaveOut(Taken taken) {
        if (taken.updated && scaler == null) {
            optimizer.retreat();
            backend.fill(bad.buffer(), 0);
        }
        int after = microStep;
        StepResult result = taken.result;
        String number = Double.isFinite(result.loss())
                ? "the norm of the gradients is " + result.gradNorm()
                : "the loss is " + result.loss();
        String why = "%s at step %d, in %s"
                .formatted(number, result.step(), Divergence.of(learner, taken.batches, taken.microStep));
        if (skipped == config.skipBadSteps()) {
            step = result.step() - 1;
            microStep = taken.microStep;
            throw new DivergedException(why + "; lower the learning rate ("
                    + config.rate().peak() + "), or leave such steps out (skipBadSteps)");
        }
        skipped++;
        result.leftOut(why);
        if (!taken.updated) {
            learner.afterStep(result.step(), clip.scale(), optimizer);
        }
        learner.microStep(after);
    }

    /// @throws DivergedException if the parameters, as the last step left them, give no finite loss on its rows
    void requireFinite() {
        settle();
        List<Batch> batches = lastBatches;
        if (batches == null || backend.isHollow()) {
            return;
        }
        double loss;
        try (Scope scope = Scope.open();
                Autograd.Mode mode = Autograd.noGrad()) {
            loss = learner.loss(batches.getFirst()).item();
        }
        if (!Double.isFinite(loss)) {
            throw diverged("the loss", loss, batches);
        }
    }

    /// That the last step has spoilt the parameters.
    DivergedException diverged(String what, double loss, List<Batch> batches) {
        return new DivergedException("%s is %s after step %d, in %s; lower the learning rate (%s)"
                .formatted(
                        what,
                        loss,
                        step,
                        Divergence.of(learner, batches, microStep),
                        config.rate().peak()));
    }

    private @Nullable Taken take(LrSchedule rate, List<Batch> microBatches, BooleanSupplier stop) {
        double learningRate = config.rate().peak() * rate.factor(step);
        int first = microStep;
        boolean updated = true;
        StepResult result = null;
        int terms = 0;
        int tokens = 0;
        for (Batch b : microBatches) {
            terms += b.lossTerms();
            tokens += b.tokens();
        }
        if (recorded != null && microBatches.size() == 1 && learner.repeats(step + 1)) {
            learner.microStep(microStep++);
            optimizer.advance(learningRate);
            recorded.step(microBatches.getFirst(), loss -> {
                forwardBackward(loss, 1, true);
                norm();
                gate();
                update();
            });
            // A replay runs none of the code that would have said so.
            parameters.values().forEach(Tensor::markWritten);
        } else {
            for (int i = 0; i < microBatches.size(); i++) {
                if (i > 0 && stop.getAsBoolean()) {
                    optimizer.zeroGrad(parameters);
                    microStep = first;
                    return null;
                }
                Batch b = microBatches.get(i);
                learner.microStep(microStep++);
                // Rows without anything to predict have a loss of 0, whatever they weigh.
                double weight = b.lossTerms() == terms ? 1 : (double) b.lossTerms() / terms;
                forwardBackward(() -> learner.loss(b), weight, i == 0);
            }
            Tensor norm = norm();
            if (scaler == null && !backend.isHollow() && (!backend.captures() || !learner.repeats(step + 1))) {
                // Nothing is lost by waiting for the numbers, and what the host does after an update cannot be gated.
                result = numbers(step + 1, learningRate, tokens);
                updated = isFinite(result);
            }
            if (updated && (scaler == null || scaler.update(norm))) {
                optimizer.advance(learningRate);
                gate();
                update();
            } else {
                // The step is left out; to the method it is one without gradients.
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
        return new Taken(result, microBatches, first, updated);
    }

    private StepResult numbers(int number, double learningRate, int tokens) {
        return new StepResult(number, learningRate, tokens, dtype, backend.readLater(numbers.buffer()));
    }

    /// Makes the scale of the gradients NaN, with which nothing is updated, if the loss or their norm is not finite, or
    /// those of an earlier step were not.
    private void gate() {
        if (scaler != null) {
            return;
        }
        int[] one = {1};
        try (Scratch scratch = new Scratch(backend)) {
            Buffer zero = scratch.like(bad.buffer());
            for (int which : new int[] {StepResult.LOSS, StepResult.NORM}) {
                // 0, but NaN for NaN and infinity.
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
            if (first) {
                Tensor penalty = learner.penalty();
                if (penalty != null) {
                    loss = loss.add(penalty.reshape(loss.shape().dims()));
                    backend.axpby(number(StepResult.PENALTY), penalty.buffer(), 1, 0);
                }
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

    /// Runs the longest batch there can be once and drops what it gives: whatever memory a step takes is then with the
    /// backend, and a model that is too large fails here and not an hour later.
    private void reserve(DataLoader loader) {
        Examples examples = loader.examples();
        int rows = Math.min(config.batchSize(), examples.size());
        try (Scope scope = Scope.open()) {
            learner.loss(Batch.dummy(learner.task(), rows, loader.longest(), examples.hasTokenTypes()))
                    .backward();
        }
        optimizer.zeroGrad(parameters);
    }

    // ---- a run

    /// The number of optimizer steps of a run over `examples`.
    ///
    /// @throws InputException if the schedule does not fit that many
    public int plan(Examples examples) {
        int steps = config.stepsOver(examples.size());
        config.rate().over(steps);
        return steps;
    }

    /// Wishes that [#train] stop: at the next step, or within a step or an evaluation at the next batch, which is then
    /// as if it had not begun. It writes a checkpoint, where it has a folder, and returns. Any thread may call this,
    /// also before [#train] was called; the wish is forgotten when that returns. Interrupting the training thread does
    /// the same.
    public void stop() {
        stopping = true;
    }

    /// Asked on the training thread, which is no longer interrupted afterwards.
    boolean isToStop() {
        interrupted |= Thread.interrupted();
        return stopping || interrupted;
    }

    /// Trains to the end of the run: from the newest complete checkpoint in `folder` ([RunFolder#resume]), or where
    /// there is none from the step this trainer stands at. Ends before it where it is to stop ([#stop]); if by an
    /// interrupt, the thread is interrupted again afterwards.
    ///
    /// A run may be prolonged: with more epochs or steps than before and all else as it was, it goes on from the last
    /// checkpoint of the shorter run, which has one after its last step unless it has none
    /// ([TrainerConfig.Checkpoints#everySteps] 0). The rate from there on is that of a run as long as the new one,
    /// whose warm-up is over: the same rate with [TrainerConfig.Schedule#CONSTANT], and a higher one than the shorter
    /// run's last with the others. Evaluations without a better loss ([TrainerConfig#patience]) are counted anew.
    ///
    /// @param heldOut what is evaluated on, or null
    /// @param folder where the best and the last parameters, checkpoints and the metrics go, or null
    /// @throws DivergedException if a loss or the gradients are no longer finite; what is on the disk is from before
    /// @throws InputException if the checkpoint is of a run with another base model, method, configuration or other
    ///     rows, or with more steps
    public TrainingReport train(
            Examples examples, @Nullable Examples heldOut, @Nullable RunFolder folder, TrainingListener listener) {
        try (Guard.Use own = guard.changing("train")) {
            begin(plan(examples));
            return run(examples, heldOut, folder, listener);
        } finally {
            stopping = false;
            if (interrupted) {
                interrupted = false;
                Thread.currentThread().interrupt();
            }
        }
    }

    private TrainingReport run(
            Examples examples, @Nullable Examples heldOut, @Nullable RunFolder folder, TrainingListener listener) {
        DataLoader loader = new DataLoader(examples, DataLoader.Options.training(config.batchSize(), config.seed()));
        if (folder == null) {
            listener.begun(step, totalSteps);
            reserve(loader);
            return new TrainingRun(this, loader, heldOut, null, null, List.of(listener), null).toTheEnd();
        }
        Checkpoints checkpoints =
                new Checkpoints(folder.checkpoints(), config.checkpoints(), identity(examples, heldOut));
        try (MetricsFile metrics = folder.open()) {
            Standing resumed = checkpoints.resume(backend, this::load);
            listener.begun(step, totalSteps);
            reserve(loader);
            metrics.keep(step, resumed == null || !resumed.evaluationDue());
            List<TrainingListener> listeners = List.of(metrics, listener);
            return new TrainingRun(this, loader, heldOut, folder, checkpoints, listeners, resumed).toTheEnd();
        }
    }

    /// What a checkpoint of this run fits.
    private ObjectNode identity(Examples examples, @Nullable Examples heldOut) {
        ObjectNode run = JSON.createObjectNode();
        ObjectNode trainer = JSON.valueToTree(config);
        // How often and how many: that alone may change. A run may become longer, which its state knows.
        trainer.remove(List.of("checkpoints", "skipBadSteps", "epochs", "steps"));
        run.set("trainer", trainer);
        run.set("learner", learner.identity());
        run.put("rows", examples.sha256());
        return run.put("held_out_rows", heldOut == null ? "none" : heldOut.sha256());
    }

    // ---- state

    /// All that going on needs: the parameters, step numbers, the optimizer's moments, the learner's own state. Where
    /// in the data a run stands follows from the step. The tensors belong to the open scope, or to the caller; those
    /// that training writes are the live ones.
    public Map<String, Tensor> state() {
        Map<String, Tensor> all = new LinkedHashMap<>(optimizer.state());
        parameters.forEach((name, t) -> all.put(PARAMETER + name, t));
        if (scaler != null) {
            scaler.state().forEach((name, t) -> all.put(SCALER + name, t));
        }
        learner.trainingState().forEach((name, t) -> all.put(LEARNER + name, t));
        all.put(STEP, Tensor.ofInts(backend, new int[] {step}));
        all.put(MICRO_STEP, Tensor.ofInts(backend, new int[] {microStep}));
        all.put(TOTAL_STEPS, Tensor.ofInts(backend, new int[] {totalSteps}));
        all.put(WARMUP_STEPS, Tensor.ofInts(backend, new int[] {warmupSteps}));
        return Collections.unmodifiableMap(all);
    }

    /// Goes on where another trainer of the same model and configuration stood: takes over a copy of its [#state].
    ///
    /// @throws IllegalArgumentException if an entry is missing or unknown, or has another shape; nothing has changed
    ///     then
    public void load(Map<String, Tensor> state) {
        Map<String, Tensor> moments = new LinkedHashMap<>(state);
        int steps = take(moments, STEP);
        int microSteps = take(moments, MICRO_STEP);
        int total = take(moments, TOTAL_STEPS);
        int warmup = take(moments, WARMUP_STEPS);
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
        goOn(total, steps, warmup);
        if (scaler != null) {
            scaler.load(ofScaler);
        }
        optimizer.load(moments);
        // Before the parameters: some of them change their shape while training.
        learner.loadTrainingState(ofLearner);
        parameters.forEach((name, t) -> t.copyFrom(Objects.requireNonNull(values.get(name), name)));
        step = steps;
        microStep = microSteps;
    }

    /// @param changed the shapes of parameters that will not be those which they have now
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

    /// Takes the entries whose names start with `prefix` out of `state`, under the rest of their names.
    private static Map<String, Tensor> takeAll(Map<String, Tensor> state, String prefix) {
        Map<String, Tensor> taken = new LinkedHashMap<>();
        for (String name : List.copyOf(state.keySet())) {
            if (name.startsWith(prefix)) {
                taken.put(name.substring(prefix.length()), Objects.requireNonNull(state.remove(name), name));
            }
        }
        return taken;
    }

    private static int take(Map<String, Tensor> state, String key) {
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
