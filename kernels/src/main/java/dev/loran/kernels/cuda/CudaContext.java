package dev.loran.kernels.cuda;

import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.BackendException;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.DTypeException;
import dev.loran.engine.backend.Scratch;
import org.jspecify.annotations.Nullable;

/// What a kernel is launched with: addresses of buffers, and the device's one stream of work. The launchers of this
/// package have it, and so has an operation of your own, by [Backend#capability]:
///
/// ```java
/// CudaContext cuda = x.backend().capability(CudaContext.class);
/// if (cuda != null) {
///     long to = cuda.address(y, DType.F32);
///     cuda.launch(KERNEL, new int[] {blocks}, new int[] {256}, 0, to, cuda.address(x, DType.F32), n);
/// }
/// ```
///
/// Work is done in the order it is handed over, by any number of threads, and recorded where a step is being recorded.
public final class CudaContext {
    private final Backend backend;
    private final CudaDevice device;
    private final CudaMemory memory;

    CudaContext(Backend backend, CudaDevice device, CudaMemory memory) {
        this.backend = backend;
        this.device = device;
        this.memory = memory;
    }

    /// The backend that all this belongs to: its primitives and families.
    public Backend backend() {
        return backend;
    }

    /// Memory for the length of a block.
    public Scratch scratch() {
        return new Scratch(backend);
    }

    // ---- arguments

    /// Where `b` lies on the device.
    ///
    /// @throws BackendException if it lies elsewhere, or was released
    public long address(Buffer b) {
        if (!(b instanceof CudaBuffer c) || b.backend() != backend) {
            throw new BackendException("cuda: a buffer of " + b.size() + " elements of " + b.dtype()
                    + " lies in memory of " + b.backend().name() + ", not of this device; move it first");
        }
        if (!b.isLive()) {
            throw new BackendException("buffer: used after its last release (" + b.dtype() + ", " + b.size()
                    + " elements); keep it in a scope or retain it");
        }
        memory.use(c.block());
        return c.address();
    }

    /// As [#address(Buffer)], of a buffer that must be of `dtype`.
    ///
    /// @throws DTypeException if it is not
    public long address(Buffer b, DType dtype) {
        if (b.dtype() != dtype) {
            throw new DTypeException("cuda: a buffer of " + b.size() + " elements is " + b.dtype() + ", needs " + dtype
                    + "; cast it first");
        }
        return address(b);
    }

    /// As [#address(Buffer, DType)]; 0 for none.
    public long optional(@Nullable Buffer b, DType dtype) {
        return b == null ? 0 : address(b, dtype);
    }

    /// A float as an argument.
    public static long bits(double value) {
        return CudaKernels.bits(value);
    }

    /// The type of `b`, one that kernels compute with.
    static DType floating(Buffer b) {
        if (!b.dtype().isFloating() || b.dtype() == DType.F64) {
            throw new DTypeException("cuda: a buffer of " + b.size() + " elements is " + b.dtype()
                    + ", needs F32, BF16 or F16; cast it first");
        }
        return b.dtype();
    }

    /// Address of the `Complaint` that kernels write to.
    long complaint() {
        return device.complaint();
    }

    // ---- work

    /// Launches a kernel of your own on `grid` blocks of `block` threads, each up to three numbers, with `shared` bytes
    /// of shared memory a block; none where a number of blocks is 0. Arguments are addresses, integers, or floats by
    /// [#bits]. What goes wrong on the device is told by a later call, at the latest by [Backend#read].
    public void launch(PtxKernel kernel, int[] grid, int[] block, int shared, long... arguments) {
        device.launch(kernel, grid, block, shared, arguments);
    }

    /// Launches kernel `name` of the shipped `file`; arguments as of [#launch(PtxKernel, int[], int[], int, long...)],
    /// a struct last, its words in order ([CudaKernels#words]).
    void launch(String file, String name, int[] grid, int[] block, long... arguments) {
        device.launchShared(file, name, grid, block, 0, arguments);
    }

    /// As [#launch(String, String, int[], int[], long...)], with `shared` bytes of shared memory a block.
    void launchShared(String file, String name, int[] grid, int[] block, int shared, long[] arguments) {
        device.launchShared(file, name, grid, block, shared, arguments);
    }

    CudaDevice device() {
        return device;
    }

    /// Copies within the device.
    void copy(long to, long from, long bytes) {
        device.copy(to, from, bytes);
    }
}
