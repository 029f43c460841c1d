// AdaLoRA's smoothed importance of every entry (Zhang et al., 2023, equations 8 to 10), in one pass.
#include "common.cuh"

// smooth <- beta1 * smooth + (1 - beta1) * |scale * p * g|, then spread <- beta2 * spread + (1 - beta2) * |.. -
// smooth|; `scale` may be null for 1; if it is NaN both are left unchanged.
template <class T>
__device__ inline void importance(T *smooth, T *spread, const T *p, const T *g, const T *scale, long long n, float beta1,
                                  float beta2) {
    constexpr int P = Pack<T>::SIZE;
    float factor = scale ? widen(scale[0]) : 1;
    if (factor != factor) return;
    for (long long i = flat_thread() * P; i < n; i += flat_threads() * P) {
        int left = (int)min(n - i, (long long)P);
        Few<T> s = take(smooth + i, left), u = take(spread + i, left), fp = take(p + i, left), fg = take(g + i, left);
#pragma unroll
        for (int k = 0; k < P; k++) {
            float now = fabsf(fp.v[k] * fg.v[k] * factor);
            s.v[k] = beta1 * s.v[k] + (1 - beta1) * now;
            u.v[k] = beta2 * u.v[k] + (1 - beta2) * fabsf(now - s.v[k]);
        }
        give(smooth + i, s, left);
        give(spread + i, u, left);
    }
}

#define KERNELS(S, T) \
    extern "C" __global__ void importance_##S(T *smooth, T *spread, const T *p, const T *g, const T *scale, long long n, \
                                              float beta1, float beta2) { \
        importance(smooth, spread, p, g, scale, n, beta1, beta2); \
    }
FLOATING(KERNELS)
