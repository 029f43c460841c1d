package dev.loran.peft.train;

import dev.loran.engine.Autograd;
import dev.loran.engine.Scope;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.peft.data.Batch;
import dev.loran.peft.data.Examples;
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

/// Predicts the tensor memory of a training run, in bytes. It runs two steps and an evaluation on the largest batches,
/// with the code of the run itself, on a backend that counts memory without allocating it ([Backend#hollow]). There is
/// no second formula for an operation's memory that could be wrong.
///
/// If all batches have the same shape, the total is the backend's own peak ([Backend#peakBytes]); otherwise it is an
/// upper bound. It excludes memory outside tensors: the JVM, the kernels' scratch memory, and freed memory kept for
/// reuse.
///
/// @param weights of the model and the adapter, in every layout in which the backend keeps them
/// @param activations what the forward pass saves for backward, and its temporaries
/// @param training gradients, the optimizer's moments, the method's statistics
/// @param total the peak; since gradients appear as activations are freed, it is less than the sum
public record MemoryPlan(long weights, long activations, long training, long total) {
    private static final double MIB = 1 << 20;

    /// The largest batch of a run.
    ///
    /// @param padded whether the rows differ in length
    /// @param typed whether there are token types, that is, rows are pairs of texts
    /// @param packed whether rows hold several texts that do not attend to each other
    public record Largest(int rows, int length, boolean padded, boolean typed, boolean packed) {
        /// Rows of single texts.
        public Largest(int rows, int length, boolean padded) {
            this(rows, length, padded, false, false);
        }

        /// The largest batch when `examples` are read in batches of up to `batchSize`.
        public static Largest of(Examples examples, int batchSize) {
            int longest = examples.longest();
            boolean padded = examples.shortest() < longest;
            return new Largest(
                    Math.min(batchSize, examples.size()),
                    longest,
                    padded,
                    examples.hasTokenTypes(),
                    examples.isPacked());
        }

        /// A batch of rows that all contribute to the loss, filled with one repeated token.
        Batch batch(TaskCard card) {
            Batch all = Batch.dummy(card.task(), card.labels(), rows, length, typed);
            return packed ? all.packed() : padded ? all.masked() : all;
        }
    }

    /// Plans the training of a model with a method.
    ///
    /// @param backend the backend that the run will use
    /// @param open creates the model on the backend it is given, in the way it will be created on `backend`: from the
    ///     same files, or with random weights; it is closed here
    /// @param method null if the whole model trains
    /// @param steps the number of optimizer steps of the run
    /// @param heldOut the largest batch in evaluation; null for no evaluation
    /// @return null if the backend has no hollow counterpart
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
                    // Files that the configuration names may be missing here, as when the adapter itself is loaded.
                    peft.addAdapter(PeftModel.DEFAULT_ADAPTER, method, method.inferenceMode());
                    return of(TaskModel.of(peft, card, 0), config, steps, largest, heldOut);
                }
            }
        }
    }

    private static MemoryPlan of(
            TaskModel learner, TrainerConfig config, int steps, Largest largest, @Nullable Largest heldOut) {
        Backend backend = learner.backend();
        Batch batch = largest.batch(learner.card());
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
                // A backend may pack the weights a second time, for backward.
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
                    evaluate(learner, heldOut.batch(learner.card()));
                }
                return new MemoryPlan(weights, activations, training, Math.max(load, backend.peakBytes()));
            }
        }
    }

    /// Forward and backward of an unrecorded step, while the input memory of the recorded steps is allocated.
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
