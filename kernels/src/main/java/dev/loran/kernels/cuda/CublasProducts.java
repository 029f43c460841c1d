package dev.loran.kernels.cuda;

import dev.loran.engine.BackendException;
import dev.loran.engine.Buffer;
import dev.loran.engine.DType;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import jcuda.cudaDataType;
import jcuda.driver.CUstream;
import jcuda.driver.JCudaDriver;
import jcuda.jcublas.JCublas2;
import jcuda.jcublas.cublasComputeType;
import jcuda.jcublas.cublasHandle;
import jcuda.jcublas.cublasStatus;
import jcuda.runtime.cudaStream_t;

/// Products of matrices on one device, by cuBLAS; sums are in F32 whatever the operands are.
///
/// cuBLAS counts columns first: to it a row-major C = op(A) · op(B) is Cᵀ = op(B)ᵀ · op(A)ᵀ, the operands in the other order.
final class CublasProducts {
    private static final int DEFAULT_ALGORITHM = -1;

    private final CudaDevice device;
    private final cublasHandle handle = new cublasHandle();
    private final MemorySegment scalars = Arena.ofAuto().allocate(8, 8);
    private volatile int f32Compute = cublasComputeType.CUBLAS_COMPUTE_32F;

    /// What products work in: cuBLAS must not ask the driver for memory while a step is recorded.
    private long workspace;

    CublasProducts(CudaDevice device) {
        this.device = device;
    }

    // ---- on the owner thread

    void open(CUstream stream, long workspaceBytes) {
        check("cublasCreate", JCublas2.cublasCreate(handle));
        check("cublasSetStream", JCublas2.cublasSetStream(handle, new cudaStream_t(stream)));
        workspace = device.allocate(workspaceBytes);
        if (workspace == 0) {
            throw new BackendException("cuda: no memory for the " + workspaceBytes
                    + " bytes that cuBLAS works in; other processes hold the device's");
        }
        check(
                "cublasSetWorkspace",
                JCublas2.cublasSetWorkspace(handle, new CudaDevice.Address(workspace), workspaceBytes));
    }

    void close() {
        JCublas2.cublasDestroy(handle);
        JCudaDriver.cuMemFree(CudaDevice.pointer(workspace));
    }

    private static void check(String function, int status) {
        if (status != 0) {
            throw new BackendException(
                    "cuda: " + function + " failed: " + cublasStatus.stringFor(status) + " (" + status + ")");
        }
    }

    // ---- on any thread

    /// Whether products of F32 may round their operands to TF32.
    void allowTf32(boolean allowed) {
        f32Compute = allowed ? cublasComputeType.CUBLAS_COMPUTE_32F_FAST_TF32 : cublasComputeType.CUBLAS_COMPUTE_32F;
    }

    /// [dev.loran.engine.Backend#gemm]; `c` may be F32 also where `a` and `b` are less.
    void gemm(
            CudaBackend cuda,
            Buffer c,
            int ldc,
            long strideC,
            Buffer a,
            int lda,
            long strideA,
            boolean transA,
            Buffer b,
            int ldb,
            long strideB,
            boolean transB,
            int batch,
            int m,
            int n,
            int k,
            double alpha,
            double beta) {
        DType t = CudaBackend.floating(a);
        DType typeC = c.dtype() == DType.F32 ? DType.F32 : t;
        long ac = cuda.address(c, typeC);
        long aa = cuda.address(a);
        long ab = cuda.address(b, t);
        if (m == 0 || n == 0 || batch == 0) {
            return;
        }
        if (k == 0) {
            scaleRows(cuda, c, ldc, strideC, batch, m, n, beta);
            return;
        }
        submit(
                transB, transA, n, m, k, alpha, ab, ldb, strideB, aa, lda, strideA, t, beta, ac, ldc, strideC, typeC,
                batch);
    }

    /// What is left of a product over nothing: C ← beta · C.
    private static void scaleRows(
            CudaBackend cuda, Buffer c, int ldc, long strideC, int batch, int m, int n, double beta) {
        for (int i = 0; i < batch * m; i++) {
            Buffer row = c.slice(i / m * strideC + (long) (i % m) * ldc, n);
            if (beta == 0) {
                cuda.fill(row, 0);
            } else {
                cuda.axpby(row, row, beta, 0);
            }
        }
    }

    /// `batch` products of column-major matrices, cuBLAS's way; `type` is that of a and b, `typeC` that of c.
    private void submit(
            boolean transA,
            boolean transB,
            int m,
            int n,
            int k,
            double alpha,
            long a,
            int lda,
            long strideA,
            long b,
            int ldb,
            long strideB,
            DType type,
            double beta,
            long c,
            int ldc,
            long strideC,
            DType typeC,
            int batch) {
        int compute = type == DType.F32 ? f32Compute : cublasComputeType.CUBLAS_COMPUTE_32F;
        device.submit(() -> {
            scalars.set(ValueLayout.JAVA_FLOAT, 0, (float) alpha);
            scalars.set(ValueLayout.JAVA_FLOAT, 4, (float) beta);
            // The forms without _new take the compute type for a data type, and refuse some without an exception.
            check(
                    "cublasGemmStridedBatchedEx",
                    JCublas2.cublasGemmStridedBatchedEx_new(
                            handle,
                            transA ? 1 : 0,
                            transB ? 1 : 0,
                            m,
                            n,
                            k,
                            new CudaDevice.Address(scalars.address()),
                            new CudaDevice.Address(a),
                            number(type),
                            lda,
                            strideA,
                            new CudaDevice.Address(b),
                            number(type),
                            ldb,
                            strideB,
                            new CudaDevice.Address(scalars.address() + 4),
                            new CudaDevice.Address(c),
                            number(typeC),
                            ldc,
                            strideC,
                            batch,
                            compute,
                            DEFAULT_ALGORITHM));
        });
    }

    /// CUDA's number of a type.
    private static int number(DType dtype) {
        return switch (dtype) {
            case F32 -> cudaDataType.CUDA_R_32F;
            case BF16 -> cudaDataType.CUDA_R_16BF;
            default -> cudaDataType.CUDA_R_16F;
        };
    }
}
