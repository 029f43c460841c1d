package dev.loran.kernels.cuda;

import dev.loran.engine.BackendException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.charset.StandardCharsets;
import java.util.Objects;
import java.util.concurrent.ArrayBlockingQueue;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.function.Supplier;
import jcuda.Pointer;
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
import org.jspecify.annotations.Nullable;

/// One GPU: a platform thread that owns its context, one stream, a cuBLAS handle, the loaded kernels.
///
/// Work is handed to that thread and done in the order it was handed over; [#execute] does not wait for it. An error of
/// such work is thrown by a later call, at the latest by [#synchronize].
///
/// A hollow one has no thread and no GPU: it lets work fall, and gives addresses of memory that is not there.
final class CudaDevice implements AutoCloseable {
    private static final int MIN_DRIVER = 12000;
    private static final int MIN_CAPABILITY = 8;
    private static final int QUEUE = 1024;

    private static final String CLOSED = "cuda: the backend is closed";
    private static final int HOST_ALLOC_DEVICE_MAP = 2;
    private static final int CAPTURE_RELAXED = 2;

    /// A launch or a copy.
    interface Work {
        void run();
    }

    /// An address that JCuda takes as a pointer.
    static final class Address extends Pointer {
        Address(long address) {
            super(address);
        }

        long value() {
            return getNativePointer() + getByteOffset();
        }
    }

    private final Arena arena = Arena.ofShared();
    private final BlockingQueue<Work> queue = new ArrayBlockingQueue<>(QUEUE);
    /// Null where this is hollow.
    private final @Nullable Thread owner;

    private long nextAddress = 1;
    private volatile @Nullable RuntimeException failure;
    private volatile boolean closed;

    private final CUdevice device = new CUdevice();
    private final CUcontext context = new CUcontext();
    private final CUstream stream = new CUstream();
    private final CudaKernels kernels = new CudaKernels(arena);
    private final CublasProducts products = new CublasProducts(this);
    private final CudaStaging staging = new CudaStaging(this);
    private String name = "";
    /// The thread that records a step; null for none. It changes under [#handover].
    private volatile @Nullable Thread capturer;

    /// Held while work is put into the queue: none of another thread's comes between those of a step being recorded.
    private final Object handover = new Object();

    private long submissions;

    /// Where kernels say what was wrong with their arguments: `Complaint` of common.cuh.
    private MemorySegment complaint = MemorySegment.NULL;

    private long complaintAddress;

    /// GPU `ordinal` of the loaded driver.
    ///
    /// @throws BackendException saying why it cannot be used
    CudaDevice(int ordinal) {
        owner = Thread.ofPlatform().name("loran-cuda-" + ordinal).daemon().start(this::work);
        try {
            call(() -> {
                open(ordinal);
                return true;
            });
        } catch (BackendException e) {
            stop();
            throw e;
        }
    }

    private CudaDevice() {
        owner = null;
    }

    static CudaDevice hollow() {
        return new CudaDevice();
    }

    boolean isHollow() {
        return owner == null;
    }

    // ---- the owner thread

    private void work() {
        while (!closed) {
            try {
                queue.take().run();
            } catch (RuntimeException e) {
                if (failure == null) {
                    failure = e;
                }
            } catch (InterruptedException e) {
                // Nobody interrupts this thread but to end it.
                return;
            }
        }
    }

    /// Hands `work` over and goes on.
    ///
    /// @throws BackendException if earlier work failed
    void execute(Work work) {
        throwFailure();
        if (closed) {
            throw new BackendException(CLOSED);
        }
        if (!isHollow()) {
            put(work);
        }
    }

    /// As [#execute], for work that the driver is handed.
    void submit(Work work) {
        execute(() -> {
            submissions++;
            work.run();
        });
    }

    /// Whoever interrupts the caller does not mean the device: half of a step would be handed over.
    private void put(Work work) {
        synchronized (handover) {
            refuseBesideCapture();
            boolean interrupted = false;
            while (true) {
                try {
                    queue.put(work);
                    break;
                } catch (InterruptedException e) {
                    interrupted = true;
                }
            }
            if (interrupted) {
                Thread.currentThread().interrupt();
            }
        }
    }

