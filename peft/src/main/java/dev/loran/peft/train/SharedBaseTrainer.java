package dev.loran.peft.train;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.nn.Slot;
import dev.loran.engine.optim.Optimizer;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.Examples;
import dev.loran.peft.io.InputException;
import dev.loran.peft.model.Model;
import dev.loran.peft.task.Task;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.tuner.PeftConfig;
import dev.loran.peft.tuner.PeftModel;
import dev.loran.peft.tuner.SharedRows;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.CountDownLatch;
import java.util.function.BooleanSupplier;
import java.util.function.IntConsumer;
import org.jspecify.annotations.Nullable;

/// Trains several configurations in one pass over one frozen base model: each step runs one forward and one backward
/// pass over as many copies of the batch as there are configurations, and each copy has its own adapter and head, from
/// which its configuration's optimizer then takes its own step. Methods, ranks, learning rates, schedules, clipping,
/// dropout and the rest of the [TrainerConfig]s may differ.
///
/// ```java
/// List<Configuration> all = Stream.of(1e-4, 3e-4, 1e-3)
///         .map(lr -> new Configuration(LoraConfig.defaults(), TrainerConfig.defaults().withRate(Rate.of(lr))))
///         .toList();
/// try (SharedBaseTrainer trainer = new SharedBaseTrainer(model, card, all)) {
///     List<Outcome> outcomes = trainer.train(rows, heldOut, all.stream().map(c -> new Run()).toList());
/// }
/// ```
///
/// Each configuration has the results of a run of its own with a [Trainer]: it sees the same rows in the same order,
/// with the same dropout, and its folder holds the same files, from which it resumes alone or with others. A
/// configuration whose batches are not those of the others, because its seed or batch size is another one or because it
/// resumes from another step, takes its passes alone until they are.
///
/// What is shared is the model in memory, everything below the first adapted layer, which runs once for all, and the
/// products with frozen weights, which are read once and multiplied with the rows of all copies. Above the first
/// adapter the states differ, so the arithmetic of those products does not become less.
///
/// **Threads**: each configuration runs on a thread of its own, one at a time; its listener is called there.
public final class SharedBaseTrainer implements AutoCloseable {
    /// A method and how it trains. The trainer's seed also draws the adapter, the head and dropout.
    public record Configuration(PeftConfig method, TrainerConfig trainer) {}

    /// Where the run of a configuration goes.
    ///
    /// @param folder as for [Trainer#train], or null
    public record Run(@Nullable RunFolder folder, TrainingListener listener) {
        /// A run without a folder.
        public Run() {
            this(null, new TrainingListener() {});
        }
    }

    /// How the run of a configuration ended.
    ///
    /// @param report null if it failed
    /// @param failure an [InputException] or [DivergedException], which does not end the other runs; null for none
    public record Outcome(
            @Nullable TrainingReport report, @Nullable RuntimeException failure) {}

    private final Model model;
    private final List<PeftModel> adapters = new ArrayList<>();
    private final List<TaskModel> learners = new ArrayList<>();
    private final List<Trainer> trainers = new ArrayList<>();
    private final Map<List<Integer>, SharedRows> together = new HashMap<>();
    private @Nullable LockStep steps;
    /// The rows of all runs by those that were given: with what the base says of them.
    private final Map<Examples, Examples> referenced = new HashMap<>();
    private final Tensor leaf;

    /// Freezes `model` and adds the adapters of all configurations.
    ///
    /// @throws InputException if a method does not fit the model, or cannot share it ([SharedRows])
    public SharedBaseTrainer(Model model, TaskCard card, List<Configuration> configurations) {
        this.model = model;
        this.leaf = Tensor.zeros(model.backend(), model.dtype().accumulator(), 1)
                .detachFromScope()
                .requiresGrad(true);
        boolean done = false;
        try {
            for (Configuration c : configurations) {
                add(card, c);
            }
            new SharedRows(model, adapters);
            done = true;
        } finally {
            if (!done) {
                close();
            }
        }
    }

    /// Each adapter is made on the bare model, and is in its slots only during a pass.
    private void add(TaskCard card, Configuration c) {
        Slot.callEmpty(() -> {
            PeftModel peft = new PeftModel(model, c.trainer.seed());
            adapters.add(peft);
            peft.addAdapter(PeftModel.DEFAULT_ADAPTER, c.method);
            TaskModel learner = TaskModel.of(peft, card, c.trainer.seed());
            learners.add(learner);
            trainers.add(new Trainer(new Participant(trainers.size(), learner), c.trainer));
            return learner;
        });
    }

    /// The model of configuration `number`, for its parameters and files.
    public TaskModel learner(int number) {
        return learners.get(number);
    }

    /// Requests that [#train] stop, as [Trainer#stop].
    public void stop() {
        trainers.forEach(Trainer::stop);
    }

