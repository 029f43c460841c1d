// y = x * [kept] / (1 - p). Backward applies the same function to dy: the mask is recomputed.
#include "philox.cuh"

// A thread handles adjacent elements of a row, four per Philox draw.
template <class T>
__device__ inline void dropout(T *y, const T *x, const int *step, int rows, int cols, int accumulate, const Mask &m) {
    constexpr int P = Pack<T>::SIZE;
    int groups = (cols + P - 1) / P;
    long long n = (long long)rows * groups;
    for (long long i = flat_thread(); i < n; i += flat_threads()) {
        int row = i / groups, column = i % groups * P;
        long long at = (long long)row * cols + column;
        Few<T> v = take(x + at, cols - column);
#pragma unroll
        for (int j = 0; j < P; j += 4) {
            uint4 w = words(m, *step, row, (column + j) / 4);
            unsigned word[4] = {w.x, w.y, w.z, w.w};
            for (int k = 0; k < 4; k++) v.v[j + k] = word[k] >= m.threshold ? v.v[j + k] * m.scale : 0;
        }
        give(y + at, v, cols - column, accumulate);
    }
}

#define KERNELS(S, T) \
    extern "C" __global__ void dropout_##S(T *y, const T *x, const int *step, int rows, int cols, int accumulate, \
                                           Mask m) { \
        dropout(y, x, step, rows, cols, accumulate, m); \
    }
FLOATING(KERNELS)
