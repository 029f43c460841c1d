package dev.loran.peft.train;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.optim.Optimizer;
import dev.loran.peft.data.Batch;
import dev.loran.peft.model.Guard;
import dev.loran.peft.task.Forward;
import java.nio.file.Path;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/// What a [Trainer] trains: named parameters, and a loss over a batch. [TaskModel] is the usual implementation;
/// implement this interface for a loss of your own.
public interface Learner extends Forward {
    Backend backend();

    /// The type of the parameters: F32 or F64.
    DType dtype();

    /// The trainable parameters by name; the optimizer keys its moments by these names. Every call returns the same
    /// tensors.
    Map<String, Tensor> parameters();

    /// Whether a parameter belongs to the head, which trains at a higher rate ([TrainerConfig.Rate#headFactor]).
    default boolean isHead(String name) {
        return false;
    }

    /// Separate memory for batches of one shape, from which a recorded step reads whichever batch it is replayed for.
    interface Inputs extends AutoCloseable {
        /// Writes another batch of that shape into it.
        void write(Batch batch);

        /// As [Learner#loss], for the batch written last. The work must not depend on the batch's values, so nothing is
        /// read back to the host.
        Tensor loss();

        @Override
        void close();
    }

    /// Memory for batches of the shape of `batch`, filled with `batch`. Null, the default, for a loss that does work of
    /// its own on the host: its steps are never recorded.
    default @Nullable Inputs inputs(Batch batch) {
        return null;
    }

    /// Whether optimizer step `step` (from 1), including [#afterStep], asks the backend for the same work as the step
    /// before. If so, it may be recorded once and replayed ([Backend#capture]), which skips the host code that issues
    /// the work. Called only for learners that have [#inputs].
    default boolean repeats(int step) {
        return true;
    }

    /// A scalar that is added to the loss once per step, in training but not in evaluation, and reported separately;
    /// null for none.
    default @Nullable Tensor penalty() {
        return null;
    }

    /// Declares that this thread changes what trains until the result is closed; a step runs inside. A learner whose
    /// model is shared among threads locks the others out here ([dev.loran.peft.model.Model#changing]); the default
    /// does not lock.
    ///
    /// @throws java.util.ConcurrentModificationException if another thread uses the learner
    default Guard.Use changing(String operation) {
        return () -> {};
    }

    /// Called before each forward pass in training, with its number from 0, from which dropout derives its masks.
    default void microStep(int number) {}

    /// Called once, when the number of optimizer steps is known, before [#loadTrainingState]; for a run that is
    /// extended, it is the new number. Anything that must keep its old value belongs to the state.
    default void beginTraining(int totalSteps) {}

    /// Called after each optimizer step, before the gradients are dropped: [dev.loran.peft.tuner.Tuner#afterStep].
    default void afterStep(int step, Buffer gradScale, Optimizer optimizer) {}

    /// The live rank of each adapted layer by module name, for methods whose ranks change; empty for others. Called
    /// after steps that do not [repeat][#repeats].
    default Map<String, Integer> ranks() {
        return Map.of();
    }

    /// What resuming needs in addition to parameters and moments, by name.
    default Map<String, Tensor> trainingState() {
        return Map.of();
    }

    /// The shapes of those parameters whose shape [#loadTrainingState] will change. Changes nothing.
    ///
    /// @throws IllegalArgumentException if `state` does not belong to this learner
    default Map<String, Shape> shapes(Map<String, Tensor> state) {
        return Map.of();
    }

    /// Restores what [#trainingState] returned, before the parameters get their values: here they get the shapes that
    /// they had then.
    default void loadTrainingState(Map<String, Tensor> state) {}

    /// What a checkpoint must have been made with to fit this learner, such as the base model and the method. An object
    /// with an entry `sha256` is compared by that entry alone.
    default ObjectNode identity() {
        return JsonNodeFactory.instance.objectNode();
    }

    /// Writes everything that was trained into `folder`, which is created if it does not exist.
    void save(Path folder);
}
