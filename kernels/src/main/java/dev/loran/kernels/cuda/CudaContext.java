package dev.loran.kernels.cuda;

import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.BackendException;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.DTypeException;
import dev.loran.engine.backend.Scratch;
import org.jspecify.annotations.Nullable;

/// What is needed to launch kernels: addresses of buffers, and the device's single stream of work. It is used by the
/// launchers in this package and available to user-defined operations through [Backend#capability]:
///
/// ```java
/// CudaContext cuda = x.backend().capability(CudaContext.class);
/// if (cuda != null) {
///     long to = cuda.address(y, DType.F32);
///     cuda.launch(KERNEL, new int[] {blocks}, new int[] {256}, 0, to, cuda.address(x, DType.F32), n);
/// }
/// ```
///
/// Work runs in the order of submission, from any number of threads, and is recorded while a step is being recorded.
public final class CudaContext {
    private final Backend backend;
    private final CudaDevice device;
    private final CudaMemory memory;

    CudaContext(Backend backend, CudaDevice device, CudaMemory memory) {
        this.backend = backend;
        this.device = device;
        this.memory = memory;
    }

    /// The backend that this context belongs to, with its primitives and kernel families.
    public Backend backend() {
        return backend;
    }

    /// Temporary memory for use in a try block.
    public Scratch scratch() {
        return new Scratch(backend);
    }

    // ---- arguments

    /// The address of `b` on the device.
    ///
    /// @throws BackendException if it belongs to another backend or was released
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

    /// As [#address(Buffer)], for a buffer that must be of `dtype`.
    ///
    /// @throws DTypeException if it is not
    public long address(Buffer b, DType dtype) {
        if (b.dtype() != dtype) {
            throw new DTypeException("cuda: a buffer of " + b.size() + " elements is " + b.dtype() + ", needs " + dtype
                    + "; cast it first");
        }
        return address(b);
    }

    /// As [#address(Buffer, DType)]; 0 for null.
    public long optional(@Nullable Buffer b, DType dtype) {
        return b == null ? 0 : address(b, dtype);
    }

    /// A float as a kernel argument.
    public static long bits(double value) {
        return CudaKernels.bits(value);
    }

    /// The type of `b`, which must be one that kernels can compute with.
    static DType floating(Buffer b) {
        if (!b.dtype().isFloating() || b.dtype() == DType.F64) {
            throw new DTypeException("cuda: a buffer of " + b.size() + " elements is " + b.dtype()
                    + ", needs F32, BF16 or F16; cast it first");
        }
        return b.dtype();
    }

    /// The address of the `Complaint` that kernels write to.
    long complaint() {
        return device.complaint();
    }

    // ---- work

    /// Launches a user-defined kernel on `grid` blocks of `block` threads, each given by up to three numbers, with
    /// `shared` bytes of shared memory per block; does nothing if a number of blocks is 0. Arguments are addresses,
    /// integers, or floats converted by [#bits]. Errors on the device are thrown by a later call, at the latest by
    /// [Backend#read].
    public void launch(PtxKernel kernel, int[] grid, int[] block, int shared, long... arguments) {
        device.launch(kernel, grid, block, shared, arguments);
    }

    /// Launches kernel `name` of the bundled `file`; arguments as in [#launch(PtxKernel, int[], int[], int, long...)],
    /// with a struct last, as its words in order ([CudaKernels#words]).
    void launch(String file, String name, int[] grid, int[] block, long... arguments) {
        device.launchShared(file, name, grid, block, 0, arguments);
    }

    /// As [#launch(String, String, int[], int[], long...)], with `shared` bytes of shared memory per block.
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
