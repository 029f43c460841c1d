package dev.loran.kernels.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.loran.engine.backend.Backend.Replay;
import dev.loran.engine.backend.BackendException;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.kernels.simd.ManyThreadsTest;
import java.util.concurrent.CompletableFuture;
import org.junit.jupiter.api.Test;

/// One device that receives work from several threads.
class CudaThreadsTest {
    @Test
    void everyThreadGetsTheBitsThatOneAloneGets() throws Exception {
        try (CudaBackend backend = StandIn.open()) {
            new ManyThreadsTest().agree(backend, 1);
            assertThat(backend.liveBytes()).isZero();
        }
    }

    @Test
    void whileAStepIsRecordedNoOtherThreadHandsOverWork() {
        try (CudaBackend backend = StandIn.open()) {
            Buffer x = backend.allocate(DType.F32, 4);
            Buffer other = backend.of(DType.F32, 1, 2);
            try (Replay replay = backend.capture(() -> {
                elsewhere(() -> {
                    refused(() -> backend.fill(other, 7));
                    refused(() -> backend.allocate(DType.F32, 3));
                    refused(() -> backend.readLater(other));
                    refused(() -> backend.capture(() -> {}));
                });
                backend.fill(x, 5);
            })) {
                elsewhere(() -> backend.fill(other, 7));
                assertThat(replay.run()).isTrue();
                assertThat(CudaReplayTest.elements(x)).containsOnly(5);
                assertThat(CudaReplayTest.elements(other)).containsOnly(7);
            }
            x.release();
            other.release();
            assertThat(backend.liveBytes()).isZero();
        }
    }

    private static void elsewhere(Runnable work) {
        CompletableFuture.runAsync(work, task -> new Thread(task).start()).join();
    }

    private static void refused(Runnable work) {
        assertThatThrownBy(work::run).isInstanceOf(BackendException.class).hasMessageContaining("record");
    }
}
