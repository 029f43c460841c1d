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

/// What a [Trainer] moves: parameters with names, and a loss over a batch. [TaskModel] is the usual one; your own loss
/// implements this.
public interface Learner extends Forward {
    Backend backend();

    /// Type of the parameters: F32, or F64.
    DType dtype();

    /// What trains, by name; the optimizer keeps its moments by these names. The same tensors at every call.
    Map<String, Tensor> parameters();

    /// Whether a parameter belongs to the head, which learns faster ([TrainerConfig.Rate#headFactor]).
    default boolean isHead(String name) {
        return false;
    }

    /// Batches of one shape in memory of their own: what a recorded step reads, whichever of them it is replayed for.
    interface Inputs extends AutoCloseable {
        /// Writes another batch of that shape there.
        void write(Batch batch);

        /// As [Learner#loss], of the batch written last. The work must be the same whatever that holds, so nothing is
        /// read back.
        Tensor loss();

        @Override
        void close();
    }

    /// Memory for batches of the shape of `batch`, which is in it. Null, as here, for a loss that does something of its
    /// own on the host: its steps are never recorded.
    default @Nullable Inputs inputs(Batch batch) {
        return null;
    }

    /// Whether optimizer step `step` (from 1), [#afterStep] included, asks the backend for the same work as the one
    /// before: it may then be recorded once and replayed ([Backend#capture]), which runs none of the code that asks.
    /// Asked only of learners that have [#inputs].
    default boolean repeats(int step) {
        return true;
    }

    /// A scalar added once a step to the loss in training, never in evaluation, and reported apart; null for none.
    default @Nullable Tensor penalty() {
        return null;
    }

    /// Says that this thread changes what trains until the result is closed; a step is taken within. Who shares its
    /// model among threads keeps them out here ([dev.loran.peft.model.Model#changing]); as it is here, nobody is.
    ///
    /// @throws java.util.ConcurrentModificationException if another thread uses it
    default Guard.Use changing(String operation) {
        return () -> {};
    }

    /// Called before each forward in training, with its number from 0: dropout draws its masks from it.
    default void microStep(int number) {}

    /// Called once, when the number of optimizer steps is known: of a run that is prolonged, the longer one, before
    /// [#loadTrainingState]. What must not follow it belongs to the state.
    default void beginTraining(int totalSteps) {}

    /// Called after each optimizer step, before gradients are dropped: [dev.loran.peft.tuner.Tuner#afterStep].
    default void afterStep(int step, Buffer gradScale, Optimizer optimizer) {}

    /// What going on later needs beside parameters and moments, by name.
    default Map<String, Tensor> trainingState() {
        return Map.of();
    }

    /// The shapes of those parameters that [#loadTrainingState] will give another one. Changes nothing.
    ///
    /// @throws IllegalArgumentException if `state` is not one of this learner
    default Map<String, Shape> shapes(Map<String, Tensor> state) {
        return Map.of();
    }

    /// Takes over what [#trainingState] gave, before the parameters get their values: they take the shapes here that
    /// they had there.
    default void loadTrainingState(Map<String, Tensor> state) {}

    /// What a checkpoint must have been made with to fit this learner, such as the base model and the method. An object
    /// with an entry `sha256` is compared by that alone.
    default ObjectNode identity() {
        return JsonNodeFactory.instance.objectNode();
    }

    /// Writes everything that was trained into `folder`, which is made if it does not exist.
    void save(Path folder);
}
