package dev.loran.kernels;

import static org.assertj.core.api.Assertions.assertThat;

import com.sun.management.ThreadMXBean;
import dev.loran.engine.Backend;
import dev.loran.engine.Buffer;
import dev.loran.engine.DType;
import dev.loran.engine.DropoutMask;
import dev.loran.engine.Scratch;
import java.lang.foreign.MemorySegment;
import java.lang.management.ManagementFactory;
import java.nio.ByteOrder;
import java.util.Random;
import jdk.incubator.vector.FloatVector;
import org.junit.jupiter.api.Test;

/// Kernels leave the Java heap alone once they are compiled, for C2 then has no vector as an object: also where the JVM has
/// seen vectors go to other memory than theirs, which is what makes it fall back.
final class NoAllocationTest {
    private static final int ROWS = 96;
    private static final int IN = 256;
    private static final int OUT = 96;
    private static final int WARM_UP = 4_000;
    private static final int CALLS = 100;

    private final ThreadMXBean thread = (ThreadMXBean) ManagementFactory.getThreadMXBean();

    @Test
    void product() {
        try (SimdBackend backend = new SimdBackend(1);
                Scratch scratch = new Scratch(backend)) {
            Buffer x = normal(backend, scratch, ROWS * IN);
            Buffer w = normal(backend, scratch, OUT * IN);
            Buffer y = scratch.allocate(DType.F32, ROWS * OUT);
            // One accumulator as an object, once a step of k, would be 96 MB.
            assertThat(allocated(() -> backend.linear(y, x, w, null, ROWS, IN, OUT)))
                    .isLessThan(CALLS * 10_000L);
        }
    }

    @Test
    void dropout() {
        try (SimdBackend backend = new SimdBackend(1);
                Scratch scratch = new Scratch(backend)) {
            Buffer x = normal(backend, scratch, ROWS * IN);
            Buffer step = scratch.allocate(DType.I32, 1);
            backend.fill(step, 7);
            DropoutMask mask = new DropoutMask(0.1, 1, 2, step);
            Buffer y = scratch.like(x);
            assertThat(allocated(() -> backend.dropout(y, x, ROWS, IN, mask, false)))
                    .isLessThan(CALLS * 10_000L);
        }
    }

    private static Buffer normal(Backend backend, Scratch scratch, int n) {
        Random random = new Random(n);
        float[] values = new float[n];
        for (int i = 0; i < n; i++) {
            values[i] = (float) random.nextGaussian();
        }
        Buffer x = scratch.allocate(DType.F32, n);
        backend.write(x, MemorySegment.ofArray(values));
        return x;
    }

    /// Bytes that `CALLS` calls allocate, when some thousands have been made.
    private long allocated(Runnable kernel) {
        for (int i = 0; i < WARM_UP; i++) {
            MemorySegment heap = MemorySegment.ofArray(new byte[FloatVector.SPECIES_PREFERRED.vectorByteSize()]);
            FloatVector.broadcast(FloatVector.SPECIES_PREFERRED, i).intoMemorySegment(heap, 0, ByteOrder.nativeOrder());
            kernel.run();
        }
        long before = thread.getCurrentThreadAllocatedBytes();
        for (int i = 0; i < CALLS; i++) {
            kernel.run();
        }
        return thread.getCurrentThreadAllocatedBytes() - before;
    }
}
