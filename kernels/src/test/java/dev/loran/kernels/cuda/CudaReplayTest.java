package dev.loran.kernels.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.api.Assumptions.assumeFalse;

import dev.loran.engine.Shape;
import dev.loran.engine.Tensor;
import dev.loran.engine.backend.Backend.Replay;
import dev.loran.engine.backend.BackendException;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.DropoutMask;
import dev.loran.engine.backend.HostBuffer;
import dev.loran.engine.backend.Matrix;
import dev.loran.engine.backend.UnaryFn;
import java.lang.foreign.MemorySegment;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;
import java.util.concurrent.CompletableFuture;
import java.util.function.Supplier;
import java.util.stream.IntStream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/// Recorded and replayed work, and reads that do not wait for later work.
class CudaReplayTest {
    private CudaBackend backend;

    @BeforeEach
    void open() {
        backend = StandIn.open();
    }

    @AfterEach
    void close() {
        if (backend != null) {
            backend.close();
        }
    }

    static double[] elements(Buffer b) {
        try (Tensor t = Tensor.own(Shape.of(Math.toIntExact(b.size())), b.retain())) {
            return t.toDoubles();
        }
    }

    private static void release(Buffer... buffers) {
        Arrays.stream(buffers).forEach(Buffer::release);
    }

    /// y ← dropout(x · xᵀ · c) with temporary memory; c = 2 comes from the host.
    private void work(Buffer y, Buffer x, DropoutMask mask) {
        Buffer square = backend.allocate(DType.F32, 49);
        Buffer two = backend.of(DType.F32, 2);
        Matrix rows = new Matrix(x, 7, 33);
        backend.gemm(new Matrix(square, 7, 7), rows, rows.t(), 1, 0);
        backend.scaleBy(square, two, 49);
        backend.dropout(y, square, 7, 7, mask, false);
        release(square, two);
    }

    @Test
    void aReplayDoesTheSameOnWhatTheBuffersHoldThen() {
        Buffer x = backend.allocate(DType.F32, 7 * 33);
        Buffer y = backend.allocate(DType.F32, 49);
        Buffer expected = backend.allocate(DType.F32, 49);
        Buffer step = backend.ofInts(0);
        DropoutMask mask = new DropoutMask(0.3, 9, 1, step);
        work(y, x, mask);
        backend.fill(y, -1);
        try (Replay replay = backend.capture(() -> work(y, x, mask))) {
            assertThat(Arrays.stream(elements(y)).distinct())
                    .as("nothing was done yet")
                    .containsExactly(-1.0);
            double[] before = new double[49];
            for (int i = 1; i <= 3; i++) {
                int seed = i;
                double[] values = IntStream.range(0, 7 * 33)
                        .mapToDouble(j -> Math.sin(seed * 100 + j))
                        .toArray();
                Buffer fresh = backend.of(DType.F32, values);
                backend.axpby(x, fresh, 1, 0);
                fresh.release();
                backend.fill(step, i);
                long handedOver = backend.submissions();
                assertThat(replay.run()).isTrue();
                assertThat(backend.submissions() - handedOver).isEqualTo(1);
                work(expected, x, mask);
                assertThat(elements(y)).isEqualTo(elements(expected)).isNotEqualTo(before);
                before = elements(y);
            }
        }
        release(x, y, expected, step);
        assertThat(backend.liveBytes()).isZero();
    }

    @Test
    void memoryOfARecordedStepIsItsOwnUntilItIsClosed() {
        Buffer x = backend.of(DType.F32, new double[7 * 33]);
        Buffer y = backend.allocate(DType.F32, 49);
        Buffer step = backend.ofInts(0);
        DropoutMask mask = new DropoutMask(0, 9, 1, step);
        work(y, x, mask);
        Replay replay = backend.capture(() -> work(y, x, mask));
        Buffer[] others = new Buffer[8];
        for (int i = 0; i < others.length; i++) {
            others[i] = backend.allocate(DType.F32, 49);
            backend.fill(others[i], 5);
        }
        assertThat(replay.run()).isTrue();
        for (Buffer other : others) {
            assertThat(Arrays.stream(elements(other)).distinct()).containsExactly(5.0);
        }
        long held = backend.heldBytes();
        // A second recording shares the memory reserved by the first.
        try (Replay second = backend.capture(() -> work(y, x, mask))) {
            assertThat(second.run()).isTrue();
            assertThat(backend.heldBytes()).isEqualTo(held);
        }
        replay.close();
        assertThat(replay.run()).as("closed").isFalse();
        release(x, y, step);
        release(others);
        backend.trim();
        assertThat(backend.heldBytes()).isZero();
    }

