package dev.loran.kernels.cuda;

import dev.loran.engine.backend.BackendException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.charset.StandardCharsets;
import jcuda.driver.CUcontext;
import jcuda.driver.CUdevice;
import jcuda.driver.CUdevice_attribute;
import jcuda.driver.CUdeviceptr;
import jcuda.driver.CUevent;
import jcuda.driver.CUevent_flags;
import jcuda.driver.CUgraph;
import jcuda.driver.CUgraphExec;
import jcuda.driver.CUresult;
import jcuda.driver.CUstream;
import jcuda.driver.CUstream_flags;
import jcuda.driver.JCudaDriver;

/// One GPU: its context, which is owned by a dedicated thread, one stream, and the loaded kernels. Errors of submitted
/// work are thrown at the latest by [#synchronize].
///
/// A hollow device has neither thread nor GPU: it discards work, and returns addresses of nonexistent memory.
final class CudaDevice extends CudaThread implements AutoCloseable {
    private static final int MIN_DRIVER = 12000;
    private static final int MIN_CAPABILITY = 8;
    private static final int HOST_ALLOC_DEVICE_MAP = 2;
    private static final int CAPTURE_RELAXED = 2;

    private final Arena arena = Arena.ofShared();
    private long nextAddress = 1;

    private final CUdevice device = new CUdevice();
    private final CUcontext context = new CUcontext();
    private final CUstream stream = new CUstream();
    private final CudaKernels kernels = new CudaKernels(arena);
    private String name = "";
    private int capability;
    private long submissions;

    /// Where kernels report invalid arguments: `Complaint` of common.cuh.
    private MemorySegment complaint = MemorySegment.NULL;

    private long complaintAddress;

    /// Opens GPU `ordinal` of the loaded driver.
    ///
    /// @throws BackendException saying why it cannot be used
    CudaDevice(int ordinal) {
        super("loran-cuda-" + ordinal);
        try {
            call(() -> {
                open(ordinal);
                return true;
            });
        } catch (BackendException e) {
            stop();
            arena.close();
            throw e;
        }
    }

    private CudaDevice() {
        super(null);
    }

    static CudaDevice hollow() {
        return new CudaDevice();
    }

    /// As [#execute], for work that is submitted to the driver.
    void submit(Work work) {
        execute(() -> {
            submissions++;
            work.run();
        });
    }

    // ---- opening and closing

