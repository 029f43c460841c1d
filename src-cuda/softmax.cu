// Softmax of each row: a block a row.
#include "common.cuh"

// y = exp(x - max) / sum. y may be x: a thread writes only what it alone has read.
template <class T>
__device__ inline void softmax(T *y, const T *x, int cols) {
    long long at = (long long)blockIdx.x * cols;
    // The online softmax: a thread's maximum so far, and its sum of exp(x - maximum).
    float max = -INFINITY, sum = 0;
    for (int j = threadIdx.x; j < cols; j += blockDim.x) {
        float v = widen(x[at + j]), larger = Max()(v, max);
        sum = sum * expf(max - larger) + expf(v - larger);
        max = larger;
    }
    float top = block_reduce(max, Max());
    sum = block_reduce(sum * expf(max - top), Add());
    for (int j = threadIdx.x; j < cols; j += blockDim.x) narrow(y[at + j], expf(widen(x[at + j]) - top) / sum);
}

// dx = y * (dy - sum of dy * y) (or +=).
template <class T>
__device__ inline void softmax_backward(T *dx, const T *dy, const T *y, int cols, int accumulate) {
    long long at = (long long)blockIdx.x * cols;
    float sum = 0;
    for (int j = threadIdx.x; j < cols; j += blockDim.x) sum += widen(dy[at + j]) * widen(y[at + j]);
    sum = block_reduce(sum, Add());
    for (int j = threadIdx.x; j < cols; j += blockDim.x) {
        put(dx[at + j], widen(y[at + j]) * (widen(dy[at + j]) - sum), accumulate);
    }
}

#define KERNELS(S, T) \
    extern "C" __global__ void softmax_##S(T *y, const T *x, int cols) { softmax(y, x, cols); } \
    extern "C" __global__ void softmax_backward_##S(T *dx, const T *dy, const T *y, int cols, int accumulate) { \
        softmax_backward(dx, dy, y, cols, accumulate); \
    }
FLOATING(KERNELS)
