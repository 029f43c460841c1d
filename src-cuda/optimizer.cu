// In-place optimizer steps, and the gradient norm used for clipping. Learning rate, step number and gradient scale are
// one-element buffers. If the gradient scale is NaN, nothing is changed.
#include "common.cuh"

// The tensors of one launch, as many as fit into its 4 KB of arguments: N arrays each, where tensor i has size[i]
// elements. A block handles SHARE elements of one tensor; the blocks of tensor i start at first[i].
constexpr int TENSORS = 80;
constexpr int SHARE = 4096;

template <class T, int N>
struct Tensors {
    T *array[N][TENSORS];
    long long size[TENSORS];
    int first[TENSORS];
    int count;
};

// The tensor of this block, and its range of elements.
struct Share {
    int tensor;
    long long from, end;
};

template <class T, int N>
__device__ inline Share share(const Tensors<T, N> &all) {
    int tensor = 0;
    for (int after = all.count; after - tensor > 1;) {
        int middle = (tensor + after) / 2;
        if (all.first[middle] <= (int)blockIdx.x) {
            tensor = middle;
        } else {
            after = middle;
        }
    }
    long long from = (long long)((int)blockIdx.x - all.first[tensor]) * SHARE;
    return {tensor, from, min(from + SHARE, all.size[tensor])};
}

// partial (blocks) <- sums of squares, one per block.
template <class T>
__device__ inline void squares(float *partial, const Tensors<T, 1> &all) {
    constexpr int P = Pack<T>::SIZE;
    Share s = share(all);
    const T *x = all.array[0][s.tensor];
    float sum = 0;
    long long packed = aligned(x) ? s.from + (s.end - s.from) / P * P : s.from;
    for (long long i = s.from + (long long)threadIdx.x * P; i < packed; i += (long long)blockDim.x * P) {
        Pack<T> v = *reinterpret_cast<const Pack<T> *>(x + i);
#pragma unroll
        for (int j = 0; j < P; j++) sum += widen(v.v[j]) * widen(v.v[j]);
    }
#pragma unroll 1
    for (long long i = packed + threadIdx.x; i < s.end; i += blockDim.x) sum += widen(x[i]) * widen(x[i]);
    sum = block_reduce(sum, Add());
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// y (1) <- the sum of x (n) floats, computed by one block.
template <class T>
__device__ inline void finish(T *y, const float *x, int n) {
    float sum = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += x[i];
    sum = block_reduce(sum, Add());
    if (threadIdx.x == 0) narrow(*y, sum);
}

// norm <- the square root of the sum of squares, scale <- min(1, maxNorm / (norm + 1e-6)): torch's clip_grad_norm_.
// norm may be sumOfSquares. Runs on one thread.
template <class T>
__device__ inline void clip_scale(T *norm, T *scale, const T *sumOfSquares, float maxNorm) {
    float root = sqrtf(widen(*sumOfSquares));
    narrow(*norm, root);
    narrow(*scale, 1 / fmaxf(1, (root + 1e-6f) / maxNorm));
}

// The parameters of an AdamW step: rate, decay and betas, and the step's bias corrections.
struct AdamW {
    float beta1, beta2, eps, scale, rate, decay, root;

    // Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019, algorithm 2, in torch's form.
    template <class T>
    __device__ void step(T &p, T &m, T &v, T g) const {
        float gradient = scale * widen(g);
        float mean = beta1 * widen(m) + (1 - beta1) * gradient;
        float square = beta2 * widen(v) + (1 - beta2) * gradient * gradient;
        narrow(m, mean);
        narrow(v, square);
        narrow(p, widen(p) * decay - rate * mean / (sqrtf(square) / root + eps));
    }
};

// For each tensor p, m, v and g.
template <class T>
__device__ inline void adamw(const AdamW &a, const Tensors<T, 4> &all) {
    constexpr int P = Pack<T>::SIZE;
    Share s = share(all);
    T *p = all.array[0][s.tensor], *m = all.array[1][s.tensor], *v = all.array[2][s.tensor];
    const T *g = all.array[3][s.tensor];
    bool wide = aligned(p) && aligned(m) && aligned(v) && aligned(g);
    long long packed = wide ? s.from + (s.end - s.from) / P * P : s.from;
    for (long long i = s.from + (long long)threadIdx.x * P; i < packed; i += (long long)blockDim.x * P) {
        Pack<T> pp = *reinterpret_cast<const Pack<T> *>(p + i), pm = *reinterpret_cast<const Pack<T> *>(m + i);
        Pack<T> pv = *reinterpret_cast<const Pack<T> *>(v + i), pg = *reinterpret_cast<const Pack<T> *>(g + i);
#pragma unroll
        for (int j = 0; j < P; j++) a.step(pp.v[j], pm.v[j], pv.v[j], pg.v[j]);
        *reinterpret_cast<Pack<T> *>(p + i) = pp;
        *reinterpret_cast<Pack<T> *>(m + i) = pm;
        *reinterpret_cast<Pack<T> *>(v + i) = pv;
    }
#pragma unroll 1
    for (long long i = packed + threadIdx.x; i < s.end; i += blockDim.x) a.step(p[i], m[i], v[i], g[i]);
}

// torch's SGD; velocity may be null.
template <class T>
__device__ inline void sgd(T *p, T *velocity, const T *g, const T *lr, const T *gScale, long long n, float momentum,
                           float weightDecay) {
    float rate = widen(*lr), scale = gScale ? widen(*gScale) : 1;
    if (scale != scale) return;
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
    extern "C" __global__ void squares_##S(float *partial, Tensors<T, 1> all) { squares(partial, all); } \
    extern "C" __global__ void finish_##S(T *y, const float *x, int n) { finish(y, x, n); } \
    extern "C" __global__ void adamw_##S(const T *lr, const int *t, const T *gScale, float beta1, float beta2, \
                                         float logBeta1, float logBeta2, float eps, float weightDecay, \
                                         Tensors<T, 4> all) { \
        float rate = widen(*lr); \
        if (gScale && widen(*gScale) != widen(*gScale)) return; \
        /* 1 - beta^t without the cancellation of a beta near 1. */ \
        float correction = -expm1f(*t * logBeta1), root = sqrtf(-expm1f(*t * logBeta2)); \
        AdamW a{beta1, beta2, eps, gScale ? widen(*gScale) : 1, rate / correction, 1 - rate * weightDecay, root}; \
        adamw(a, all); \
    } \
    extern "C" __global__ void sgd_##S(T *p, T *velocity, const T *g, const T *lr, const T *gScale, long long n, \
                                       float momentum, float weightDecay) { \
        sgd(p, velocity, g, lr, gScale, n, momentum, weightDecay); \
    }
FLOATING(KERNELS)
