// Cross-entropy of logits (n, v) with integer labels: a block a row, one pass forward, one backward.
#include "common.cuh"

// losses (n) <- lse - logit of the label, 0 where it is `ignore`; lse (n) <- log of the sum of exp of the row.
template <class T>
__device__ inline void cross_entropy(T *losses, T *lse, const T *logits, const int *labels, Complaint *c, int v,
                                     int ignore) {
    const T *row = logits + (long long)blockIdx.x * v;
    // The online softmax: a thread's maximum so far, and its sum of exp(x - maximum).
    float max = -INFINITY, sum = 0;
    for (int j = threadIdx.x; j < v; j += blockDim.x) {
        float x = widen(row[j]), larger = Max()(x, max);
        sum = sum * expf(max - larger) + expf(x - larger);
        max = larger;
    }
    float top = block_reduce(max, Max());
    // A thread without elements: exp(-inf - top) is 0.
    sum = block_reduce(sum * expf(max - top), Add());
    if (threadIdx.x == 0) {
        float logSum = top + logf(sum);
        int label = labels[blockIdx.x];
        narrow(lse[blockIdx.x], logSum);
        bool valid = label >= 0 && label < v;
        if (label != ignore && !valid) complain(c, LABEL_OUT_OF_RANGE, label, v);
        narrow(losses[blockIdx.x], label == ignore || !valid ? 0 : logSum - widen(row[label]));
    }
}

// dLogits <- g * (exp(logits - lse) - [column is the label]), zeros where the label is `ignore` (or +=).
template <class T>
__device__ inline void cross_entropy_backward(T *dLogits, const T *g, const T *logits, const T *lse, const int *labels,
                                              int v, int ignore, int accumulate) {
    long long at = (long long)blockIdx.x * v;
    int label = labels[blockIdx.x];
    float factor = widen(g[0]), logSum = widen(lse[blockIdx.x]);
    for (int j = threadIdx.x; j < v; j += blockDim.x) {
        float p = expf(widen(logits[at + j]) - logSum) - (j == label ? 1 : 0);
        put(dLogits[at + j], label == ignore ? 0 : factor * p, accumulate);
    }
}

#define KERNELS(S, T) \
    extern "C" __global__ void cross_entropy_##S(T *losses, T *lse, const T *logits, const int *labels, Complaint *c, \
                                                 int v, int ignore) { \
        cross_entropy(losses, lse, logits, labels, c, v, ignore); \
    } \
    extern "C" __global__ void cross_entropy_backward_##S(T *dLogits, const T *g, const T *logits, const T *lse, \
                                                          const int *labels, int v, int ignore, int accumulate) { \
        cross_entropy_backward(dLogits, g, logits, lse, labels, v, ignore, accumulate); \
    }
FLOATING(KERNELS)
