package dev.loran.kernels;

import static java.util.Objects.requireNonNull;
import static org.assertj.core.api.Assertions.assertThat;

import com.sun.management.ThreadMXBean;
import dev.loran.engine.Buffer;
import dev.loran.engine.DType;
import dev.loran.engine.DropoutMask;
import dev.loran.engine.Scratch;
import dev.loran.engine.UnaryFn;
import java.lang.foreign.MemorySegment;
import java.lang.management.ManagementFactory;
import java.nio.ByteOrder;
import java.util.Map;
import java.util.Random;
import java.util.TreeMap;
import java.util.stream.Stream;
import jdk.incubator.vector.FloatVector;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/// Kernels leave the Java heap alone once they are compiled, for C2 then has no vector as an object: also where the JVM has
/// seen vectors go to other memory than theirs, which is what makes it fall back.
final class NoAllocationTest {
    private static final int ROWS = 96;

    /// No multiple of a vector: loops and what is left over are one method, and one must not crowd out the other.
    private static final int IN = 252;
    private static final int OUT = 96;

    /// Rows that are read by dot products and not packed.
    private static final int FEW = 3;

    /// Keys that one query meets.
    private static final int KEYS = 384;

    private static final int HEADS = 4;

    private static final int WARM_UP = 2_000;
    private static final int ROUNDS = 40;
    private static final int CALLS = 100;

    /// A vector as an object, once for every vector of the output, would be 15 MB.
    private static final long BOUND = CALLS * 10_000L;

    private final ThreadMXBean thread = (ThreadMXBean) ManagementFactory.getThreadMXBean();

    static Stream<String> kernels() {
        try (SimdBackend backend = new SimdBackend(1);
                Scratch scratch = new Scratch(backend)) {
            return kernels(backend, scratch).keySet().stream().toList().stream();
        }
    }

    @ParameterizedTest
    @MethodSource("kernels")
    void allocatesNothing(String kernel) {
        try (SimdBackend backend = new SimdBackend(1);
                Scratch scratch = new Scratch(backend)) {
            assertThat(allocated(requireNonNull(kernels(backend, scratch).get(kernel))))
                    .isLessThan(BOUND);
        }
    }

    /// Calls of about 25,000 elements, or of as many products of 16.
    private static Map<String, Runnable> kernels(SimdBackend backend, Scratch scratch) {
        int n = ROWS * IN;
        Buffer a = normal(backend, scratch, n);
        Buffer b = normal(backend, scratch, n);
        Buffer c = normal(backend, scratch, n);
        Buffer row = normal(backend, scratch, IN);
        Buffer y = scratch.like(a);
        Buffer z = scratch.like(a);
        Buffer mean = scratch.allocate(DType.F32, ROWS);
        Buffer rstd = scratch.allocate(DType.F32, ROWS);
        Buffer one = scratch.allocate(DType.F32, 1);
        Buffer step = scratch.allocate(DType.I32, 1);
        Buffer labels = scratch.allocate(DType.I32, ROWS);
        Buffer q = normal(backend, scratch, IN);
        Buffer keys = normal(backend, scratch, KEYS * IN);
        Buffer lse = scratch.allocate(DType.F32, HEADS);
        Buffer w = normal(backend, scratch, OUT * IN);
        backend.fill(one, 1);
        backend.fill(step, 7);
        backend.fill(labels, 5);
        backend.layerNorm(y, mean, rstd, a, row, row, ROWS, IN, 1e-5);
        DropoutMask mask = new DropoutMask(0.1, 1, 2, step);
        Map<String, Runnable> kernels = new TreeMap<>();
        kernels.put("linear", () -> backend.linear(y, a, w, null, ROWS, IN, OUT));
        kernels.put("linear of few rows", () -> backend.linear(y, a, w, null, FEW, IN, OUT));
        kernels.put("dropout", () -> backend.dropout(y, a, ROWS, IN, mask, false));
        kernels.put("gated", () -> backend.gated(UnaryFn.SILU, y, a, b));
        kernels.put("gatedBackward", () -> backend.gatedBackward(UnaryFn.SILU, y, z, c, a, b, false, false));
        kernels.put("layerNorm", () -> backend.layerNorm(y, mean, rstd, a, row, row, ROWS, IN, 1e-5));
        kernels.put(
                "layerNormBackward",
                () -> backend.layerNormBackward(y, row, null, b, a, mean, rstd, row, ROWS, IN, false, false, false));
        kernels.put("rmsNormBackward", () -> backend.rmsNormBackward(y, row, b, a, rstd, row, ROWS, IN, true, true));
        kernels.put("softmax", () -> backend.softmax(y, a, ROWS, IN));
        kernels.put("softmaxBackward", () -> backend.softmaxBackward(y, b, a, ROWS, IN, false));
        kernels.put("crossEntropy", () -> backend.crossEntropy(mean, rstd, a, labels, ROWS, IN, -100));
        kernels.put(
                "crossEntropyBackward",
                () -> backend.crossEntropyBackward(y, one, a, rstd, labels, ROWS, IN, -100, false));
        kernels.put(
                "attention of one query",
                () -> backend.attention(
                        y, lse, q, keys, keys, null, null, null, 1, 1, KEYS, 0, HEADS, HEADS, IN / HEADS, false, 0.1));
        kernels.put(
                "attention",
                () -> backend.attention(y, mean, a, b, c, null, null, null, 1, ROWS, ROWS, 0, 1, 1, IN, true, 0.1));
        for (UnaryFn fn : UnaryFn.values()) {
            kernels.put(fn + "", () -> backend.unary(fn, y, a));
            kernels.put(fn + " backward", () -> backend.unaryBackward(fn, y, b, a, false));
        }
        return kernels;
    }

    private static Buffer normal(SimdBackend backend, Scratch scratch, int n) {
        Random random = new Random(n);
        float[] values = new float[n];
        for (int i = 0; i < n; i++) {
            values[i] = (float) random.nextGaussian();
        }
        Buffer x = scratch.allocate(DType.F32, n);
        backend.write(x, MemorySegment.ofArray(values));
        return x;
    }

    /// Bytes that `CALLS` calls allocate once C2 has compiled them, which on a busy machine takes the longer: the least of
    /// many rounds, up to the first that allocates as good as nothing.
    private long allocated(Runnable kernel) {
        long least = Long.MAX_VALUE;
        for (int round = 0; round < ROUNDS && least >= BOUND; round++) {
            for (int i = 0; i < WARM_UP; i++) {
                MemorySegment heap = MemorySegment.ofArray(new byte[FloatVector.SPECIES_PREFERRED.vectorByteSize()]);
                FloatVector.broadcast(FloatVector.SPECIES_PREFERRED, i)
                        .intoMemorySegment(heap, 0, ByteOrder.nativeOrder());
                kernel.run();
            }
            long before = thread.getCurrentThreadAllocatedBytes();
            for (int i = 0; i < CALLS; i++) {
                kernel.run();
            }
            least = Math.min(least, thread.getCurrentThreadAllocatedBytes() - before);
        }
        return least;
    }
}
