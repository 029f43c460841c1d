// Layer norm (Ba et al., 2016) and RMS norm (Zhang and Sennrich, 2019): a block a row. RMS norm is the case without a
// mean: its `mean` and `bias` are null.
#include "common.cuh"

// y = (x - mean) * rstd * weight + bias; mean and rstd (rows) are outputs.
template <class T>
__device__ inline void norm(T *y, T *mean, T *rstd, const T *x, const T *weight, const T *bias, int cols, float eps) {
    const T *row = x + (long long)blockIdx.x * cols;
    T *to = y + (long long)blockIdx.x * cols;
    float m = 0;
    if (mean) {
        for (int j = threadIdx.x; j < cols; j += blockDim.x) m += widen(row[j]);
        m = block_reduce(m, Add()) / cols;
    }
    float squares = 0;
    for (int j = threadIdx.x; j < cols; j += blockDim.x) squares += (widen(row[j]) - m) * (widen(row[j]) - m);
    float r = 1 / sqrtf(block_reduce(squares, Add()) / cols + eps);
    if (threadIdx.x == 0) {
        if (mean) narrow(mean[blockIdx.x], m);
        narrow(rstd[blockIdx.x], r);
    }
    for (int j = threadIdx.x; j < cols; j += blockDim.x) {
        float v = (widen(row[j]) - m) * r * widen(weight[j]);
        narrow(to[j], bias ? v + widen(bias[j]) : v);
    }
}

// With xHat = (x - mean) * rstd and g = dy * weight: dx = rstd * (g - mean(g) - xHat * mean(g * xHat)) (or +=); without a
// mean, mean(g) falls away.
template <class T>
__device__ inline void norm_backward(T *dx, const T *dy, const T *x, const T *mean, const T *rstd, const T *weight,
                                     int cols, int accumulate) {
    long long at = (long long)blockIdx.x * cols;
    float m = mean ? widen(mean[blockIdx.x]) : 0, r = widen(rstd[blockIdx.x]);
    float g = 0, gx = 0;
    for (int j = threadIdx.x; j < cols; j += blockDim.x) {
        // Rounded, not fused into a sum, so that it cancels exactly below where it has to.
        float dj = __fmul_rn(widen(dy[at + j]), widen(weight[j]));
        g += dj;
        gx += dj * (widen(x[at + j]) - m) * r;
    }
    g = mean ? block_reduce(g, Add()) / cols : 0;
    gx = block_reduce(gx, Add()) / cols;
    for (int j = threadIdx.x; j < cols; j += blockDim.x) {
        float dj = __fmul_rn(widen(dy[at + j]), widen(weight[j])), xHat = (widen(x[at + j]) - m) * r;
        put(dx[at + j], r * (dj - g - xHat * gx), accumulate);
    }
}

// partial (parts, cols) <- sums over a part of the rows of dy * xHat: 32 columns and 8 rows of threads a block, a block
// a part (grid.y). Their sum is dWeight.
constexpr int ROWS = 8;

template <class T>
__device__ inline void norm_backward_weight(float *partial, const T *dy, const T *x, const T *mean, const T *rstd,
                                            int rows, int cols) {
    __shared__ float sums[ROWS][WARP + 1];
    int column = blockIdx.x * WARP + threadIdx.x;
    int length = (rows + gridDim.y - 1) / gridDim.y;
    int end = min(rows, (int)(blockIdx.y + 1) * length);
    float sum = 0;
    if (column < cols) {
        for (int i = blockIdx.y * length + threadIdx.y; i < end; i += ROWS) {
            long long at = (long long)i * cols + column;
            sum += widen(dy[at]) * (widen(x[at]) - (mean ? widen(mean[i]) : 0)) * widen(rstd[i]);
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
    extern "C" __global__ void norm_##S(T *y, T *mean, T *rstd, const T *x, const T *weight, const T *bias, int cols, \
                                        float eps) { \
        norm(y, mean, rstd, x, weight, bias, cols, eps); \
    } \
    extern "C" __global__ void norm_backward_##S(T *dx, const T *dy, const T *x, const T *mean, const T *rstd, \
                                                 const T *weight, int cols, int accumulate) { \
        norm_backward(dx, dy, x, mean, rstd, weight, cols, accumulate); \
    } \
    extern "C" __global__ void norm_backward_weight_##S(float *partial, const T *dy, const T *x, const T *mean, \
                                                        const T *rstd, int rows, int cols) { \
        norm_backward_weight(partial, dy, x, mean, rstd, rows, cols); \
    }
FLOATING(KERNELS)