    /// Trains all configurations to the end of their runs, as [Trainer#train] does each.
    ///
    /// @param heldOut the rows to evaluate on, or null
    /// @param runs of the configurations, in their order
    /// @return how each run ended, in the same order
    public List<Outcome> train(Examples examples, @Nullable Examples heldOut, List<Run> runs) {
        if (runs.size() != trainers.size()) {
            throw new IllegalArgumentException(
                    "train: there are " + trainers.size() + " configurations but " + runs.size() + " runs");
        }
        refer(examples, runs);
        if (heldOut != null) {
            refer(heldOut, runs);
        }
        @Nullable Outcome[] outcomes = new Outcome[runs.size()];
        List<Throwable> errors = new ArrayList<>();
        try (LockStep lockStep =
                new LockStep(model, learners.stream().map(TaskModel::head).toList(), this::rows)) {
            steps = lockStep;
            CountDownLatch ended = new CountDownLatch(runs.size());
            for (int i = 0; i < runs.size(); i++) {
                int which = i;
                Run run = runs.get(i);
                Runnable work = () -> {
                    try {
                        outcomes[which] = outcome(trainers.get(which), examples, heldOut, run);
                    } catch (RuntimeException | Error e) {
                        errors.add(e);
                        stop();
                    }
                };
                Thread.ofPlatform().name("loran-run-" + i).start(() -> {
                    try {
                        lockStep.run(work);
                    } finally {
                        ended.countDown();
                    }
                });
            }
            await(ended);
        } finally {
            steps = null;
        }
        for (Throwable e : errors) {
            if (e instanceof Error error) {
                throw error;
            }
            throw (RuntimeException) e;
        }
        return Arrays.stream(outcomes).map(Objects::requireNonNull).toList();
    }

    /// Asks the base, once for all runs. An interrupt ends this, and then all of them.
    private void refer(Examples rows, List<Run> runs) {
        Examples with = learners.getFirst()
                .withReference(
                        rows,
                        trainers.getFirst().config().batchSize(),
                        () -> trainers.getFirst().isStopping()
                                || Thread.currentThread().isInterrupted(),
                        done -> runs.getFirst().listener().reference(done, rows.size()));
        if (with == null) {
            stop();
        }
        referenced.put(rows, with == null ? rows : with);
    }

    private static Outcome outcome(Trainer trainer, Examples examples, @Nullable Examples heldOut, Run run) {
        try {
            return new Outcome(trainer.train(examples, heldOut, run.folder, run.listener), null);
        } catch (InputException | DivergedException e) {
            return new Outcome(null, e);
        }
    }

    /// Waits for the runs to end; an interrupt makes them stop.
    private void await(CountDownLatch ended) {
        boolean interrupted = false;
        while (ended.getCount() > 0) {
            try {
                ended.await();
            } catch (InterruptedException e) {
                interrupted = true;
                stop();
            }
        }
        if (interrupted) {
            Thread.currentThread().interrupt();
        }
    }

    private SharedRows rows(List<Integer> runs) {
        return together.computeIfAbsent(
                runs,
                some -> new SharedRows(model, some.stream().map(adapters::get).toList()));
    }

    /// A configuration as its trainer sees it: what needs the base goes to [LockStep].
    private final class Participant implements Learner {
        private final int number;
        private final TaskModel own;

        Participant(int number, TaskModel own) {
            this.number = number;
            this.own = own;
        }

        private LockStep steps() {
            return Objects.requireNonNull(steps, "train");
        }

        @Override
        public Tensor loss(Batch batch) {
            return steps().loss(number, batch, leaf);
        }

        @Override
        public Tensor logits(Batch batch) {
            return steps().logits(number, batch);
        }

        @Override
        public Examples withReference(Examples rows, int batchSize, BooleanSupplier stop, IntConsumer progress) {
            return referenced.getOrDefault(rows, rows);
        }

        @Override
        public void train(boolean mode) {
            steps().train(number, mode);
        }

        @Override
        public void microStep(int next) {
            steps().microStep(number, next);
            own.microStep(next);
        }

        @Override
        public Task task() {
            return own.task();
        }

        @Override
        public Backend backend() {
            return own.backend();
        }

        @Override
        public DType dtype() {
            return own.dtype();
        }

        @Override
        public Map<String, Tensor> parameters() {
            return own.parameters();
        }

        @Override
        public boolean isHead(String name) {
            return own.isHead(name);
        }

        @Override
        public boolean repeats(int step) {
            return own.repeats(step);
        }

        @Override
        public @Nullable Tensor penalty() {
            return own.penalty();
        }

        @Override
        public void beginTraining(int totalSteps) {
            own.beginTraining(totalSteps);
        }

        @Override
        public void afterStep(int step, Buffer gradScale, Optimizer optimizer) {
            own.afterStep(step, gradScale, optimizer);
        }

        @Override
        public Map<String, Integer> ranks() {
            return own.ranks();
        }

        @Override
        public Map<String, Tensor> trainingState() {
            return own.trainingState();
        }

        @Override
        public Map<String, Shape> shapes(Map<String, Tensor> state) {
            return own.shapes(state);
        }

        @Override
        public void loadTrainingState(Map<String, Tensor> state) {
            own.loadTrainingState(state);
        }

        @Override
        public ObjectNode identity() {
            return own.identity();
        }

        @Override
        public void save(Path folder) {
            own.save(folder);
        }
    }

    /// Removes the adapters and restores the model, which it does not close.
    @Override
    public void close() {
        leaf.close();
        trainers.forEach(Trainer::close);
        Slot.callEmpty(() -> {
            learners.forEach(TaskModel::close);
            adapters.reversed().forEach(PeftModel::close);
            return model;
        });
    }
}
