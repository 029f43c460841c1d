// The arguments of the attention kernels, and the addresses of their rows.
#pragma once

#include "common.cuh"

// Named as in Backend.attention.
struct Problem {
    int batch, t, s, p, heads, kvHeads, d, causal, sharedPrefix;
    float scale;
};

__device__ inline bool visible(const Problem &a, const int *mask, int b, int i, int j) {
    if (a.causal && j >= a.p && j - a.p > i + a.s - a.t) return false;
    return !mask || mask[(long long)b * (a.p + a.s) + j] != 0;
}

// Row i of head h of q, out and their gradients.
__device__ inline long long query_at(const Problem &a, int b, int i, int h) {
    return (((long long)b * a.t + i) * a.heads + h) * a.d;
}

// Row j of the prefix followed by the keys (or values), relative to the start of the one that contains it.
__device__ inline long long key_at(const Problem &a, int b, int j, int kvHead) {
    long long row = j < a.p ? (a.sharedPrefix ? 0 : (long long)b * a.p) + j : (long long)b * a.s + j - a.p;
    return (row * a.kvHeads + kvHead) * a.d;
}

template <class T>
__device__ inline T *key_row(T *keys, T *prefix, const Problem &a, int b, int j, int kvHead) {
    return (j < a.p ? prefix : keys) + key_at(a, b, j, kvHead);
}

// The first key that no query before `end` sees.
__device__ inline int end_of_keys(const Problem &a, int end) {
    int n = a.p + a.s;
    return a.causal ? min(n, a.p + max(0, min(end, a.t) + a.s - a.t)) : n;
}