    /// Only the thread that records a step may hand over work, or ask for memory, until it is recorded.
    void refuseBesideCapture() {
        Thread by = capturer;
        if (by != null && by != Thread.currentThread()) {
            throw new BackendException("cuda: thread " + by.getName()
                    + " is recording a training step; no other thread may" + " use this backend meanwhile");
        }
    }

    /// Hands `work` over and waits for its result.
    ///
    /// @throws BackendException if earlier work failed
    <T> T call(Supplier<T> work) {
        throwFailure();
        return ask(work);
    }

    /// As [#call], whatever failed before.
    private <T> T ask(Supplier<T> work) {
        if (isHollow()) {
            return work.get();
        }
        if (closed) {
            throw new BackendException(CLOSED);
        }
        CompletableFuture<T> result = new CompletableFuture<>();
        put(() -> {
            try {
                result.complete(work.get());
            } catch (RuntimeException e) {
                result.completeExceptionally(e);
            }
        });
        try {
            return result.join();
        } catch (CompletionException e) {
            if (e.getCause() instanceof RuntimeException cause) {
                throw new BackendException(String.valueOf(cause.getMessage()), cause);
            }
            throw e;
        }
    }

    private void throwFailure() {
        RuntimeException f = failure;
        if (f != null) {
            failure = null;
            throw new BackendException(String.valueOf(f.getMessage()), f);
        }
    }

    static void check(String function, int status) {
        if (status != CUresult.CUDA_SUCCESS) {
            String[] name = new String[1];
            JCudaDriver.cuGetErrorName(status, name);
            throw new BackendException("cuda: " + function + " failed: " + name[0] + " (" + status + ")");
        }
    }

    // ---- opening and closing

    private void open(int ordinal) {
        checkInit(JCudaDriver.cuInit(0));
        int[] number = new int[1];
        check("cuDriverGetVersion", JCudaDriver.cuDriverGetVersion(number));
        if (number[0] < MIN_DRIVER) {
            throw new BackendException("cuda: the driver supports CUDA " + number[0] / 1000 + "."
                    + number[0] % 1000 / 10 + ", needs 12.0; install driver 525 or newer");
        }
        check("cuDeviceGet", JCudaDriver.cuDeviceGet(device, ordinal));
        byte[] text = new byte[256];
        check("cuDeviceGetName", JCudaDriver.cuDeviceGetName(text, text.length, device));
        name = new String(text, StandardCharsets.UTF_8).split("\0", 2)[0];
        int capability = attribute(CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
        if (capability < MIN_CAPABILITY) {
            throw new BackendException(
                    "cuda: " + name + " has compute capability " + capability + ".x, needs 8.0 (Ampere) or newer");
        }
        check("cuDevicePrimaryCtxRetain", JCudaDriver.cuDevicePrimaryCtxRetain(context, device));
        check("cuCtxSetCurrent", JCudaDriver.cuCtxSetCurrent(context));
        check("cuStreamCreate", JCudaDriver.cuStreamCreate(stream, CUstream_flags.CU_STREAM_NON_BLOCKING));
        // What NVIDIA recommends for Hopper and newer, and before.
        products.open(stream, (capability >= 9 ? 32L : 4L) << 20);
        complaint = pinned(64).fill((byte) 0);
        CUdeviceptr seen = new CUdeviceptr();
        check(
                "cuMemHostGetDevicePointer",
                JCudaDriver.cuMemHostGetDevicePointer(seen, new Address(complaint.address()), 0));
        complaintAddress = address(seen);
        staging.open();
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
            default -> check("cuInit", status);
        }
    }

    private int attribute(int which) {
        int[] value = new int[1];
        check("cuDeviceGetAttribute", JCudaDriver.cuDeviceGetAttribute(value, which, device));
        return value[0];
    }

