package dev.loran.peft.train;

import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.HostBuffer;
import java.lang.foreign.MemorySegment;
import java.util.Map;
import java.util.function.Supplier;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;

/// The results of an optimizer step. The values stay with the backend until they are requested. Requesting those of the
/// latest step waits for it; once the next step has been submitted, requesting them costs next to nothing.
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
    private Map<String, Integer> ranks = Map.of();
    private double dataSeconds;
    private @Nullable Spike spike;

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

    /// Why this step was skipped ([TrainerConfig#skipBadSteps]), once that is known; on a GPU this is after the next
    /// step. Null if it was taken.
    public @Nullable String problem() {
        return problem;
    }

    void allotted(Map<String, Integer> live) {
        ranks = live;
    }

    /// The live rank of each adapted layer by module name, if this step has just allotted them anew, as some steps of
    /// AdaLoRA do; else empty.
    public Map<String, Integer> ranks() {
        return ranks;
    }

    void read(double seconds) {
        dataSeconds = seconds;
    }

    /// The time that [Trainer#train] took to read and pad the rows of this step, in seconds.
    public double dataSeconds() {
        return dataSeconds;
    }

    void jumped(@Nullable Spike what) {
        spike = what;
    }

    /// How far the loss or the gradients are above those of the steps before; null if they are not, or if nothing
    /// watches ([TrainerConfig#spikesToKeep]).
    public @Nullable Spike spike() {
        return spike;
    }

    /// The number of this optimizer step, from 1.
    public int step() {
        return step;
    }

    /// The learning rate of this step, without the head's factor.
    public double learningRate() {
        return learningRate;
    }

    /// The number of tokens in the step, without padding.
    public int tokens() {
        return tokens;
    }

    /// The task's mean loss over all rows (or tokens) of the step, before the update.
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
