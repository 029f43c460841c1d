package dev.loran.benchmarks;

import static org.assertj.core.api.Assertions.assertThat;

import com.sun.management.ThreadMXBean;
import dev.loran.engine.backend.DType;
import dev.loran.kernels.simd.SimdBackend;
import dev.loran.peft.Peft;
import dev.loran.peft.model.decoder.LlamaModel;
import dev.loran.peft.tuner.PeftModel;
import dev.loran.peft.tuner.Tuner;
import java.lang.management.ManagementFactory;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;

/// A training step takes its memory from the backend's pool, and leaves nothing but its tape on the Java heap.
class StepAllocationTest {
    private static final int BATCH = 2;
    private static final int SEQ = 15;
    private static final int VOCAB = 333;

    /// The first step creates the optimizer's moments, which changes the free blocks that later steps find.
    private static final int FIRST = 5;

    private static final int STEPS = 50;

    /// Until C2 has compiled a kernel, its vectors are objects; on a busy machine, compilation takes longer.
    private static final int ROUNDS = 400;

    /// Measured: 95 kB for two layers with LoRA, in nodes, tensors, slices and lambdas, whatever the sizes. A single
    /// kernel that keeps its vectors in objects, over the 30 x 256 elements inside a feed-forward network, would add 46
    /// kB per layer.
    private static final long BOUND = 150_000;

    private final ThreadMXBean threads = (ThreadMXBean) ManagementFactory.getThreadMXBean();

    @Test
    void takesNothingFromTheSystemAndLittleFromTheHeap() {
        try (SimdBackend backend = new SimdBackend(2);
                LlamaModel model =
                        LlamaModel.random(LlamaModel.Config.of(VOCAB, 64, 256, 2, 4, 2, SEQ), backend, DType.F32, 1);
                PeftModel peft = new PeftModel(model, 1)) {
            Tuner lora = peft.addAdapter(
                    "default",
                    Peft.createPeftConfig(
                            "lora",
                            Map.of(
                                    "r",
                                    8,
                                    "lora_dropout",
                                    0.1,
                                    "target_modules",
                                    List.of("q_proj", "k_proj", "v_proj", "o_proj"))));
            lora.beginTraining(FIRST + STEPS * ROUNDS);
            model.train(true);
            model.prepare();
            try (TrainingStep step = new TrainingStep(peft, lora, BATCH, SEQ, VOCAB)) {
                double first = run(step, FIRST);
                long system = backend.systemAllocations();
                long least = Long.MAX_VALUE;
                double last = first;
                for (int round = 0; round < ROUNDS && least > BOUND; round++) {
                    long before = threads.getTotalThreadAllocatedBytes();
                    last = run(step, STEPS);
                    least = Math.min(least, (threads.getTotalThreadAllocatedBytes() - before) / STEPS);
                }
                assertThat(least).as("bytes of the heap a step").isLessThanOrEqualTo(BOUND);
                assertThat(backend.systemAllocations()).isEqualTo(system).isPositive();
                // Confirms that what allocated nothing was really training.
                assertThat(last).isLessThan(first);
            }
        }
    }

    private static double run(TrainingStep step, int steps) {
        double loss = 0;
        for (int i = 0; i < steps; i++) {
            loss = step.run();
        }
        return loss;
    }
}
