package dev.loran.peft.train;

import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.Examples;
import dev.loran.peft.data.RowForm;
import dev.loran.peft.model.Model;
import dev.loran.peft.task.TaskCard;
import dev.loran.peft.tuner.PeftConfig;
import dev.loran.peft.tuner.PeftModel;
import dev.loran.peft.tuner.Tuner;
import java.util.Collections;
import java.util.List;
import java.util.Locale;
import java.util.function.Function;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;

/// The bytes of tensors that a training run will take, known before it: two steps and an evaluation on the largest
/// batches there are, by the very code of the run, on a backend that counts memory and has none ([Backend#hollow]). No
/// formula says again what an operation needs, so none can be wrong.
///
/// The total is the backend's own peak ([Backend#peakBytes]) where all batches have one shape, and never less than it.
/// It leaves out what no tensor holds: the JVM, the kernels' scratch memory, memory that waits for reuse.
///
/// @param weights of the model and the adapter, in every form in which the backend keeps them
/// @param activations what forward keeps for backward, and needs on its way
/// @param training gradients, the optimizer's moments, the method's statistics
/// @param total the most there is at one time: gradients come as activations go, so it is less than the sum
public record MemoryPlan(long weights, long activations, long training, long total) {
    private static final double MIB = 1 << 20;

    /// The largest batch of a run.
    ///
    /// @param padded whether rows differ in length
    /// @param typed whether tokens have types: rows are pairs of texts
    public record Largest(int rows, int length, boolean padded, boolean typed) {
        /// Rows of single texts.
        public Largest(int rows, int length, boolean padded) {
            this(rows, length, padded, false);
        }

        /// Of batches of up to `batchSize` of `examples`.
        public static Largest of(Examples examples, int batchSize) {
            int longest = examples.longest();
            boolean padded = examples.shortest() < longest;
            return new Largest(Math.min(batchSize, examples.size()), longest, padded, examples.hasTokenTypes());
        }

        /// Rows that all count, of one token again and again.
        Batch batch(RowForm form) {
            Batch all = Batch.dummy(form, rows, length, typed);
            return padded ? all.masked() : all;
        }
    }

    /// Plans the training of a model by a method.
    ///
    /// @param backend what it will run on
    /// @param open makes the model on the backend it is given, as it will be made on `backend`: from the same files, or
    ///     with random weights; it is closed here
    /// @param method null where the whole model trains
    /// @param steps how many optimizer steps the run has
    /// @param heldOut the largest batch that is evaluated; null for none
    /// @return null if the backend has no hollow twin
    public static @Nullable MemoryPlan of(
            Backend backend,
            Function<Backend, Model> open,
            @Nullable PeftConfig method,
            TaskCard card,
            TrainerConfig config,
            int steps,
            Largest largest,
            @Nullable Largest heldOut) {
        try (Backend hollow = backend.hollow()) {
            if (hollow == null) {
                return null;
            }
            try (Model model = open.apply(hollow)) {
                if (method == null) {
                    return of(TaskModel.full(model, card, 0), config, steps, largest, heldOut);
                }
                try (PeftModel peft = new PeftModel(model, 0)) {
                    // What a file names may be lacking here, as where the adapter itself is loaded.
                    peft.addAdapter(PeftModel.DEFAULT_ADAPTER, method, method.inferenceMode());
                    return of(TaskModel.of(peft, card, 0), config, steps, largest, heldOut);
                }
            }
        }
    }

    private static MemoryPlan of(
            TaskModel learner, TrainerConfig config, int steps, Largest largest, @Nullable Largest heldOut) {
        Backend backend = learner.backend();
        Batch batch = largest.batch(learner.task());
        try (learner) {
            long gradients = 0;
            for (Tensor p : learner.parameters().values()) {
                gradients += p.shape().size() * p.dtype().bytes();
            }
            learner.train(true);
            long before = backend.liveBytes();
            long load = backend.peakBytes();
            backend.resetPeak();
            long activations;
            try (Scope scope = Scope.open()) {
                Tensor loss = learner.loss(batch);
                activations = backend.peakBytes() - before;
                // A backend may pack weights once more, for backward.
                loss.backward();
            }
            learner.parameters().values().forEach(Tensor::zeroGrad);
            long weights = backend.liveBytes();
            try (Trainer trainer = new Trainer(learner, config.withSteps(steps))) {
                List<Batch> microBatches = Collections.nCopies(Math.min(2, config.accumulation()), batch);
                for (int i = 0; i < Math.min(2, steps); i++) {
                    trainer.trainStep(microBatches);
                }
                long training = gradients + backend.liveBytes() - weights;
                if (backend.captures() && IntStream.rangeClosed(1, steps).anyMatch(s -> !learner.repeats(s))) {
                    unrecorded(learner, batch);
                }
                if (heldOut != null) {
                    evaluate(learner, heldOut.batch(learner.task()));
                }
                return new MemoryPlan(weights, activations, training, Math.max(load, backend.peakBytes()));
            }
        }
    }

    /// Forward and backward of a step that is not recorded, while what recorded ones read their batches from is there.
    private static void unrecorded(TaskModel learner, Batch batch) {
        try (Scope scope = Scope.open()) {
            Tuner.trainingLoss(learner.loss(batch), learner.penalty()).backward();
        }
        learner.parameters().values().forEach(Tensor::zeroGrad);
    }

    private static void evaluate(TaskModel learner, Batch batch) {
        learner.train(false);
        try (Autograd.Mode mode = Autograd.noGrad();
                Scope scope = Scope.open()) {
            learner.task().asked(learner, batch);
        }
    }

    /// The total in MiB.
    public double totalMib() {
        return total / MIB;
    }

    /// The parts, by name.
    @Override
    public String toString() {
        return String.format(
                Locale.ROOT,
                "weights %,.1f MiB, activations %,.1f MiB, gradients and optimizer %,.1f MiB",
                weights / MIB,
                activations / MIB,
                training / MIB);
    }
}
