// Sums along a dimension, of elements or of products; row maxima; counts.
#include "common.cuh"

// The terms of a sum: the elements of x, or the products of those of a and b, by their position in memory.
template <class T>
struct Elements {
    const T *x;
    __device__ float operator()(long long i) const { return widen(x[i]); }
};
template <class T>
struct Products {
    const T *a, *b;
    __device__ float operator()(long long i) const { return widen(a[i]) * widen(b[i]); }
};

// y (outer) <- sums of the rows of x (outer, n) (or +=): one block per row.
template <class T, class X>
__device__ inline void sum_rows(T *y, X x, int n, int accumulate) {
    long long row = (long long)blockIdx.x * n;
    float sum = 0;
    for (int j = threadIdx.x; j < n; j += blockDim.x) sum += x(row + j);
    sum = block_reduce(sum, Add());
    if (threadIdx.x == 0) put(y[blockIdx.x], sum, accumulate);
}

// y (outer, parts, inner) <- sums over n of x (outer, n, inner), where n is split into `parts` for the blocks to share:
// 32 columns and 8 rows of threads per block, one block per part (grid.y) and outer index (grid.x, together with the
// columns, as it may be large). With one part, y is the result (or +=).
constexpr int ROWS = 8;

template <class Y, class X>
__device__ inline void sum_columns(Y *y, X x, int n, int inner, int parts, int accumulate) {
    __shared__ float partial[ROWS][WARP + 1];
    int blocks = (inner + WARP - 1) / WARP;
    int column = blockIdx.x % blocks * WARP + threadIdx.x;
    int part = blockIdx.y, outer = blockIdx.x / blocks;
    int length = (n + parts - 1) / parts;
    int end = min(n, (part + 1) * length);
    float sum = 0;
    if (column < inner) {
        long long at = (long long)outer * n * inner + column;
        for (int j = part * length + threadIdx.y; j < end; j += ROWS) sum += x(at + (long long)j * inner);
    }
    partial[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < inner) {
        for (int i = 1; i < ROWS; i++) sum += partial[i][threadIdx.x];
        put(y[((long long)outer * parts + part) * inner + column], sum, accumulate);
    }
}

// y (rows) <- the largest element of each row of x (rows, cols); NaN if the row has one.
template <class T>
__device__ inline void row_max(T *y, const T *x, int cols) {
    const T *row = x + (long long)blockIdx.x * cols;
    float max = -INFINITY;
    for (int j = threadIdx.x; j < cols; j += blockDim.x) max = Max()(widen(row[j]), max);
    max = block_reduce(max, Max());
    if (threadIdx.x == 0) narrow(y[blockIdx.x], max);
}

// y (1) <- the number of ids (n) that are not `ignore`.
template <class T>
__device__ inline void count_valid(T *y, const int *ids, int n, int ignore) {
    int count = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) count += ids[i] != ignore;
    float sum = block_reduce((float)count, Add());
    if (threadIdx.x == 0) narrow(y[0], sum);
}

// y (1) <- 1 / max(1, the number of ids (n) that are not `ignore`).
template <class T>
__device__ inline void inverse_of_valid(T *y, const int *ids, int n, int ignore) {
    int count = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) count += ids[i] != ignore;
    float sum = block_reduce((float)count, Add());
    if (threadIdx.x == 0) narrow(y[0], 1 / fmaxf(1, sum));
}

#define KERNELS(S, T) \
    extern "C" __global__ void sum_rows_##S(T *y, const T *x, int n, int accumulate) { \
        sum_rows(y, Elements<T>{x}, n, accumulate); \
    } \
    extern "C" __global__ void sum_columns_##S(T *y, const T *x, int n, int inner, int accumulate) { \
        sum_columns(y, Elements<T>{x}, n, inner, 1, accumulate); \
    } \
    extern "C" __global__ void sum_parts_##S(float *y, const T *x, int n, int inner, int parts) { \
        sum_columns(y, Elements<T>{x}, n, inner, parts, 0); \
    } \
    extern "C" __global__ void sum_of_parts_##S(T *y, const float *x, int n, int inner, int accumulate) { \
        sum_columns(y, Elements<float>{x}, n, inner, 1, accumulate); \
    } \
    extern "C" __global__ void product_rows_##S(T *y, const T *a, const T *b, int n, int accumulate) { \
        sum_rows(y, Products<T>{a, b}, n, accumulate); \
    } \
    extern "C" __global__ void product_columns_##S(T *y, const T *a, const T *b, int n, int inner, int accumulate) { \
        sum_columns(y, Products<T>{a, b}, n, inner, 1, accumulate); \
    } \
    extern "C" __global__ void product_parts_##S(float *y, const T *a, const T *b, int n, int inner, int parts) { \
        sum_columns(y, Products<T>{a, b}, n, inner, parts, 0); \
    } \
    extern "C" __global__ void row_max_##S(T *y, const T *x, int cols) { row_max(y, x, cols); } \
    extern "C" __global__ void count_valid_##S(T *y, const int *ids, int n, int ignore) { \
        count_valid(y, ids, n, ignore); \
    } \
    extern "C" __global__ void inverse_of_valid_##S(T *y, const int *ids, int n, int ignore) { \
        inverse_of_valid(y, ids, n, ignore); \
    }
FLOATING(KERNELS)
