package dev.loran.peft.train;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.optim.LrSchedule;
import dev.loran.engine.optim.Optimizer;
import dev.loran.engine.optim.ParameterGroup;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.DataLoader;
import dev.loran.peft.data.Examples;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Guard;
import dev.loran.peft.train.Checkpoints.Standing;
import dev.loran.peft.train.Stepper.Taken;
import dev.loran.peft.tuner.LoraPlus;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.function.BooleanSupplier;
import java.util.function.Function;
import org.jspecify.annotations.Nullable;

/// The training loop: forward and backward over micro-batches, clipping, AdamW, schedule, evaluation.
///
/// ```java
/// try (Trainer trainer = new Trainer(model, TrainerConfig.defaults())) {
///     TrainingReport report = trainer.train(examples, heldOut, RunFolder.create(out), new TrainingListener() {});
/// }
/// ```
///
/// For a loop of your own, set the number of steps and call [#trainStep]:
///
/// ```java
/// Trainer trainer = new Trainer(model, TrainerConfig.defaults().withSteps(100));
/// for (Batch batch : loader.epoch(0)) {
///     StepResult result = trainer.trainStep(batch);
///     System.out.println(result.loss() + " at rate " + result.learningRate());
/// }
/// ```
///
/// The same seed, data and shapes give the same bits, even if a run is killed and resumed from a checkpoint. A step
/// does not wait for the backend, unless losses are scaled. Closing frees the optimizer's memory and leaves the model
/// as it is.
///
/// **Threads**: a trainer belongs to one thread at a time. A step needs exclusive access to its trainer and its model,
/// and throws a [java.util.ConcurrentModificationException] if another thread is using either; between steps, others
/// may read the model.
public final class Trainer implements AutoCloseable {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final String TOTAL_STEPS = "trainer.total_steps";
    private static final String WARMUP_STEPS = "trainer.warmup_steps";

    private final Guard guard = new Guard("trainer");
    private final Learner learner;
    private final TrainerConfig config;
    private final Backend backend;
    private final Stepper stepper;

    /// The step whose values have not been examined yet.
    private @Nullable Taken unseen;

    private int skipped;

    /// The batches of the last step that was taken.
    private @Nullable List<Batch> lastBatches;

    private @Nullable LrSchedule schedule;
    private int totalSteps;
    /// The warm-up steps with which the run began; an extended run does not warm up again.
    private int warmupSteps;

    private boolean prolonged;
    private volatile boolean stopping;
    /// Whether the training thread was interrupted. It must not see that before the end: files and locks would fail.
    private boolean interrupted;

    /// Creates a trainer with the optimizer that the configuration names.
    public Trainer(Learner learner, TrainerConfig config) {
        this(
                learner,
                config,
                groups -> config.optimizer().make(learner.backend(), learner.dtype(), config.weightDecay(), groups));
    }

    /// Creates a trainer with an optimizer of your own, which is closed with the trainer. Checkpoints contain the
    /// optimizer's state, so a run must be resumed with the same one.
    ///
    /// @param optimizer creates it, for the learner's backend and type, given the groups of parameters with their own
    ///     learning rate: the head, and those that LoRA+ separates
    public Trainer(Learner learner, TrainerConfig config, Function<List<ParameterGroup>, Optimizer> optimizer) {
        this.learner = learner;
        this.config = config;
        this.backend = learner.backend();
        if (learner.parameters().isEmpty()) {
            throw new InputException("trainer: no parameter trains; add an adapter and make it active");
        }
        this.stepper = new Stepper(learner, config, optimizer.apply(groups(learner, config)));
    }

    /// A parameter belongs to the first group that accepts it.
    private static List<ParameterGroup> groups(Learner learner, TrainerConfig config) {
        TrainerConfig.Rate rate = config.rate();
        double ratio = config.optimizer().loraPlusRatio();
        List<ParameterGroup> groups = new ArrayList<>();
        groups.add(new ParameterGroup(learner::isHead, rate.headFactor(), config.weightDecay()));
        if (ratio != 1) {
            groups.addAll(LoraPlus.groups(rate.peak(), ratio, config.weightDecay()));
        }
        return groups;
    }

    /// The number of optimizer steps done.
    public int step() {
        return stepper.step();
    }

    int totalSteps() {
        return totalSteps;
    }

    /// Whether the run has more steps than when the state it resumes from was saved.
    boolean isProlonged() {
        return prolonged;
    }

    Learner learner() {
        return learner;
    }