    CublasProducts products() {
        return products;
    }

    CudaStaging staging() {
        return staging;
    }

    /// The device's name, as the driver gives it.
    String name() {
        return name;
    }

    /// Waits for all work, gives everything back and ends the thread.
    @Override
    public void close() {
        if (closed) {
            return;
        }
        if (isHollow()) {
            closed = true;
            arena.close();
            return;
        }
        try {
            call(() -> {
                JCudaDriver.cuStreamSynchronize(stream);
                products.close();
                kernels.unload();
                unpin(complaint);
                staging.close();
                JCudaDriver.cuStreamDestroy(stream);
                JCudaDriver.cuDevicePrimaryCtxRelease(device);
                return true;
            });
        } finally {
            stop();
        }
    }

    private void stop() {
        closed = true;
        // The thread may wait for work.
        put(() -> {});
        boolean interrupted = false;
        while (Objects.requireNonNull(owner).isAlive()) {
            try {
                owner.join();
            } catch (InterruptedException e) {
                interrupted = true;
            }
        }
        if (interrupted) {
            Thread.currentThread().interrupt();
        }
        arena.close();
    }

    // ---- memory; on the owner thread

    /// `bytes` bytes of device memory; 0 if there are not so many.
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
        check("cuMemAlloc", status);
        return address(p);
    }

    void free(long address) {
        check("cuMemFree", JCudaDriver.cuMemFree(pointer(address)));
    }

    /// Bytes free, and bytes in all.
    long[] memory() {
        long[] free = new long[1];
        long[] total = new long[1];
        check("cuMemGetInfo", JCudaDriver.cuMemGetInfo(free, total));
        return new long[] {free[0], total[0]};
    }

    static CUdeviceptr pointer(long address) {
        return new CUdeviceptr().withByteOffset(address);
    }

    private static long address(CUdeviceptr p) {
        return new Copy(p).value();
    }

    /// Reads what a device pointer keeps to itself and its subclasses.
    private static final class Copy extends CUdeviceptr {
        Copy(CUdeviceptr p) {
            super(p);
        }

        long value() {
            return getNativePointer() + getByteOffset();
        }
    }

    /// Page-locked memory, which the device copies from and to by itself.
    @SuppressWarnings("restricted")
    MemorySegment pinned(long bytes) {
        Address p = new Address(0);
        check("cuMemHostAlloc", JCudaDriver.cuMemHostAlloc(p, bytes, HOST_ALLOC_DEVICE_MAP));
        return MemorySegment.ofAddress(p.value()).reinterpret(bytes);
    }

    void unpin(MemorySegment pinned) {
        JCudaDriver.cuMemFreeHost(new Address(pinned.address()));
    }

    /// An event after all work handed over so far, for [#await(CUevent)].
    void record(CUevent event) {
        check("cuEventRecord", JCudaDriver.cuEventRecord(event, stream));
    }

    static CUevent event(boolean timing) {
        CUevent event = new CUevent();
        check(
                "cuEventCreate",
                JCudaDriver.cuEventCreate(
                        event, timing ? CUevent_flags.CU_EVENT_DEFAULT : CUevent_flags.CU_EVENT_DISABLE_TIMING));
        return event;
    }

    static void await(CUevent event) {
        check("cuEventSynchronize", JCudaDriver.cuEventSynchronize(event));
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
            check("cuEventElapsedTime", JCudaDriver.cuEventElapsedTime(elapsed, begin, end));
            JCudaDriver.cuEventDestroy(begin);
            JCudaDriver.cuEventDestroy(end);
        });
        return elapsed[0];
    }

    /// Waits until the device has done all that it was handed.
    void finish() {
        check("cuStreamSynchronize", JCudaDriver.cuStreamSynchronize(stream));
    }

    void copyToDevice(long address, MemorySegment host) {
        submissions++;
        check(
                "cuMemcpyHtoDAsync",
                JCudaDriver.cuMemcpyHtoDAsync(pointer(address), new Address(host.address()), host.byteSize(), stream));
    }

    void copyToHost(MemorySegment host, long address) {
        submissions++;
        check(
                "cuMemcpyDtoHAsync",
                JCudaDriver.cuMemcpyDtoHAsync(new Address(host.address()), pointer(address), host.byteSize(), stream));
    }

    // ---- copies; on any thread

    /// Copies within the device.
    void copy(long to, long from, long bytes) {
        if (bytes > 0) {
            submit(() -> check(
                    "cuMemcpyDtoDAsync", JCudaDriver.cuMemcpyDtoDAsync(pointer(to), pointer(from), bytes, stream)));
        }
    }

    /// Waits for all work handed over before.
    ///
    /// @throws BackendException if any of it failed, or a kernel complained about its arguments
    void synchronize() {
        await(this::finish);
    }

    /// Does `work`, which waits for work handed over before.
    ///
    /// @throws BackendException if any of that failed, or a kernel complained about its arguments
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

    void refuseWhileCapturing() {
        if (isCapturing()) {
            throw new BackendException("cuda: a step that is being recorded reads nothing; read before or after it");
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

    /// Address of the `Complaint` that kernels write to.
    long complaint() {
        return complaintAddress;
    }

    // ---- launches; on any thread

    /// Launches kernel `name` of `file` on `grid` blocks of `block` threads, each up to three numbers. Arguments are
    /// addresses, integers, or floats by [CudaKernels#bits]; a struct comes last, its words in order ([CudaKernels#words]).
    void launch(String file, String name, int[] grid, int[] block, long... arguments) {
        launchShared(file, name, grid, block, 0, arguments);
    }

    /// As [#launch], with `shared` bytes of shared memory a block.
    void launchShared(String file, String name, int[] grid, int[] block, int shared, long[] arguments) {
        for (int blocks : grid) {
            if (blocks == 0) {
                return;
            }
        }
        submit(() -> kernels.launch(stream, file, name, grid, block, shared, arguments));
    }

    // ---- recording; on any thread

    /// From here on work is recorded, and not done.
    void beginCapture() {
        synchronized (handover) {
            refuseBesideCapture();
            capturer = Thread.currentThread();
        }
        boolean begun = false;
        try {
            beginRecording();
            begun = true;
        } finally {
            if (!begun) {
                capturer = null;
            }
        }
    }

    private void beginRecording() {
        call(() -> {
            // Relaxed, for memory may be asked for in between; nothing recorded waits for it.
            check("cuStreamBeginCapture", JCudaDriver.cuStreamBeginCapture(stream, CAPTURE_RELAXED));
            return true;
        });
    }

    boolean isCapturing() {
        return capturer != null;
    }

    /// Ends what [#beginCapture] began, whatever failed since; without `keep`, and where work failed, what was recorded is
    /// dropped.
    CUgraphExec endCapture(boolean keep) {
        try {
            return ask(() -> {
                CUgraph graph = new CUgraph();
                CUgraphExec exec = new CUgraphExec();
                int status = JCudaDriver.cuStreamEndCapture(stream, graph);
                try {
                    if (keep) {
                        throwFailure();
                        check("cuStreamEndCapture", status);
                        check("cuGraphInstantiate", JCudaDriver.cuGraphInstantiate(exec, graph, 0));
                    }
                } finally {
                    // What else failed in a recording that is dropped is of no interest any more.
                    failure = null;
                    if (status == CUresult.CUDA_SUCCESS) {
                        JCudaDriver.cuGraphDestroy(graph);
                    }
                }
                return exec;
            });
        } finally {
            capturer = null;
        }
    }

    /// Does again what was recorded.
    void launch(CUgraphExec recorded) {
        submit(() -> check("cuGraphLaunch", JCudaDriver.cuGraphLaunch(recorded, stream)));
    }

    boolean isClosed() {
        return closed;
    }

    /// How often the driver was handed a launch, a product, a copy or recorded work.
    long submissions() {
        return call(() -> submissions);
    }
}
