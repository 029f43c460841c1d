// y = f(a, b) with broadcasting, and y = alpha * x + beta * y. The functions are those of BinaryFn, numbered as in
// BinaryCuda.
#include "common.cuh"

enum Fn { ADD, SUB, MUL, DIV, MAX };

__device__ inline float apply(int fn, float a, float b) {
    switch (fn) {
        case ADD: return a + b;
        case SUB: return a - b;
        case MUL: return a * b;
        case DIV: return a / b;
        // As Math.max: NaN if either is.
        default: return a != a || a > b ? a : b;
    }
}

constexpr int DIMS = 6;

// Row-major strides of y, and the strides of its source; unused leading dimensions have size 1.
struct Broadcast {
    int shape[DIMS], a[DIMS], b[DIMS];
};

// y, a and b of the same shape.
template <class T>
__device__ inline void binary(T *y, const T *a, const T *b, long long n, int fn) {
    map(y, a, b, n, false, [fn](float v, float w) { return apply(fn, v, w); });
}

template <class T>
__device__ inline void binary_broadcast(T *y, const T *a, const T *b, long long n, int fn, const Broadcast &dims) {
    for (long long i = flat_thread(); i < n; i += flat_threads()) {
        long long rest = i, ai = 0, bi = 0;
#pragma unroll
        for (int d = DIMS - 1; d >= 0; d--) {
            if (dims.shape[d] == 1) continue;
            int at = rest % dims.shape[d];
            rest /= dims.shape[d];
            ai += (long long)at * dims.a[d];
            bi += (long long)at * dims.b[d];
        }
        narrow(y[i], apply(fn, widen(a[ai]), widen(b[bi])));
    }
}

template <class T>
__device__ inline void axpby(T *y, const T *x, long long n, float alpha, float beta) {
    if (beta == 0) {
        map(y, x, x, n, false, [alpha](float v, float) { return alpha * v; });
    } else {
        map(y, x, y, n, false, [alpha, beta](float v, float old) { return alpha * v + beta * old; });
    }
}

#define KERNELS(S, T) \
    extern "C" __global__ void binary_##S(T *y, const T *a, const T *b, long long n, int fn) { \
        binary(y, a, b, n, fn); \
    } \
    extern "C" __global__ void binary_broadcast_##S(T *y, const T *a, const T *b, long long n, int fn, \
                                                    Broadcast dims) { \
        binary_broadcast(y, a, b, n, fn, dims); \
    } \
    extern "C" __global__ void axpby_##S(T *y, const T *x, long long n, float alpha, float beta) { \
        axpby(y, x, n, alpha, beta); \
    }
FLOATING(KERNELS)
