package dev.loran.kernels.cuda;

import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.BackendException;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.DTypeException;
import java.lang.foreign.MemorySegment;
import java.nio.file.Path;
import java.util.function.Supplier;

/// F32, BF16 and F16 on one NVIDIA GPU: products through cuBLAS, everything else by the kernels in `src-cuda`, which
/// the `…Cuda` classes launch. BF16 and F16 are storage types: every kernel and product computes and accumulates in
/// F32.
///
/// Operations return once they are submitted; [#read] waits for them and throws their errors, including ids or labels
/// out of range, which are not detected at the call. The same arguments give the same bits on the same kind of GPU.
///
/// Any number of threads may call operations at the same time, each on its own outputs: all of them go through one
/// stream, in order for each thread, and with the same bits. While one thread records a step ([#capture]), calls from
/// others fail. Errors are thrown to the thread that next reads or submits work, which may not be the one that caused
/// them. Closing must be the last call.
public final class CudaBackend extends CudaOperations {
    private final CudaStaging staging;
    private final String description;
    private final DType operands;

    private CudaBackend(CudaDevice device, String description, DType operands) {
        super(device);
        this.description = description;
        this.operands = operands;
        staging = new CudaStaging(device);
        products.allowTf32(operands == DType.BF16);
    }

    private static CudaBackend open(CudaLibraries libraries, int ordinal, DType operands) {
        if (operands != DType.F32 && operands != DType.BF16) {
            throw new DTypeException("cuda: operands are F32 or BF16, not " + operands);
        }
        CudaDevice device = new CudaDevice(ordinal);
        String description = device.name() + ", " + libraries.cublas().describe();
        try {
            return new CudaBackend(device, description, operands);
        } catch (BackendException e) {
            device.close();
            throw e;
        }
    }

    /// Opens GPU number `ordinal`, counted from 0, for models whose weights and activations are of type `operands`, F32
    /// or BF16 ([#storage]). With BF16, F32 products may use TF32 ([#allowTf32]).
    ///
    /// @throws BackendException saying what is missing and how to fix it
    public static CudaBackend open(int ordinal, DType operands) {
        return open(CudaLibraries.load(), ordinal, operands);
    }

    /// Opens the CPU stand-in for tests, built from `src-cuda/standin` into `folder`. It runs the same kernels without
    /// a GPU; [dev.loran.kernels.Backends] never selects it. A process that has opened it can no longer open a GPU.
    public static CudaBackend standIn(Path folder, DType operands) {
        return open(CudaLibraries.loadStandIn(folder), 0, operands);
    }

    /// {@inheritDoc}
    ///
    /// The same code on a device that does no work, so that new operations are accounted for automatically.
    @Override
    public Backend hollow() {
        return new CudaBackend(CudaDevice.hollow(), description, operands);
    }

    @Override
    public boolean isHollow() {
        return device.isHollow();
    }

    /// {@inheritDoc}
    ///
    /// The device and the cuBLAS in use.
    @Override
    public String describe() {
        return description;
    }

    /// Sets whether F32 products may round their operands to TF32 (ten fraction bits), which is several times faster;
    /// initially allowed if operands are BF16, which is coarser still.
    public void allowTf32(boolean allowed) {
        products.allowTf32(allowed);
    }

    // ---- memory

    @Override
    public String name() {
        return "cuda";
    }

    @Override
    public boolean supports(DType dtype) {
        return dtype == DType.F32 || dtype == DType.BF16 || dtype == DType.F16;
    }

    @Override
    public DType operands() {
        return operands;
    }

    @Override
    public DType storage() {
        return operands;
    }

    @Override
    public Buffer allocate(DType dtype, long size) {
        return new CudaBuffer(this, dtype, size, memory.take(size * dtype.bytes()), memory);
    }

    @Override
    public void write(Buffer dst, MemorySegment src) {
        checkBytes("write", dst, src);
        if (isHollow()) {
            return;
        }
        staging.write(cuda.address(dst), src);
    }

    @Override
    public void read(MemorySegment dst, Buffer src) {
        checkBytes("read", src, dst);
        if (isHollow()) {
            dst.fill((byte) 0);
            return;
        }
        staging.read(dst, cuda.address(src));
    }

    @Override
    public Supplier<MemorySegment> readLater(Buffer src) {
        if (isHollow()) {
            return super.readLater(src);
        }
        return staging.readLater(cuda.address(src), src.bytes());
    }

    private static void checkBytes(String op, Buffer b, MemorySegment s) {
        if (b.bytes() != s.byteSize()) {
            throw new BackendException(
                    "cuda: " + op + ": the buffer has " + b.bytes() + " bytes, the segment " + s.byteSize());
        }
    }

    @Override
    public long liveBytes() {
        return memory.liveBytes();
    }

    @Override
    public long peakBytes() {
        return memory.peakBytes();
    }

    @Override
    public void resetPeak() {
        memory.resetPeak();
    }

    /// Bytes allocated from the device: live, waiting for reuse, or lost to rounding up; constant once a step has run
    /// at its largest shape.
    public long heldBytes() {
        return memory.heldBytes();
    }

    @Override
    public long totalBytes() {
        return device.call(device::memory)[1];
    }

    /// Returns memory that waits for reuse to the device.
    public void trim() {
        memory.trim();
    }

    /// The number of submissions to the driver so far: each launch, product or copy counts as one, and so does each
    /// replay of recorded work.
    public long submissions() {
        return device.submissions();
    }

    /// Milliseconds, measured by the device, for the work that `work` submits; waits for it.
    public double milliseconds(Runnable work) {
        return device.milliseconds(work);
    }

    // ---- recorded work

    @Override
    public boolean captures() {
        return true;
    }

    /// {@inheritDoc}
    ///
    /// Recorded as a CUDA graph. Memory that `step` allocates stays reserved for recorded steps, which share it, until
    /// the last of them is closed; if memory runs out, recorded steps are dropped first.
    @Override
    public Replay capture(Runnable step) {
        if (isHollow()) {
            step.run();
            return new Replay() {
                @Override
                public boolean run() {
                    return true;
                }

                @Override
                public void close() {}
            };
        }
        return CudaGraph.of(device, memory, staging, step);
    }

    /// Waits for all work, then returns all memory to the device, including live buffers.
    @Override
    public void close() {
        memory.close();
        try {
            if (!device.isClosed()) {
                products.close();
                staging.close();
            }
        } finally {
            device.close();
        }
    }
}
