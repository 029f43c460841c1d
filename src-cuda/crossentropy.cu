// Cross-entropy of logits (n, v) with integer labels: one block per row. Forward and backward are separate, with one
// pass each, or combined for a loss whose gradient is always needed.
#include "exponentials.cuh"

// Whether the row's label counts; reports a label that is out of range.
__device__ inline bool counts(int label, Complaint *c, int v, int ignore) {
    bool valid = label >= 0 && label < v;
    if (label != ignore && !valid && threadIdx.x == 0) complain(c, LABEL_OUT_OF_RANGE, label, v);
    return label != ignore && valid;
}

// losses (n) <- lse - logit of the label, 0 where it is `ignore`; lse (n) <- log of the sum of exp of the row.
template <class T>
__device__ inline void cross_entropy(float *losses, float *lse, const T *logits, const int *labels, Complaint *c, int v,
                                     int ignore) {
    const T *row = logits + (long long)blockIdx.x * v;
    Exponentials e = exponentials(row, v);
    if (threadIdx.x == 0) {
        int label = labels[blockIdx.x];
        float logSum = e.top + logf(e.sum);
        lse[blockIdx.x] = logSum;
        losses[blockIdx.x] = counts(label, c, v, ignore) ? logSum - widen(row[label]) : 0;
    }
}

template <class T>
__device__ inline void give_slopes(T *to, Few<T> slopes, int left, bool accumulate) {
    give(to, slopes, left, accumulate);
}

// Stores the gradient of F32 logits in a type of half the size.
template <class G>
__device__ inline void give_half(G *to, Few<float> slopes, int left) {
    struct __align__(8) Half {
        G v[4];
    } half;
    for (int k = 0; k < 4; k++) narrow(half.v[k], slopes.v[k]);
    if (left >= 4 && reinterpret_cast<unsigned long long>(to) % 8 == 0) {
        *reinterpret_cast<Half *>(to) = half;
    } else {
        for (int k = 0; k < 4; k++) {
            if (k < left) to[k] = half.v[k];
        }
    }
}

__device__ inline void give_slopes(__nv_bfloat16 *to, Few<float> slopes, int left, bool) { give_half(to, slopes, left); }
__device__ inline void give_slopes(__half *to, Few<float> slopes, int left, bool) { give_half(to, slopes, left); }

// A row of dLogits <- g * (exp(logits - logSum) - [column is the label]), or zeros if the label is not valid (or +=).
template <class G, class T>
__device__ inline void slopes(G *dLogits, const T *logits, float g, float logSum, int label, bool valid, int v,
                              bool accumulate) {
    along_row<T>(v, [&](int j, int left) {
        Few<T> x = take(logits + j, left);
        for (int k = 0; k < Pack<T>::SIZE; k++) {
            x.v[k] = valid ? g * (expf(x.v[k] - logSum) - (j + k == label ? 1 : 0)) : 0;
        }
        give_slopes(dLogits + j, x, left, accumulate);
    });
}

// dLogits <- g * (exp(logits - lse) - [column is the label]), zeros where the label is `ignore` (or +=).
template <class T>
__device__ inline void cross_entropy_backward(T *dLogits, const float *g, const T *logits, const float *lse,
                                              const int *labels, int v, int ignore, int accumulate) {
    long long at = (long long)blockIdx.x * v;
    int label = labels[blockIdx.x];
    slopes(dLogits + at, logits + at, g[0], lse[blockIdx.x], label, label != ignore, v, accumulate);
}

// The losses of F32 logits, and g times their gradients: dLogits may be logits if it has the same type.
template <class G>
__device__ inline void cross_entropy_both(G *dLogits, float *losses, const float *g, const float *logits,
                                          const int *labels, Complaint *c, int v, int ignore) {
    long long at = (long long)blockIdx.x * v;
    int label = labels[blockIdx.x];
    bool valid = counts(label, c, v, ignore);
    // Read before any thread overwrites it: the sums below wait for all threads.
    float chosen = valid ? logits[at + label] : 0;
    Exponentials e = exponentials(logits + at, v);
    float logSum = e.top + logf(e.sum);
    if (threadIdx.x == 0) losses[blockIdx.x] = valid ? logSum - chosen : 0;
    __syncthreads();
    slopes(dLogits + at, logits + at, g[0], logSum, label, valid, v, false);
}

#define KERNELS(S, T) \
    extern "C" __global__ void cross_entropy_##S(float *losses, float *lse, const T *logits, const int *labels, \
                                                 Complaint *c, int v, int ignore) { \
        cross_entropy(losses, lse, logits, labels, c, v, ignore); \
    } \
    extern "C" __global__ void cross_entropy_backward_##S(T *dLogits, const float *g, const T *logits, const float *lse, \
                                                          const int *labels, int v, int ignore, int accumulate) { \
        cross_entropy_backward(dLogits, g, logits, lse, labels, v, ignore, accumulate); \
    } \
    extern "C" __global__ void cross_entropy_both_##S(T *dLogits, float *losses, const float *g, const float *logits, \
                                                      const int *labels, Complaint *c, int v, int ignore) { \
        cross_entropy_both(dLogits, losses, g, logits, labels, c, v, ignore); \
    }
FLOATING(KERNELS)
