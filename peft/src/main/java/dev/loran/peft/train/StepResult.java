package dev.loran.peft.train;

import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.HostBuffer;
import java.lang.foreign.MemorySegment;
import java.util.function.Supplier;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;

/// What an optimizer step found. Its numbers lie with the backend until they are asked for: asking for those of the
/// step just made waits for it, asking once the next one was handed over costs next to nothing.
public final class StepResult {
    static final int LOSS = 0;
    static final int PENALTY = 1;
    static final int NORM = 2;
    static final int NUMBERS = 3;

    private final int step;
    private final double learningRate;
    private final int tokens;
    private final DType dtype;
    private final Supplier<MemorySegment> pending;
    private double @Nullable [] numbers;
    private @Nullable String problem;

    StepResult(int step, double learningRate, int tokens, DType dtype, Supplier<MemorySegment> pending) {
        this.step = step;
        this.learningRate = learningRate;
        this.tokens = tokens;
        this.dtype = dtype;
        this.pending = pending;
    }

    private double[] numbers() {
        if (numbers == null) {
            MemorySegment read = pending.get();
            numbers = IntStream.range(0, NUMBERS)
                    .mapToDouble(i -> HostBuffer.get(read, dtype, i))
                    .toArray();
        }
        return numbers;
    }

    void leftOut(String why) {
        problem = why;
    }

    /// Why this step was left out ([TrainerConfig#skipBadSteps]), once that is known: on a GPU with the next step. Null
    /// of one that was taken.
    public @Nullable String problem() {
        return problem;
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