    private void open(int ordinal) {
        checkInit(JCudaDriver.cuInit(0));
        int[] number = new int[1];
        CudaLibraries.check("cuDriverGetVersion", JCudaDriver.cuDriverGetVersion(number));
        if (number[0] < MIN_DRIVER) {
            throw new BackendException("cuda: the driver supports CUDA " + number[0] / 1000 + "."
                    + number[0] % 1000 / 10 + ", needs 12.0; install driver 525 or newer");
        }
        CudaLibraries.check("cuDeviceGet", JCudaDriver.cuDeviceGet(device, ordinal));
        byte[] text = new byte[256];
        CudaLibraries.check("cuDeviceGetName", JCudaDriver.cuDeviceGetName(text, text.length, device));
        name = new String(text, StandardCharsets.UTF_8).split("\0", 2)[0];
        capability = attribute(CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
        if (capability < MIN_CAPABILITY) {
            throw new BackendException(
                    "cuda: " + name + " has compute capability " + capability + ".x, needs 8.0 (Ampere) or newer");
        }
        CudaLibraries.check("cuDevicePrimaryCtxRetain", JCudaDriver.cuDevicePrimaryCtxRetain(context, device));
        CudaLibraries.check("cuCtxSetCurrent", JCudaDriver.cuCtxSetCurrent(context));
        CudaLibraries.check(
                "cuStreamCreate", JCudaDriver.cuStreamCreate(stream, CUstream_flags.CU_STREAM_NON_BLOCKING));
        complaint = pinned(64).fill((byte) 0);
        CUdeviceptr seen = new CUdeviceptr();
        CudaLibraries.check(
                "cuMemHostGetDevicePointer",
                JCudaDriver.cuMemHostGetDevicePointer(seen, new CudaLibraries.Address(complaint.address()), 0));
        complaintAddress = address(seen);
    }

    private static void checkInit(int status) {
        switch (status) {
            case CUresult.CUDA_ERROR_NO_DEVICE ->
                throw new BackendException("cuda: the driver sees no GPU that this process may use; see what nvidia-smi"
                        + " lists, and whether CUDA_VISIBLE_DEVICES hides it");
            case CUresult.CUDA_ERROR_SYSTEM_DRIVER_MISMATCH ->
                throw new BackendException(
                        "cuda: libcuda.so.1 and the kernel's NVIDIA driver are of different versions;"
                                + " restart the machine after an update of the driver");
            default -> CudaLibraries.check("cuInit", status);
        }
    }

    private int attribute(int which) {
        int[] value = new int[1];
        CudaLibraries.check("cuDeviceGetAttribute", JCudaDriver.cuDeviceGetAttribute(value, which, device));
        return value[0];
    }

    CUstream stream() {
        return stream;
    }

    /// The major version of its compute capability.
    int capability() {
        return capability;
    }

    /// The device's name as reported by the driver.
    String name() {
        return name;
    }

    /// Waits for all work, releases everything and ends the thread.
    @Override
    public void close() {
        if (isClosed()) {
            return;
        }
        try {
            if (!isHollow()) {
                call(() -> {
                    JCudaDriver.cuStreamSynchronize(stream);
                    kernels.unload();
                    unpin(complaint);
                    JCudaDriver.cuStreamDestroy(stream);
                    JCudaDriver.cuDevicePrimaryCtxRelease(device);
                    return true;
                });
            }
        } finally {
            stop();
            arena.close();
        }
    }

    // ---- memory; on the owner thread

    /// Allocates `bytes` bytes of device memory; 0 if not enough is free.
    long allocate(long bytes) {
        if (isHollow()) {
            nextAddress += bytes;
            return nextAddress - bytes;
        }
        CUdeviceptr p = new CUdeviceptr();
        int status = JCudaDriver.cuMemAlloc(p, bytes);
        if (status == CUresult.CUDA_ERROR_OUT_OF_MEMORY) {
            return 0;
        }
        CudaLibraries.check("cuMemAlloc", status);
        return address(p);
    }

    void free(long address) {
        CudaLibraries.check("cuMemFree", JCudaDriver.cuMemFree(pointer(address)));
    }

    /// Free bytes and total bytes.
    long[] memory() {
        long[] free = new long[1];
        long[] total = new long[1];
        CudaLibraries.check("cuMemGetInfo", JCudaDriver.cuMemGetInfo(free, total));
        return new long[] {free[0], total[0]};
    }

    static CUdeviceptr pointer(long address) {
        return new CUdeviceptr().withByteOffset(address);
    }

    private static long address(CUdeviceptr p) {
        return new Copy(p).value();
    }

    /// Reads a pointer value that is accessible only to subclasses.
    private static final class Copy extends CUdeviceptr {
        Copy(CUdeviceptr p) {
            super(p);
        }

        long value() {
            return getNativePointer() + getByteOffset();
        }
    }

    /// Page-locked memory, which the device can access directly.
    @SuppressWarnings("restricted")
    MemorySegment pinned(long bytes) {
        CudaLibraries.Address p = new CudaLibraries.Address(0);
        CudaLibraries.check("cuMemHostAlloc", JCudaDriver.cuMemHostAlloc(p, bytes, HOST_ALLOC_DEVICE_MAP));
        return MemorySegment.ofAddress(p.value()).reinterpret(bytes);
    }

    void unpin(MemorySegment pinned) {
        JCudaDriver.cuMemFreeHost(new CudaLibraries.Address(pinned.address()));
    }

    /// Records an event after all work submitted so far, for [#await(CUevent)].
    void record(CUevent event) {
        CudaLibraries.check("cuEventRecord", JCudaDriver.cuEventRecord(event, stream));
    }

    static CUevent event(boolean timing) {
        CUevent event = new CUevent();
        CudaLibraries.check(
                "cuEventCreate",
                JCudaDriver.cuEventCreate(
                        event, timing ? CUevent_flags.CU_EVENT_DEFAULT : CUevent_flags.CU_EVENT_DISABLE_TIMING));
        return event;
    }

    static void await(CUevent event) {
        CudaLibraries.check("cuEventSynchronize", JCudaDriver.cuEventSynchronize(event));
    }

    double milliseconds(Runnable work) {
        CUevent begin = call(() -> event(true));
        CUevent end = call(() -> event(true));
        execute(() -> record(begin));
        work.run();
        execute(() -> record(end));
        float[] elapsed = new float[1];
        await(() -> {
            await(end);
            CudaLibraries.check("cuEventElapsedTime", JCudaDriver.cuEventElapsedTime(elapsed, begin, end));
            JCudaDriver.cuEventDestroy(begin);
            JCudaDriver.cuEventDestroy(end);
        });
        return elapsed[0];
    }

    /// Waits until the device has completed all submitted work.
    void finish() {
        CudaLibraries.check("cuStreamSynchronize", JCudaDriver.cuStreamSynchronize(stream));
    }

    void copyToDevice(long address, MemorySegment host) {
        submissions++;
        CudaLibraries.check(
                "cuMemcpyHtoDAsync",
                JCudaDriver.cuMemcpyHtoDAsync(
                        pointer(address), new CudaLibraries.Address(host.address()), host.byteSize(), stream));
    }

    void copyToHost(MemorySegment host, long address) {
        submissions++;
        CudaLibraries.check(
                "cuMemcpyDtoHAsync",
                JCudaDriver.cuMemcpyDtoHAsync(
                        new CudaLibraries.Address(host.address()), pointer(address), host.byteSize(), stream));
    }

    // ---- copies; on any thread

    /// Copies within the device.
    void copy(long to, long from, long bytes) {
        if (bytes > 0) {
            submit(() -> CudaLibraries.check(
                    "cuMemcpyDtoDAsync", JCudaDriver.cuMemcpyDtoDAsync(pointer(to), pointer(from), bytes, stream)));
        }
    }

    /// Waits for all work submitted before.
    ///
    /// @throws BackendException if any of it failed, or a kernel reported invalid arguments
    void synchronize() {
        await(this::finish);
    }

    /// Runs `work`, which waits for work submitted before.
    ///
    /// @throws BackendException if any of that failed, or a kernel reported invalid arguments
    void await(Work work) {
        refuseWhileCapturing();
        String said = call(() -> {
            work.run();
            return takeComplaint();
        });
        throwFailure();
        if (!said.isEmpty()) {
            throw new BackendException(said);
        }
    }

    private String takeComplaint() {
        int code = complaint.get(ValueLayout.JAVA_INT, 0);
        int value = complaint.get(ValueLayout.JAVA_INT, 4);
        int limit = complaint.get(ValueLayout.JAVA_INT, 8);
        complaint.fill((byte) 0);
        return switch (code) {
            case 0 -> "";
            case 1 -> "embedding: id " + value + " does not exist in a table of " + limit + " rows";
            default -> "crossEntropy: label " + value + " does not lie in [0, " + limit + ")";
        };
    }

    /// The address of the `Complaint` that kernels write to.
    long complaint() {
        return complaintAddress;
    }

    // ---- launches; on any thread

    /// Launches kernel `name` of `file` on `grid` blocks of `block` threads, each given by up to three numbers.
    /// Arguments are addresses, integers, or floats converted by [CudaKernels#bits]; a struct comes last, as its words
    /// in order ([CudaKernels#words]).
    void launch(String file, String name, int[] grid, int[] block, long... arguments) {
        launchShared(file, name, grid, block, 0, arguments);
    }

    /// As [#launch], with `shared` bytes of shared memory per block.
    void launchShared(String file, String name, int[] grid, int[] block, int shared, long[] arguments) {
        if (hasBlocks(grid)) {
            submit(() -> kernels.launch(stream, kernels.shipped(file, name), name, grid, block, shared, arguments));
        }
    }

    /// As [#launch], for a kernel supplied as PTX text.
    void launch(PtxKernel kernel, int[] grid, int[] block, int shared, long[] arguments) {
        if (hasBlocks(grid)) {
            submit(() -> kernels.launch(stream, kernels.own(kernel), kernel.name(), grid, block, shared, arguments));
        }
    }

    private static boolean hasBlocks(int[] grid) {
        for (int blocks : grid) {
            if (blocks == 0) {
                return false;
            }
        }
        return true;
    }

    // ---- recording; on any thread

    /// From now on work is recorded instead of executed.
    void beginCapture() {
        reserve();
        boolean begun = false;
        try {
            beginRecording();
            begun = true;
        } finally {
            if (!begun) {
                endReservation();
            }
        }
    }

    private void beginRecording() {
        call(() -> {
            // Relaxed, because memory may be allocated in between; nothing recorded depends on that.
            CudaLibraries.check("cuStreamBeginCapture", JCudaDriver.cuStreamBeginCapture(stream, CAPTURE_RELAXED));
            return true;
        });
    }

    /// Ends the recording begun by [#beginCapture], even if something failed since; the recorded work is dropped if
    /// `keep` is false or work failed.
    CUgraphExec endCapture(boolean keep) {
        try {
            return ask(() -> {
                CUgraph graph = new CUgraph();
                CUgraphExec exec = new CUgraphExec();
                int status = JCudaDriver.cuStreamEndCapture(stream, graph);
                try {
                    if (keep) {
                        throwFailure();
                        CudaLibraries.check("cuStreamEndCapture", status);
                        CudaLibraries.check("cuGraphInstantiate", JCudaDriver.cuGraphInstantiate(exec, graph, 0));
                    }
                } finally {
                    // Other failures in a dropped recording no longer matter.
                    forgetFailure();
                    if (status == CUresult.CUDA_SUCCESS) {
                        JCudaDriver.cuGraphDestroy(graph);
                    }
                }
                return exec;
            });
        } finally {
            endReservation();
        }
    }

    /// Replays recorded work.
    void launch(CUgraphExec recorded) {
        submit(() -> CudaLibraries.check("cuGraphLaunch", JCudaDriver.cuGraphLaunch(recorded, stream)));
    }

    /// The number of launches, products, copies and replays submitted to the driver.
    long submissions() {
        return call(() -> submissions);
    }
}
