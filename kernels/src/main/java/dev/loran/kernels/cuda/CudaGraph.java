package dev.loran.kernels.cuda;

import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.BackendException;
import java.lang.foreign.MemorySegment;
import java.util.List;
import jcuda.driver.CUgraphExec;
import jcuda.driver.JCudaDriver;
import org.jspecify.annotations.Nullable;

/// Work of one device, recorded as a CUDA graph: launches, products and copies with their recorded addresses. While it
/// exists, [CudaMemory] reserves its memory.
final class CudaGraph implements Backend.Replay {
    private final CudaDevice device;
    private final CudaMemory memory;
    private final CudaMemory.Recording recording;
    private final CUgraphExec work;
    private final List<MemorySegment> constants;
    private boolean closed;

    private CudaGraph(
            CudaDevice device,
            CudaMemory memory,
            CudaMemory.Recording recording,
            CUgraphExec work,
            List<MemorySegment> constants) {
        this.device = device;
        this.memory = memory;
        this.recording = recording;
        this.work = work;
        this.constants = constants;
    }

    /// Runs `step` and records its work.
    static CudaGraph of(CudaDevice device, CudaMemory memory, CudaStaging staging, Runnable step) {
        CudaMemory.Recording recording = memory.beginRecording();
        boolean recorded = false;
        try {
            device.beginCapture();
            CUgraphExec work;
            try {
                step.run();
                recorded = true;
            } finally {
                work = device.endCapture(recorded);
            }
            CudaGraph graph = new CudaGraph(device, memory, recording, work, staging.takeConstants());
            long left = memory.endRecording();
            if (left > 0) {
                graph.close();
                throw new BackendException("cuda: the recorded step left " + left
                        + " bytes behind that it allocated; allocate what outlives a step before recording it");
            }
            return graph;
        } catch (RuntimeException | Error e) {
            memory.drop(recording);
            drop(device, null, staging.takeConstants());
            throw e;
        }
    }

    /// Destroys recorded work once it has completed, and frees the page-locked memory that it copies from.
    private static void drop(CudaDevice device, @Nullable CUgraphExec work, List<MemorySegment> constants) {
        device.execute(() -> {
            device.finish();
            if (work != null) {
                JCudaDriver.cuGraphExecDestroy(work);
            }
            constants.forEach(device::unpin);
        });
    }

    @Override
    public boolean run() {
        if (closed || recording.isLost()) {
            return false;
        }
        device.launch(work);
        return true;
    }

    @Override
    public void close() {
        if (!closed) {
            closed = true;
            if (!device.isClosed()) {
                drop(device, work, constants);
            }
            memory.drop(recording);
        }
    }
}
