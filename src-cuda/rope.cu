// Rotary position embedding in Llama's rotate-half layout (Su et al., "RoFormer", 2021, equation 34). Backward rotates
// the other way: sign -1.
#include "common.cuh"

// x and y (rows, d) with rows = batch * t * heads, cos and sin (t, d / 2); a thread rotates adjacent pairs. y may be x.
template <class T>
__device__ inline void rope(T *y, const T *x, const T *cos, const T *sin, long long rows, int t, int heads, int half,
                            int sign) {
    constexpr int P = Pack<T>::SIZE;
    int groups = (half + P - 1) / P;
    for (long long i = flat_thread(); i < rows * groups; i += flat_threads()) {
        int j = i % groups * P, left = half - j, position = i / groups / heads % t;
        long long first = i / groups * 2 * half + j, second = first + half, angle = (long long)position * half + j;
        Few<T> c = take(cos + angle, left), s = take(sin + angle, left), x1 = take(x + first, left),
               x2 = take(x + second, left);
        for (int k = 0; k < P; k++) {
            float v = x1.v[k];
            x1.v[k] = v * c.v[k] - x2.v[k] * sign * s.v[k];
            x2.v[k] = x2.v[k] * c.v[k] + v * sign * s.v[k];
        }
        give(y + first, x1, left);
        give(y + second, x2, left);
    }
}

#define KERNELS(S, T) \
    extern "C" __global__ void rope_##S(T *y, const T *x, const T *cos, const T *sin, long long rows, int t, int heads, \
                                        int half, int sign) { \
        rope(y, x, cos, sin, rows, t, heads, half, sign); \
    }
FLOATING(KERNELS)
