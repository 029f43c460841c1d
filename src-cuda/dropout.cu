// y = x * [kept] / (1 - p). Backward is the same function of dy: the mask is made again.
#include "philox.cuh"

// A thread makes four neighbours of a row.
template <class T>
__device__ inline void dropout(T *y, const T *x, const int *step, int rows, int cols, int accumulate, const Mask &m) {
    int groups = (cols + 3) / 4;
    long long n = (long long)rows * groups;
    for (long long i = flat_thread(); i < n; i += flat_threads()) {
        int row = i / groups, group = i % groups;
        uint4 w = words(m, *step, row, group);
        unsigned word[4] = {w.x, w.y, w.z, w.w};
        long long at = (long long)row * cols + group * 4;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            if (group * 4 + j >= cols) break;
            put(y[at + j], word[j] >= m.threshold ? widen(x[at + j]) * m.scale : 0, accumulate);
        }
    }
}

#define KERNELS(S, T) \
    extern "C" __global__ void dropout_##S(T *y, const T *x, const int *step, int rows, int cols, int accumulate, \
                                           Mask m) { \
        dropout(y, x, step, rows, cols, accumulate, m); \
    }
FLOATING(KERNELS)