    TrainerConfig config() {
        return config;
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

    /// Resumes a run, now of `total` steps, of which `done` are done; it may have become longer, but not shorter.
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

    /// Takes one optimizer step on a batch; see [#trainStep(List)].
    public StepResult trainStep(Batch batch) {
        return trainStep(List.of(batch));
    }

    /// Takes one optimizer step on all rows of `microBatches` together. They are processed one after the other, and the
    /// mean loss of each is weighted by its share of the rows (of the predicted tokens, for a language model), so that
    /// the gradient is that of one large batch.
    ///
    /// @throws IllegalStateException if the configuration does not set the number of steps
    /// @throws java.util.ConcurrentModificationException if another thread takes a step of this trainer, or uses the
    ///     model
    public StepResult trainStep(List<Batch> microBatches) {
        return Objects.requireNonNull(tryStep(microBatches, () -> false));
    }

    /// As [#trainStep(List)], but stops between two micro-batches once `stop` returns true: then the result is null and
    /// nothing has changed.
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
        if (!learner.repeats(step() + 1)) {
            // What the host does after such a step cannot be undone.
            settle();
        }
        Taken before = unseen;
        Taken taken = stepper.take(rateOf(rate), microBatches, stop);
        if (before != null && !isGood(before)) {
            // This step was submitted too early; it changed nothing.
            if (taken != null) {
                stepper.undo(taken);
            }
            leaveOut(before);
            unseen = null;
            taken = stepper.take(rateOf(rate), microBatches, stop);
        }
        if (taken == null) {
            return null;
        }
        unseen = taken;
        if (!backend.captures()) {
            settle();
        }
        return taken.result();
    }

    private double rateOf(LrSchedule rate) {
        return config.rate().peak() * rate.factor(step());
    }

    /// Examines the values of the previous step; may block until they are available.
    ///
    /// @throws DivergedException if it was not taken because they are not finite, and no more steps may be skipped
    void settle() {
        Taken last = unseen;
        unseen = null;
        if (last != null && !isGood(last)) {
            leaveOut(last);
        }
    }

    private boolean isGood(Taken taken) {
        // A hollow backend's values mean nothing, and if losses are scaled, a lower scale may still help.
        if (backend.isHollow()) {
            return true;
        }
        boolean finite = taken.isFinite();
        if (finite) {
            lastBatches = taken.batches();
        }
        return finite || !stepper.isHopeless();
    }

    /// Handles a last step that was not taken: it counts as a step of the run but not of the optimizer, or it ends the
    /// run.
    private void leaveOut(Taken taken) {
        stepper.leaveOut(taken);
        int after = stepper.microStep();
        StepResult result = taken.result();
        String number = Double.isFinite(result.loss())
                ? "the norm of the gradients is " + result.gradNorm()
                : "the loss is " + result.loss();
        String why = "%s at step %d, in %s"
                .formatted(number, result.step(), Divergence.of(learner, taken.batches(), taken.microStep()));
        if (skipped == config.skipBadSteps()) {
            stepper.back(taken);
            throw new DivergedException(
                    why + "; lower the learning rate (" + config.rate().peak()
                            + "), or leave such steps out (skipBadSteps)",
                    result.step());
        }
        skipped++;
        result.leftOut(why);
        stepper.goOnAfter(taken, after);
    }

    /// @throws DivergedException if the loss of the current parameters on the last step's rows is not finite
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

    /// The exception for parameters that the last step has ruined.
    DivergedException diverged(String what, double loss, List<Batch> batches) {
        String why = "%s is %s after step %d, in %s; lower the learning rate (%s)"
                .formatted(
                        what,
                        loss,
                        step(),
                        Divergence.of(learner, batches, stepper.microStep()),
                        config.rate().peak());
        return new DivergedException(why, step());
    }

