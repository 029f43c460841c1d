// y = f(x) and dx = dy * f'(x), element by element.
#include "functions.cuh"

template <class T>
__device__ inline void unary(T *y, const T *x, long long n, int fn) {
    map4(y, x, x, n, false, [fn](Four v, Four) { return apply4(fn, v); });
}

template <class T>
__device__ inline void unary_backward(T *dx, const T *dy, const T *x, long long n, int fn, int accumulate) {
    map4(dx, dy, x, n, accumulate, [fn](Four g, Four v) {
        Four slope = derivative4(fn, v);
        for (int k = 0; k < 4; k++) slope.v[k] *= g.v[k];
        return slope;
    });
}

#define KERNELS(S, T) \
    extern "C" __global__ void unary_##S(T *y, const T *x, long long n, int fn) { unary(y, x, n, fn); } \
    extern "C" __global__ void unary_backward_##S(T *dx, const T *dy, const T *x, long long n, int fn, \
                                                  int accumulate) { \
        unary_backward(dx, dy, x, n, fn, accumulate); \
    }
FLOATING(KERNELS)