    @Test
    void aRecordedStepIsGivenUpWithMemoryThatItUses() {
        Buffer x = backend.of(DType.F32, 1, 2);
        Buffer y = backend.allocate(DType.F32, 2);
        try (Replay replay = backend.capture(() -> backend.unary(UnaryFn.NEG, y.slice(1, 1), x.slice(0, 1)))) {
            assertThat(replay.run()).isTrue();
            assertThat(elements(y)[1]).isEqualTo(-1);
            backend.fill(y, 7);
            x.release();
            assertThat(replay.run()).isFalse();
            assertThat(elements(y)).containsExactly(7, 7);
        }
        y.release();
    }

    @Test
    void recordedStepsAreGivenUpBeforeMemoryRunsOut() {
        assumeFalse(StandIn.isGpu(), "the sizes are those of the stand-in");
        Buffer y = backend.allocate(DType.F32, 1);
        long size = 300L << 20;
        try (Replay replay = backend.capture(() -> {
            backend.allocate(DType.I8, size).release();
            backend.fill(y, 1);
        })) {
            assertThat(backend.heldBytes()).isGreaterThan(size);
            backend.allocate(DType.I8, size).release();
            assertThat(replay.run()).isFalse();
        }
        y.release();
    }

    @Test
    void whatCannotBeRecordedIsSaidAndLeavesTheBackendUsable() {
        Buffer x = backend.of(DType.F32, 1, 2);
        assertThatThrownBy(() -> backend.capture(() -> elements(x)))
                .isInstanceOf(BackendException.class)
                .hasMessage("cuda: a step that is being recorded reads nothing; read before or after it");
        assertThatThrownBy(() -> backend.capture(() -> backend.readLater(x)))
                .hasMessage("cuda: a step that is being recorded reads nothing; read before or after it");
        Buffer[] kept = new Buffer[1];
        assertThatThrownBy(() -> backend.capture(() -> kept[0] = backend.allocate(DType.F32, 33)))
                .isInstanceOf(BackendException.class)
                .hasMessage("cuda: the recorded step left 132 bytes behind that it allocated; allocate what outlives a"
                        + " step before recording it");
        kept[0].release();
        assertThatThrownBy(() -> backend.capture(() -> backend.capture(() -> {})))
                .hasMessage("cuda: a step is being recorded already");
        backend.unary(UnaryFn.NEG, x, x);
        assertThat(elements(x)).containsExactly(-1, -2);
        x.release();
        assertThat(backend.liveBytes()).isZero();
    }

    /// The step fails with the first failure; a further one before the end of the recording is dropped with it.
    @Test
    void aRecordingThatFailsTwiceEnds() {
        CudaDevice device =
                Objects.requireNonNull(backend.capability(CudaContext.class)).device();
        CompletableFuture<Void> submitted = new CompletableFuture<>();
        CompletableFuture<Void> begun = new CompletableFuture<>();
        CompletableFuture<Void> seen = new CompletableFuture<>();
        assertThatThrownBy(() -> backend.capture(() -> {
                    device.submit(() -> {
                        submitted.join();
                        throw new IllegalStateException("first");
                    });
                    device.submit(() -> {
                        begun.complete(null);
                        seen.join();
                        throw new IllegalStateException("second");
                    });
                    submitted.complete(null);
                    begun.join();
                    try {
                        device.submit(() -> {});
                    } finally {
                        seen.complete(null);
                    }
                }))
                .isInstanceOf(BackendException.class)
                .hasMessage("first");
        Buffer y = backend.allocate(DType.F32, 2);
        try (Replay replay = backend.capture(() -> backend.fill(y, 3))) {
            assertThat(replay.run()).isTrue();
            assertThat(elements(y)).containsExactly(3, 3);
        }
        y.release();
    }

    @Test
    void aLateReadGivesWhatStoodThereWhenItBegan() {
        Buffer x = backend.allocate(DType.F32, 2);
        // More reads than there are places.
        List<Supplier<MemorySegment>> reads = IntStream.range(0, 100)
                .mapToObj(i -> {
                    backend.fill(x, i);
                    return backend.readLater(x);
                })
                .toList();
        backend.fill(x, -1);
        for (int i : new int[] {99, 0, 50, 50, 1, 98}) {
            assertThat(HostBuffer.get(reads.get(i).get(), DType.F32, 1)).isEqualTo(i);
        }
        Buffer large =
                backend.of(DType.F32, IntStream.range(0, 1000).asDoubleStream().toArray());
        assertThat(HostBuffer.get(backend.readLater(large).get(), DType.F32, 999))
                .isEqualTo(999);
        release(x, large);
    }

    @Test
    void aLateReadSaysWhatWentWrongBefore() {
        Buffer ids = backend.ofInts(5);
        Buffer x = backend.of(DType.F32, 1);
        Buffer y = backend.allocate(DType.F32, 1);
        backend.gatherRows(y, x, ids, 1, 1);
        Supplier<MemorySegment> late = backend.readLater(y);
        assertThatThrownBy(late::get)
                .isInstanceOf(BackendException.class)
                .hasMessage("embedding: id 5 does not exist in a table of 1 rows");
        release(ids, x, y);
    }
}
