// Optimizer steps, in place. Learning rate, step number and gradient scale are one-element buffers.
#include "common.cuh"

// norm <- the root of the sum of squares, scale <- min(1, maxNorm / (norm + 1e-6)): torch's clip_grad_norm_. norm may be
// sumOfSquares. One thread.
template <class T>
__device__ inline void clip_scale(T *norm, T *scale, const T *sumOfSquares, float maxNorm) {
    float root = sqrtf(widen(*sumOfSquares));
    narrow(*norm, root);
    narrow(*scale, 1 / fmaxf(1, (root + 1e-6f) / maxNorm));
}

struct AdamW {
    float beta1, beta2, logBeta1, logBeta2, eps, weightDecay;
};

// Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019, algorithm 2, in torch's form.
template <class T>
__device__ inline void adamw(T *p, T *m, T *v, const T *g, const T *lr, const int *t, const T *gScale, long long n,
                             const AdamW &a) {
    float rate = widen(*lr), scale = gScale ? widen(*gScale) : 1;
    // 1 - beta^t without the cancellation of a beta near 1.
    float correction1 = -expm1f(*t * a.logBeta1), correction2 = sqrtf(-expm1f(*t * a.logBeta2));
    for (long long i = flat_thread(); i < n; i += flat_threads()) {
        float gradient = scale * widen(g[i]);
        float mean = a.beta1 * widen(m[i]) + (1 - a.beta1) * gradient;
        float square = a.beta2 * widen(v[i]) + (1 - a.beta2) * gradient * gradient;
        narrow(m[i], mean);
        narrow(v[i], square);
        float decayed = widen(p[i]) * (1 - rate * a.weightDecay);
        narrow(p[i], decayed - rate / correction1 * mean / (sqrtf(square) / correction2 + a.eps));
    }
}

// torch's SGD; velocity may be null.
template <class T>
__device__ inline void sgd(T *p, T *velocity, const T *g, const T *lr, const T *gScale, long long n, float momentum,
                           float weightDecay) {
    float rate = widen(*lr), scale = gScale ? widen(*gScale) : 1;
    for (long long i = flat_thread(); i < n; i += flat_threads()) {
        float direction = scale * widen(g[i]) + weightDecay * widen(p[i]);
        if (velocity) {
            direction += momentum * widen(velocity[i]);
            narrow(velocity[i], direction);
        }
        narrow(p[i], widen(p[i]) - rate * direction);
    }
}

#define KERNELS(S, T) \
    extern "C" __global__ void clip_scale_##S(T *norm, T *scale, const T *sumOfSquares, float maxNorm) { \
        clip_scale(norm, scale, sumOfSquares, maxNorm); \
    } \
    extern "C" __global__ void adamw_##S(T *p, T *m, T *v, const T *g, const T *lr, const int *t, const T *gScale, \
                                         long long n, AdamW a) { \
        adamw(p, m, v, g, lr, t, gScale, n, a); \
    } \
    extern "C" __global__ void sgd_##S(T *p, T *velocity, const T *g, const T *lr, const T *gScale, long long n, \
                                       float momentum, float weightDecay) { \
        sgd(p, velocity, g, lr, gScale, n, momentum, weightDecay); \
    }
FLOATING(KERNELS)
