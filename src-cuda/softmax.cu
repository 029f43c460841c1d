// Softmax of each row: one block per row.
#include "exponentials.cuh"

// y = exp(x - max) / sum. y may be x: a thread writes only elements that no other thread has read.
template <class T>
__device__ inline void softmax(T *y, const T *x, int cols) {
    constexpr int P = Pack<T>::SIZE;
    long long at = (long long)blockIdx.x * cols;
    Exponentials e = exponentials(x + at, cols);
    along_row<T>(cols, [&](int j, int left) {
        Few<T> v = take(x + at + j, left);
        for (int k = 0; k < P; k++) v.v[k] = expf(v.v[k] - e.top) / e.sum;
        give(y + at + j, v, left);
    });
}

// dx = y * (dy - sum of dy * y) (or +=).
template <class T>
__device__ inline void softmax_backward(T *dx, const T *dy, const T *y, int cols, int accumulate) {
    constexpr int P = Pack<T>::SIZE;
    long long at = (long long)blockIdx.x * cols;
    float sum = 0;
    along_row<T>(cols, [&](int j, int left) {
        Few<T> d = take(dy + at + j, left), v = take(y + at + j, left);
        for (int k = 0; k < P; k++) sum += d.v[k] * v.v[k];
    });
    sum = block_reduce(sum, Add());
    along_row<T>(cols, [&](int j, int left) {
        Few<T> d = take(dy + at + j, left), v = take(y + at + j, left);
        for (int k = 0; k < P; k++) v.v[k] *= d.v[k] - sum;
        give(dx + at + j, v, left, accumulate);
    });
}

#define KERNELS(S, T) \
    extern "C" __global__ void softmax_##S(T *y, const T *x, int cols) { softmax(y, x, cols); } \
    extern "C" __global__ void softmax_backward_##S(T *dx, const T *dy, const T *y, int cols, int accumulate) { \
        softmax_backward(dx, dy, y, cols, accumulate); \
    }
FLOATING(KERNELS)
