// A libcublas.so.12 for tests: the products the backend asks for, in plain loops, column-major as everywhere in BLAS.
#include "emu.h"
#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim
#include "driver.h"

#include <vector>

#define API extern "C" __attribute__((visibility("default"))) int

namespace {
enum Status { SUCCESS = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum Type { F32 = 0, F16 = 2, BF16 = 14 };
enum Compute { COMPUTE_32F = 68, COMPUTE_32F_FAST_TF32 = 77 };

struct Handle {
    void *stream = nullptr;
};

float load(const void *p, int type, size_t i) {
    if (type == F32) return static_cast<const float *>(p)[i];
    return type == BF16 ? __bfloat162float(static_cast<const __nv_bfloat16 *>(p)[i])
                        : __half2float(static_cast<const __half *>(p)[i]);
}

void store(void *p, int type, size_t i, float v) {
    if (type == F32) {
        static_cast<float *>(p)[i] = v;
    } else if (type == BF16) {
        static_cast<__nv_bfloat16 *>(p)[i] = __float2bfloat16_rn(v);
    } else {
        static_cast<__half *>(p)[i] = __float2half_rn(v);
    }
}

// TF32 keeps ten bits of the fraction.
float rounded(float v, int compute) {
    if (compute != COMPUTE_32F_FAST_TF32) return v;
    return __int_as_float((__float_as_int(v) + 0x1000) & ~0x1fff);
}

size_t bytes(int type) { return type == F32 ? 4 : 2; }

// Elements from the first to the last of `columns` columns of `rows`.
size_t extent(int rows, int columns, int ld) { return columns ? size_t(columns - 1) * ld + rows : 0; }

struct Matrix {
    const void *memory;
    int type, ld;
    long long stride;
};

void multiply(bool transA, bool transB, int m, int n, int k, float alpha, Matrix a, Matrix b, float beta, void *c,
              int typeC, int ldc, long long strideC, int batch, int compute) {
    // op(A) by rows and op(B) by columns, so that the inner loop walks both one by one.
    std::vector<float> rows(size_t(m) * k), columns(size_t(k) * n);
    for (int z = 0; z < batch; z++) {
        for (int i = 0; i < m; i++) {
            for (int p = 0; p < k; p++) {
                size_t at = z * a.stride + (transA ? p + size_t(i) * a.ld : i + size_t(p) * a.ld);
                rows[size_t(i) * k + p] = rounded(load(a.memory, a.type, at), compute);
            }
        }
        for (int j = 0; j < n; j++) {
            for (int p = 0; p < k; p++) {
                size_t at = z * b.stride + (transB ? j + size_t(p) * b.ld : p + size_t(j) * b.ld);
                columns[size_t(j) * k + p] = rounded(load(b.memory, b.type, at), compute);
            }
        }
        for (int j = 0; j < n; j++) {
            for (int i = 0; i < m; i++) {
                float sum = 0;
                for (int p = 0; p < k; p++) sum += rows[size_t(i) * k + p] * columns[size_t(j) * k + p];
                size_t at = z * strideC + i + size_t(j) * ldc;
                store(c, typeC, at, beta == 0 ? alpha * sum : alpha * sum + beta * load(c, typeC, at));
            }
        }
    }
}

bool known(int type) { return type == F32 || type == F16 || type == BF16; }
}  // namespace

API cublasCreate_v2(void **handle) {
    *handle = new Handle;
    return SUCCESS;
}
API cublasDestroy_v2(void *handle) {
    delete static_cast<Handle *>(handle);
    return SUCCESS;
}
API cublasGetVersion_v2(void *, int *version) {
    *version = 120000;
    return SUCCESS;
}
API cublasSetStream_v2(void *handle, void *stream) {
    static_cast<Handle *>(handle)->stream = stream;
    return SUCCESS;
}
API cublasSetMathMode(void *, int) { return SUCCESS; }
API cublasSetWorkspace_v2(void *, void *memory, size_t bytes) {
    return emu::is_device(memory, bytes, "cublasSetWorkspace") ? SUCCESS : INVALID_VALUE;
}

API cublasGemmStridedBatchedEx(void *handle, int opA, int opB, int m, int n, int k, const void *alpha, const void *a,
                               int typeA, int lda, long long strideA, const void *b, int typeB, int ldb,
                               long long strideB, const void *beta, void *c, int typeC, int ldc, long long strideC,
                               int batch, int compute, int) {
    if (!handle) return NOT_INITIALIZED;
    if (m < 0 || n < 0 || k < 0 || batch < 0 || lda < (opA ? k : m) || ldb < (opB ? n : k) || ldc < m || lda < 1 ||
        ldb < 1 || ldc < 1) {
        return INVALID_VALUE;
    }
    if (!known(typeA) || typeA != typeB || (typeC != F32 && typeC != typeA) ||
        (compute != COMPUTE_32F && !(compute == COMPUTE_32F_FAST_TF32 && typeA == F32))) {
        return NOT_SUPPORTED;
    }
    if (m == 0 || n == 0 || batch == 0) return SUCCESS;
    size_t endA = (batch - 1) * strideA + (opA ? extent(k, m, lda) : extent(m, k, lda));
    size_t endB = (batch - 1) * strideB + (opB ? extent(n, k, ldb) : extent(k, n, ldb));
    size_t endC = (batch - 1) * strideC + extent(m, n, ldc);
    if (!emu::is_device(a, endA * bytes(typeA), "gemm, first operand") ||
        !emu::is_device(b, endB * bytes(typeB), "gemm, second operand") ||
        !emu::is_device(c, endC * bytes(typeC), "gemm, result")) {
        return INVALID_VALUE;
    }
    float by = *static_cast<const float *>(alpha), keep = *static_cast<const float *>(beta);
    emu::enqueue(static_cast<Handle *>(handle)->stream, [=] {
        multiply(opA, opB, m, n, k, by, {a, typeA, lda, strideA}, {b, typeB, ldb, strideB}, keep, c, typeC, ldc,
                 strideC, batch, compute);
    });
    return SUCCESS;
}

API cublasGemmEx(void *handle, int opA, int opB, int m, int n, int k, const void *alpha, const void *a, int typeA,
                 int lda, const void *b, int typeB, int ldb, const void *beta, void *c, int typeC, int ldc, int compute,
                 int algorithm) {
    return cublasGemmStridedBatchedEx(handle, opA, opB, m, n, k, alpha, a, typeA, lda, 0, b, typeB, ldb, 0, beta, c,
                                      typeC, ldc, 0, 1, compute, algorithm);
}
