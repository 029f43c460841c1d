// The largest element of a row and the sum of exp(x - largest), computed by a block in one pass: the online softmax.
#pragma once

#include "common.cuh"

struct Exponentials {
    float top, sum;
};

// The same in every thread.
template <class T>
__device__ inline Exponentials exponentials(const T *row, int cols) {
    // The thread's own running maximum, and its sum.
    float max = -INFINITY, sum = 0;
    along_row<T>(cols, [&](int j, int left) {
        Few<T> x = take(row + j, left);
        float larger = max;
        for (int k = 0; k < Pack<T>::SIZE; k++) larger = k < left ? Max()(x.v[k], larger) : larger;
        sum *= expf(max - larger);
        for (int k = 0; k < Pack<T>::SIZE; k++) sum += k < left ? expf(x.v[k] - larger) : 0;
        max = larger;
    });
    float top = block_reduce(max, Max());
    // A thread without elements: exp(-inf - top) is 0.
    return {top, block_reduce(sum * expf(max - top), Add())};
}
