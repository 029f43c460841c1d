// Rotary position embedding in Llama's rotate-half layout (Su et al., "RoFormer", 2021, equation 34). Backward turns the
// other way: sign -1.
#include "common.cuh"

// x and y (batch, t, heads, d), cos and sin (t, d / 2); a thread turns a pair. y may be x.
template <class T>
__device__ inline void rope(T *y, const T *x, const T *cos, const T *sin, long long pairs, int t, int heads, int half,
                            int sign) {
    for (long long i = flat_thread(); i < pairs; i += flat_threads()) {
        int j = i % half;
        long long row = i / half;
        int position = row / heads % t;
        long long first = row * 2 * half + j, second = first + half;
        float c = widen(cos[position * half + j]), s = sign * widen(sin[position * half + j]);
        float x1 = widen(x[first]), x2 = widen(x[second]);
        narrow(y[first], x1 * c - x2 * s);
        narrow(y[second], x2 * c + x1 * s);
    }
}

#define KERNELS(S, T) \
    extern "C" __global__ void rope_##S(T *y, const T *x, const T *cos, const T *sin, long long pairs, int t, int heads, \
                                        int half, int sign) { \
        rope(y, x, cos, sin, pairs, t, heads, half, sign); \
    }
FLOATING(KERNELS)
