package dev.loran.kernels.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.api.Assumptions.assumeFalse;

import dev.loran.engine.BackendException;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/// That the stand-in notices what a GPU would not let pass, or would let pass to everybody's cost.
class CudaStandInTest {
    private CudaDevice device;
    private long memory;

    @BeforeEach
    void open() {
        assumeFalse(StandIn.isGpu(), "these kernels are faulty");
        CudaBackend backend = StandIn.open();
        assertThat(backend.describe()).startsWith("Loran CPU stand-in (not a GPU)");
        backend.close();
        device = new CudaDevice(0);
        memory = device.call(() -> device.allocate(1024));
    }

    @AfterEach
    void close() {
        if (device != null) {
            device.close();
        }
    }

    @Test
    void aBarrierThatNotAllThreadsReach() {
        device.launch("faults", "fault_divergence", new int[] {1}, new int[] {64}, memory);
        assertLaunchFailed();
    }

    @Test
    void aWarpOperationOfLanesThatDoNotExist() {
        device.launch("faults", "fault_missing_lanes", new int[] {1}, new int[] {33}, memory);
        assertLaunchFailed();
    }

    private void assertLaunchFailed() {
        assertThatThrownBy(device::synchronize)
                .isInstanceOf(BackendException.class)
                .hasMessage("cuda: cuStreamSynchronize failed: CUDA_ERROR_LAUNCH_FAILED (719)");
    }

    @Test
    void aMissingBarrierGivesNumbersThatAreNone() {
        device.launchShared("faults", "fault_missing_barrier", new int[] {1}, new int[] {64}, 256, new long[] {memory});
        MemorySegment read = MemorySegment.ofArray(new float[64]);
        device.read(read, memory);
        assertThat(read.getAtIndex(ValueLayout.JAVA_FLOAT, 0)).isNaN();
    }

    @Test
    void memoryThatIsNotTheDevices() {
        device.copy(memory, memory + 512, 513);
        assertThatThrownBy(device::synchronize).hasMessageContaining("cuMemcpyDtoDAsync failed");
        device.execute(() -> device.free(memory));
        device.copy(memory, memory + 512, 8);
        assertThatThrownBy(device::synchronize).hasMessageContaining("cuMemcpyDtoDAsync failed");
    }

    @Test
    void launchesThatNoGpuDoes() {
        device.launch("faults", "fault_missing_lanes", new int[] {1}, new int[] {1025}, memory);
        assertThatThrownBy(device::synchronize).hasMessageContaining("CUDA_ERROR_INVALID_VALUE");
        device.launch("faults", "fault_unheard_of", new int[] {1}, new int[] {1}, memory);
        assertThatThrownBy(device::synchronize).hasMessageContaining("CUDA_ERROR_NOT_FOUND");
    }
}