    /// Runs the longest possible batch once and discards the result. The backend then holds all the memory a step
    /// takes, and a model that is too large fails here and not an hour later.
    private void reserve(DataLoader loader) {
        Examples examples = loader.examples();
        int rows = Math.min(config.batchSize(), examples.size());
        try (Scope scope = Scope.open()) {
            Batch longest = Batch.dummy(
                    learner.task(), examples.labelsOrNull(), rows, loader.longest(), examples.hasTokenTypes());
            learner.loss(examples.isPacked() ? longest.packed() : longest).backward();
        }
        stepper.zeroGrad();
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

    /// Requests that [#train] stop, at the next step, or within a step or an evaluation at the next batch; that step or
    /// evaluation is then discarded. [#train] writes a checkpoint, if it has a folder, and returns. Any thread may call
    /// this, even before [#train] is called; the request is cleared when [#train] returns. Interrupting the training
    /// thread has the same effect.
    public void stop() {
        stopping = true;
    }

    /// Whether [#stop] was called; any thread may ask.
    boolean isStopping() {
        return stopping;
    }

    /// Called on the training thread; clears its interrupt status.
    boolean isToStop() {
        interrupted |= Thread.interrupted();
        return stopping || interrupted;
    }

    /// Trains to the end of the run: from the newest complete checkpoint in `folder` ([RunFolder#resume]), or, if there
    /// is none, from the trainer's current step. Ends early on [#stop]; if the cause was an interrupt, the thread's
    /// interrupt status is set again afterwards.
    ///
    /// A run may be extended: with more epochs or steps than before and everything else unchanged, it continues from
    /// the last checkpoint of the shorter run, which has one after its last step unless it writes none
    /// ([TrainerConfig.Checkpoints#everySteps] 0). From there on, the learning rate is that of a run of the new length
    /// after warm-up: the same with [TrainerConfig.Schedule#CONSTANT], and with the other schedules higher than the
    /// shorter run's last. The count of evaluations without a better loss ([TrainerConfig#patience]) starts again.
    ///
    /// @param heldOut the rows to evaluate on, or null
    /// @param folder the folder for the best and the last parameters, the checkpoints and the metrics, or null
    /// @throws DivergedException if a loss or the gradients are no longer finite; what is on disk was written before
    /// @throws InputException if the checkpoint belongs to a run with another base model, method, configuration or
    ///     other rows, or with more steps
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
            Examples rows, @Nullable Examples toEvaluate, @Nullable RunFolder folder, TrainingListener listener) {
        // Before a checkpoint is loaded, the model is as it was before its training.
        Examples examples = withReference(rows, listener);
        Examples heldOut = toEvaluate == null ? null : withReference(toEvaluate, listener);
        learner.train(true);
        DataLoader loader = new DataLoader(examples, DataLoader.Options.training(config.batchSize(), config.seed()));
        if (folder == null) {
            listener.begun(step(), totalSteps);
            reserve(loader);
            return new TrainingRun(this, loader, heldOut, null, null, List.of(listener), null, watch()).toTheEnd();
        }
        Checkpoints checkpoints =
                new Checkpoints(folder.checkpoints(), config.checkpoints(), identity(rows, toEvaluate));
        try (MetricsFile metrics = folder.open()) {
            Standing resumed = checkpoints.resume(backend, this::load);
            listener.begun(step(), totalSteps);
            reserve(loader);
            List<JsonNode> before = metrics.keep(step(), resumed == null || !resumed.evaluationDue());
            SpikeWatch watch = watch();
            if (watch != null) {
                before.forEach(line -> watch.next(
                        line.path("loss").asDouble(Double.NaN),
                        line.path("grad_norm").asDouble(Double.NaN)));
                folder.keepSpikes(step());
            }
            List<TrainingListener> listeners = List.of(metrics, listener);
            return new TrainingRun(this, loader, heldOut, folder, checkpoints, listeners, resumed, watch).toTheEnd();
        }
    }

    /// The rows as they are if this is to stop, and then without a step.
    private Examples withReference(Examples rows, TrainingListener listener) {
        Examples with = learner.withReference(
                rows, config.batchSize(), this::isToStop, done -> listener.reference(done, rows.size()));
        return with == null ? rows : with;
    }

    private @Nullable SpikeWatch watch() {
        return config.spikesToKeep() == 0 ? null : new SpikeWatch();
    }

    /// What a checkpoint must match to be resumed by this run.
    private ObjectNode identity(Examples examples, @Nullable Examples heldOut) {
        ObjectNode run = JSON.createObjectNode();
        ObjectNode trainer = JSON.valueToTree(config);
        // These settings may change. A run may become longer; its state holds the number of steps.
        trainer.remove(List.of("checkpoints", "skipBadSteps", "spikesToKeep", "epochs", "steps"));
        if (config.optimizer().equals(TrainerConfig.Optimization.adamW())) {
            // Omitted to match checkpoints from before the optimizer could be chosen.
            trainer.remove("optimizer");
        }
        run.set("trainer", trainer);
        run.set("learner", learner.identity());
        run.put("rows", examples.sha256());
        return run.put("held_out_rows", heldOut == null ? "none" : heldOut.sha256());
    }

    /// The parameters that no gradient has reached in the steps so far: the loss does not depend on them. Parameters
    /// next to ones that start at 0, as the A of LoRA, are reached from the second step on.
    public List<String> withoutGradient() {
        settle();
        return stepper.withoutGradient();
    }

    // ---- state

    /// Everything that resuming needs: the parameters, the step counters, the optimizer's moments, the learner's own
    /// state. The position in the data follows from the step. The tensors belong to the open scope, or to the caller;
    /// those that training writes are the live ones.
    public Map<String, Tensor> state() {
        Map<String, Tensor> all = stepper.state();
        all.put(TOTAL_STEPS, Tensor.ofInts(backend, new int[] {totalSteps}));
        all.put(WARMUP_STEPS, Tensor.ofInts(backend, new int[] {warmupSteps}));
        return Collections.unmodifiableMap(all);
    }

    /// Continues where another trainer of the same model and configuration stood: restores a copy of its [#state].
    ///
    /// @throws IllegalArgumentException if an entry is missing or unknown, or has the wrong shape; then nothing has
    ///     changed
    public void load(Map<String, Tensor> state) {
        Map<String, Tensor> rest = new LinkedHashMap<>(state);
        Stepper.Counts counts = Stepper.Counts.of(rest);
        int total = Stepper.take(rest, TOTAL_STEPS);
        int warmup = Stepper.take(rest, WARMUP_STEPS);
        stepper.load(rest, counts, () -> goOn(total, counts.steps(), warmup));
    }

    @Override
    public void close() {
        stepper.close();
    }
}
