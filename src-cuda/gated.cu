// Elementwise y = f(gate) * up (Shazeer, "GLU Variants Improve Transformer", 2020, equation 6), and both gradients in
// one pass.
#include "functions.cuh"

template <class T>
__device__ inline void gated(T *y, const T *gate, const T *up, long long n, int fn) {
    map4(y, gate, up, n, false, [fn](Four g, Four u) {
        Four f = apply4(fn, g);
        for (int k = 0; k < 4; k++) f.v[k] *= u.v[k];
        return f;
    });
}

// dGate <- dy * up * f'(gate) and dUp <- dy * f(gate) (or +=); either may be null.
template <class T>
__device__ inline void gated_backward(T *dGate, T *dUp, const T *dy, const T *gate, const T *up, long long n, int fn,
                                      int accumulateGate, int accumulateUp) {
    constexpr int P = Pack<T>::SIZE;
    for (long long i = flat_thread() * P; i < n; i += flat_threads() * P) {
        int left = (int)min(n - i, (long long)P);
        Few<T> d = take(dy + i, left), g = take(gate + i, left), u = take(up + i, left);
#pragma unroll
        for (int j = 0; j < P; j += 4) {
            Four x;
            for (int k = 0; k < 4; k++) x.v[k] = g.v[j + k];
            Four f = apply4(fn, x), slope = derivative4(fn, x);
            for (int k = 0; k < 4; k++) {
                u.v[j + k] *= d.v[j + k] * slope.v[k];
                d.v[j + k] *= f.v[k];
            }
        }
        if (dGate) give(dGate + i, u, left, accumulateGate);
        if (dUp) give(dUp + i, d, left, accumulateUp);
    }
}

#define KERNELS(S, T) \
    extern "C" __global__ void gated_##S(T *y, const T *gate, const T *up, long long n, int fn) { \
        gated(y, gate, up, n, fn); \
    } \
    extern "C" __global__ void gated_backward_##S(T *dGate, T *dUp, const T *dy, const T *gate, const T *up, long long n, \
                                                  int fn, int accumulateGate, int accumulateUp) { \
        gated_backward(dGate, dUp, dy, gate, up, n, fn, accumulateGate, accumulateUp); \
    }
FLOATING(KERNELS)
