// Layer norm (Ba et al., 2016) and RMS norm (Zhang and Sennrich, 2019): one block per row. RMS norm is the case without
// a mean, where `mean` and `bias` are null.
#include "common.cuh"

// y = (x - mean) * rstd * weight + bias; mean and rstd (rows) are outputs. With a residual, x is replaced by x +
// residual, rounded to T: that is the output `sum`, whose elements each thread reads back after writing them.
template <class T>
__device__ inline void norm(T *y, T *sum, float *mean, float *rstd, const T *x, const T *residual, const T *weight,
                            const T *bias, int cols, float eps) {
    constexpr int P = Pack<T>::SIZE;
    const T *row = x + (long long)blockIdx.x * cols;
    if (residual) {
        const T *other = residual + (long long)blockIdx.x * cols;
        T *total = sum + (long long)blockIdx.x * cols;
        along_row<T>(cols, [&](int j, int left) {
            Few<T> v = take(row + j, left), r = take(other + j, left);
            for (int k = 0; k < P; k++) v.v[k] += r.v[k];
            give(total + j, v, left);
        });
        row = total;
    }
    T *to = y + (long long)blockIdx.x * cols;
    float m = 0, squares = 0;
    if (mean) {
        along_row<T>(cols, [&](int j, int left) {
            Few<T> v = take(row + j, left);
            for (int k = 0; k < P; k++) m += v.v[k];
        });
        m = block_reduce(m, Add()) / cols;
    }
    along_row<T>(cols, [&](int j, int left) {
        Few<T> v = take(row + j, left);
        for (int k = 0; k < P; k++) squares += k < left ? (v.v[k] - m) * (v.v[k] - m) : 0;
    });
    float r = 1 / sqrtf(block_reduce(squares, Add()) / cols + eps);
    if (threadIdx.x == 0) {
        if (mean) mean[blockIdx.x] = m;
        rstd[blockIdx.x] = r;
    }
    along_row<T>(cols, [&](int j, int left) {
        Few<T> v = take(row + j, left), w = take(weight + j, left), b = {};
        if (bias) b = take(bias + j, left);
        for (int k = 0; k < P; k++) v.v[k] = (v.v[k] - m) * r * w.v[k] + b.v[k];
        give(to + j, v, left);
    });
}

// With xHat = (x - mean) * rstd and g = dy * weight: dx = rstd * (g - mean(g) - xHat * mean(g * xHat)) (or +=); without
// a mean, mean(g) is omitted.
template <class T>
__device__ inline void norm_backward(T *dx, const T *dy, const T *x, const float *mean, const float *rstd,
                                     const T *weight, int cols, int accumulate) {
    constexpr int P = Pack<T>::SIZE;
    long long at = (long long)blockIdx.x * cols;
    float m = mean ? mean[blockIdx.x] : 0, r = rstd[blockIdx.x];
    float g = 0, gx = 0;
    along_row<T>(cols, [&](int j, int left) {
        Few<T> d = take(dy + at + j, left), w = take(weight + j, left), v = take(x + at + j, left);
        for (int k = 0; k < P; k++) {
            // Rounded, not fused into a sum, so that it cancels exactly below where it must.
            float dj = __fmul_rn(d.v[k], w.v[k]);
            g += dj;
            gx += dj * (v.v[k] - m) * r;
        }
    });
    g = mean ? block_reduce(g, Add()) / cols : 0;
    gx = block_reduce(gx, Add()) / cols;
    along_row<T>(cols, [&](int j, int left) {
        Few<T> d = take(dy + at + j, left), w = take(weight + j, left), v = take(x + at + j, left);
        for (int k = 0; k < P; k++) v.v[k] = r * (__fmul_rn(d.v[k], w.v[k]) - g - (v.v[k] - m) * r * gx);
        give(dx + at + j, v, left, accumulate);
    });
}

// partial (parts, cols) <- sums over a part of the rows of dy * xHat: 32 columns and 8 rows of threads per block, one
// block per part (grid.y). Their sum is dWeight.
constexpr int ROWS = 8;

template <class T>
__device__ inline void norm_backward_weight(float *partial, const T *dy, const T *x, const float *mean, const float *rstd,
                                            int rows, int cols) {
    __shared__ float sums[ROWS][WARP + 1];
    int column = blockIdx.x * WARP + threadIdx.x;
    int length = (rows + gridDim.y - 1) / gridDim.y;
    int end = min(rows, (int)(blockIdx.y + 1) * length);
    float sum = 0;
    if (column < cols) {
        for (int i = blockIdx.y * length + threadIdx.y; i < end; i += ROWS) {
            long long at = (long long)i * cols + column;
            sum += widen(dy[at]) * (widen(x[at]) - (mean ? mean[i] : 0)) * rstd[i];
        }
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < cols) {
        for (int i = 1; i < ROWS; i++) sum += sums[i][threadIdx.x];
        partial[(long long)blockIdx.y * cols + column] = sum;
    }
}

#define KERNELS(S, T) \
    extern "C" __global__ void norm_##S(T *y, T *sum, float *mean, float *rstd, const T *x, const T *residual, \
                                        const T *weight, const T *bias, int cols, float eps) { \
        norm(y, sum, mean, rstd, x, residual, weight, bias, cols, eps); \
    } \
    extern "C" __global__ void norm_backward_##S(T *dx, const T *dy, const T *x, const float *mean, const float *rstd, \
                                                 const T *weight, int cols, int accumulate) { \
        norm_backward(dx, dy, x, mean, rstd, weight, cols, accumulate); \
    } \
    extern "C" __global__ void norm_backward_weight_##S(float *partial, const T *dy, const T *x, const float *mean, \
                                                        const float *rstd, int rows, int cols) { \
        norm_backward_weight(partial, dy, x, mean, rstd, rows, cols); \
    }
FLOATING(KERNELS)
