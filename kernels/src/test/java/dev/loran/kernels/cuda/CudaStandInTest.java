package dev.loran.kernels.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.api.Assumptions.assumeFalse;

import dev.loran.engine.backend.BackendException;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.Matrix;
import dev.loran.engine.backend.Scratch;
import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/// The stand-in detects errors that a GPU would reject, or would silently execute.
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
        new CudaStaging(device).read(read, memory);
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

    @Test
    void cublas13ServesInPlaceOf12() throws IOException, InterruptedException {
        // A process can load only one cuBLAS, so this starts another.
        List<String> command = List.of(
                Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "--enable-native-access=ALL-UNNAMED",
                "-cp",
                System.getProperty("java.class.path"),
                Main.class.getName());
        Process process = new ProcessBuilder(command).redirectErrorStream(true).start();
        String output = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        assertThat(process.waitFor()).as(output).isZero();
        assertThat(output).contains("cuBLAS 13 (").contains("product 11.0");
    }

    /// Multiplies (1, 2) by (3, 4)ᵀ with cuBLAS 13.
    static final class Main {
        private Main() {}

        public static void main(String[] args) {
            Path folder = Path.of("target", "standin", "cuda13");
            try (CudaBackend backend = CudaBackend.standIn(folder, DType.F32);
                    Scratch scratch = new Scratch(backend)) {
                System.out.println(backend.describe());
                Buffer y = scratch.allocate(DType.F32, 1);
                Buffer x = scratch.hold(backend.of(DType.F32, 1, 2));
                Matrix w = new Matrix(scratch.hold(backend.of(DType.F32, 3, 4)), 1, 2);
                backend.linear().linear(new Matrix(y, 1, 1), new Matrix(x, 1, 2), w, null);
                MemorySegment product = MemorySegment.ofArray(new float[1]);
                backend.read(product, y);
                System.out.println("product " + product.get(ValueLayout.JAVA_FLOAT, 0));
            }
        }
    }
}
