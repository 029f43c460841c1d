package dev.loran.peft.train;

import dev.loran.engine.Backend;
import dev.loran.engine.Buffer;
import dev.loran.engine.DType;
import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import org.jspecify.annotations.Nullable;

/// What an optimizer step found. Its numbers lie with the backend until they are asked for: asking for those of the step
/// just made waits for it, asking a step later waits for nothing.
public final class StepResult {
    static final int LOSS = 0;
    static final int PENALTY = 1;
    static final int NORM = 2;

    private final int step;
    private final double learningRate;
    private final int tokens;
    private final Slot slot;
    private double @Nullable [] numbers;

    /// Three numbers on the backend. The next result that is written there first makes the one before read its own.
    static final class Slot implements AutoCloseable {
        private final Tensor numbers;
        private @Nullable StepResult occupant;

        Slot(Backend backend, DType dtype) {
            numbers = Tensor.own(Shape.of(3), backend.allocate(dtype, 3));
            backend.fill(numbers.buffer(), 0);
        }

        /// The place of number `i`.
        Buffer at(int i) {
            return numbers.buffer().slice(i, 1);
        }

        void vacate() {
            if (occupant != null) {
                occupant.numbers();
                occupant = null;
            }
        }

        @Override
        public void close() {
            vacate();
            numbers.close();
        }
    }

    StepResult(int step, double learningRate, int tokens, Slot slot) {
        this.step = step;
        this.learningRate = learningRate;
        this.tokens = tokens;
        this.slot = slot;
        slot.occupant = this;
    }

    private double[] numbers() {
        if (numbers == null) {
            numbers = slot.numbers.toDoubles();
        }
        return numbers;
    }

    /// The number of this optimizer step, from 1.
    public int step() {
        return step;
    }

    /// The rate of this step, the head's factor apart.
    public double learningRate() {
        return learningRate;
    }

    /// How many tokens the step saw, padding apart.
    public int tokens() {
        return tokens;
    }

    /// The task's mean loss over all rows (or tokens) of the step, before it.
    public double loss() {
        return numbers()[LOSS];
    }

    /// What the method added to the loss.
    public double penalty() {
        return numbers()[PENALTY];
    }

    /// The global norm of the gradients before clipping.
    public double gradNorm() {
        return numbers()[NORM];
    }
}
