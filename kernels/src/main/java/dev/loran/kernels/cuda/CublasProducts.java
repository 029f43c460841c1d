package dev.loran.kernels.cuda;

import dev.loran.engine.backend.Backend;
import dev.loran.engine.backend.BackendException;
import dev.loran.engine.backend.Buffer;
import dev.loran.engine.backend.DType;
import dev.loran.engine.backend.Matrix;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import jcuda.cudaDataType;
import jcuda.driver.JCudaDriver;
import jcuda.jcublas.JCublas2;
import jcuda.jcublas.cublasComputeType;
import jcuda.jcublas.cublasHandle;
import jcuda.jcublas.cublasStatus;
import jcuda.runtime.cudaStream_t;

/// Matrix products on one device through cuBLAS; sums are accumulated in F32 for all operand types.
///
/// cuBLAS is column-major: a row-major C = op(A) · op(B) is computed as Cᵀ = op(B)ᵀ · op(A)ᵀ, with the operands
/// swapped.
final class CublasProducts {
    private static final int DEFAULT_ALGORITHM = -1;

    private final CudaDevice device;
    private final cublasHandle handle = new cublasHandle();
    private final MemorySegment scalars = Arena.ofAuto().allocate(8, 8);
    private volatile int f32Compute = cublasComputeType.CUBLAS_COMPUTE_32F;

    /// Workspace memory for products.
    private long workspace;

    /// Opens a handle on the device's stream, with its own workspace, because cuBLAS must not request memory from the
    /// driver while a step is recorded.
    CublasProducts(CudaDevice device) {
        this.device = device;
        if (!device.isHollow()) {
            device.call(this::open);
        }
    }

    private boolean open() {
        check("cublasCreate", JCublas2.cublasCreate(handle));
        check("cublasSetStream", JCublas2.cublasSetStream(handle, new cudaStream_t(device.stream())));
        // The sizes that NVIDIA recommends for Hopper and newer, and for older devices.
        long bytes = (device.capability() >= 9 ? 32L : 4L) << 20;
        workspace = device.allocate(bytes);
        if (workspace == 0) {
            throw new BackendException("cuda: no memory for the " + bytes
                    + " bytes that cuBLAS works in; other processes hold the device's");
        }
        check("cublasSetWorkspace", JCublas2.cublasSetWorkspace(handle, new CudaLibraries.Address(workspace), bytes));
        return true;
    }

    /// Waits for all earlier work and releases the handle.
    void close() {
        if (!device.isHollow()) {
            device.call(() -> {
                device.finish();
                JCublas2.cublasDestroy(handle);
                JCudaDriver.cuMemFree(CudaDevice.pointer(workspace));
                return true;
            });
        }
    }

    private static void check(String function, int status) {
        if (status != 0) {
            throw new BackendException(
                    "cuda: " + function + " failed: " + cublasStatus.stringFor(status) + " (" + status + ")");
        }
    }

    /// Sets whether F32 products may round their operands to TF32.
    void allowTf32(boolean allowed) {
        f32Compute = allowed ? cublasComputeType.CUBLAS_COMPUTE_32F_FAST_TF32 : cublasComputeType.CUBLAS_COMPUTE_32F;
    }

    /// [Backend#gemm]; `c` may be F32 even if `a` and `b` are narrower.
    void gemm(CudaContext cuda, Matrix c, Matrix a, Matrix b, int batch, double alpha, double beta) {
        Matrix.check(c, a, b);
        DType t = CudaContext.floating(a.buffer());
        DType typeC = c.buffer().dtype() == DType.F32 ? DType.F32 : t;
        long ac = cuda.address(c.buffer(), typeC);
        long aa = cuda.address(a.buffer());
        long ab = cuda.address(b.buffer(), t);
        if (c.rows() == 0 || c.cols() == 0 || batch == 0) {
            return;
        }
        if (a.cols() == 0) {
            scaleRows(cuda.backend(), c, batch, beta);
            return;
        }
        Operand left = new Operand(ab, number(t), b.ld(), b.stride(), b.transposed());
        Operand right = new Operand(aa, number(t), a.ld(), a.stride(), a.transposed());
        Operand to = new Operand(ac, number(typeC), c.ld(), c.stride(), false);
        int[] sizes = {c.cols(), c.rows(), a.cols()};
        int compute = t == DType.F32 ? f32Compute : cublasComputeType.CUBLAS_COMPUTE_32F;
        device.submit(() -> submit(to, left, right, sizes, batch, alpha, beta, compute));
    }

    /// A product with inner dimension 0: c ← beta · c.
    private static void scaleRows(Backend backend, Matrix c, int batch, double beta) {
        for (int i = 0; i < batch * c.rows(); i++) {
            Buffer row = c.buffer().slice(i / c.rows() * c.stride() + (long) (i % c.rows()) * c.ld(), c.cols());
            if (beta == 0) {
                backend.fill(row, 0);
            } else {
                backend.axpby(row, row, beta, 0);
            }
        }
    }

    /// A matrix in cuBLAS's representation.
    private record Operand(long address, int type, int ld, long stride, boolean transposed) {
        CudaLibraries.Address pointer() {
            return new CudaLibraries.Address(address);
        }

        int op() {
            return transposed ? 1 : 0;
        }
    }

    /// `batch` products of column-major matrices, with cuBLAS's argument order.
    private void submit(
            Operand c, Operand a, Operand b, int[] sizes, int batch, double alpha, double beta, int compute) {
        scalars.set(ValueLayout.JAVA_FLOAT, 0, (float) alpha);
        scalars.set(ValueLayout.JAVA_FLOAT, 4, (float) beta);
        // The variants without _new interpret the compute type as a data type, and reject some values without an
        // exception.
        check(
                "cublasGemmStridedBatchedEx",
                JCublas2.cublasGemmStridedBatchedEx_new(
                        handle,
                        a.op(),
                        b.op(),
                        sizes[0],
                        sizes[1],
                        sizes[2],
                        new CudaLibraries.Address(scalars.address()),
                        a.pointer(),
                        a.type,
                        a.ld,
                        a.stride,
                        b.pointer(),
                        b.type,
                        b.ld,
                        b.stride,
                        new CudaLibraries.Address(scalars.address() + 4),
                        c.pointer(),
                        c.type,
                        c.ld,
                        c.stride,
                        batch,
                        compute,
                        DEFAULT_ALGORITHM));
    }

    /// CUDA's constant for a type.
    private static int number(DType dtype) {
        return switch (dtype) {
            case F32 -> cudaDataType.CUDA_R_32F;
            case BF16 -> cudaDataType.CUDA_R_16BF;
            default -> cudaDataType.CUDA_R_16F;
        };
    }
}
