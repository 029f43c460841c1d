// Operations after a product, fused into one pass: bias, activation, dropout and scale, with the gradient; and bias and
// residual. A bottleneck adapter (Houlsby et al., 2019) is two products with one of these after each.
#include "functions.cuh"
#include "philox.cuh"

// f(row, column, at, left) for this thread's groups of adjacent elements of a (rows, cols) matrix: they start at
// `column`, which is element `at`, with `left` elements to the end of the row.
template <class T, class F>
__device__ inline void along_matrix(int rows, int cols, F f) {
    constexpr int P = Pack<T>::SIZE;
    int groups = (cols + P - 1) / P;
    long long n = (long long)rows * groups;
    for (long long i = flat_thread(); i < n; i += flat_threads()) {
        int row = i / groups, column = i % groups * P;
        f(row, column, (long long)row * cols + column, cols - column);
    }
}

// z <- z + bias and h <- scale * f(z), 0 where the mask drops; bias and step (no mask) may be null.
template <class T>
__device__ inline void bias_activation(T *h, T *z, const T *bias, const int *step, int rows, int cols, int fn,
                                           float scale, const Mask &m) {
    constexpr int P = Pack<T>::SIZE;
    along_matrix<T>(rows, cols, [&](int row, int column, long long at, int left) {
        Few<T> v = take(z + at, left);
        if (bias) {
            Few<T> b = take(bias + column, left);
            for (int k = 0; k < P; k++) v.v[k] += b.v[k];
            give(z + at, v, left);
            // Backward reads the rounded value.
            v = take(z + at, left);
        }
#pragma unroll
        for (int j = 0; j < P; j += 4) {
            Four x;
            for (int k = 0; k < 4; k++) x.v[k] = v.v[j + k];
            Four f = apply4(fn, x);
            uint4 w = step ? words(m, *step, row, (column + j) / 4) : make_uint4(0, 0, 0, 0);
            unsigned word[4] = {w.x, w.y, w.z, w.w};
            for (int k = 0; k < 4; k++) v.v[j + k] = !step || word[k] >= m.threshold ? scale * f.v[k] : 0;
        }
        give(h + at, v, left);
    });
}

// y <- y + scale * bias + residual; either may be null.
template <class T>
__device__ inline void bias_residual(T *y, const T *bias, const T *residual, int rows, int cols, float scale) {
    constexpr int P = Pack<T>::SIZE;
    along_matrix<T>(rows, cols, [&](int, int column, long long at, int left) {
        Few<T> v = take(y + at, left);
        if (bias) {
            Few<T> b = take(bias + column, left);
            for (int k = 0; k < P; k++) v.v[k] += scale * b.v[k];
        }
        if (residual) {
            Few<T> r = take(residual + at, left);
            for (int k = 0; k < P; k++) v.v[k] += r.v[k];
        }
        give(y + at, v, left);
    });
}

// dz <- scale * dz * f'(z), 0 where the mask drops, and partial (parts, cols) <- its sums over a part of the rows: 8
// rows of a warp each per block, one block per part (grid.y). Their sum is the gradient of the bias, which a single
// part writes directly to dBias (or +=). dBias (if not needed), partial (for a single part) and step (without a mask)
// may be null.
constexpr int ROWS = 8;

template <class T>
__device__ inline void bias_activation_backward(T *dz, T *dBias, float *partial, const T *z, const int *step, int rows,
                                                int cols, int fn, float scale, int accumulate, const Mask &m) {
    constexpr int P = Pack<T>::SIZE;
    __shared__ float sums[ROWS][P][WARP];
    int column = (blockIdx.x * WARP + threadIdx.x) * P;
    int length = (rows + gridDim.y - 1) / gridDim.y;
    int end = min(rows, (int)(blockIdx.y + 1) * length);
    Few<T> sum = {};
    if (column < cols) {
        for (int i = blockIdx.y * length + threadIdx.y; i < end; i += ROWS) {
            long long at = (long long)i * cols + column;
            Few<T> d = take(dz + at, cols - column), v = take(z + at, cols - column);
#pragma unroll
            for (int j = 0; j < P; j += 4) {
                Four x;
                for (int k = 0; k < 4; k++) x.v[k] = v.v[j + k];
                Four slope = derivative4(fn, x);
                uint4 w = step ? words(m, *step, i, (column + j) / 4) : make_uint4(0, 0, 0, 0);
                unsigned word[4] = {w.x, w.y, w.z, w.w};
                for (int k = 0; k < 4; k++) {
                    bool kept = !step || word[k] >= m.threshold;
                    d.v[j + k] = kept ? scale * d.v[j + k] * slope.v[k] : 0;
                    sum.v[j + k] += d.v[j + k];
                }
            }
            give(dz + at, d, cols - column);
        }
    }
    if (!dBias) return;
    for (int k = 0; k < P; k++) sums[threadIdx.y][k][threadIdx.x] = sum.v[k];
    __syncthreads();
    if (threadIdx.y != 0) return;
    for (int k = 0; k < P; k++) {
        for (int i = 1; i < ROWS; i++) sum.v[k] += sums[i][k][threadIdx.x];
        if (column + k >= cols) break;
        if (partial) {
            partial[(long long)blockIdx.y * cols + column + k] = sum.v[k];
        } else {
            put(dBias[column + k], sum.v[k], accumulate);
        }
    }
}

#define KERNELS(S, T) \
    extern "C" __global__ void bias_activation_##S(T *h, T *z, const T *bias, const int *step, int rows, int cols, \
                                                       int fn, float scale, Mask m) { \
        bias_activation(h, z, bias, step, rows, cols, fn, scale, m); \
    } \
    extern "C" __global__ void bias_residual_##S(T *y, const T *bias, const T *residual, int rows, int cols, \
                                                       float scale) { \
        bias_residual(y, bias, residual, rows, cols, scale); \
    } \
    extern "C" __global__ void bias_activation_backward_##S(T *dz, T *dBias, float *partial, const T *z, const int *step, \
                                                            int rows, int cols, int fn, float scale, int accumulate, \
                                                            Mask m) { \
        bias_activation_backward(dz, dBias, partial, z, step, rows, cols, fn, scale, accumulate, m); \
    }
FLOATING(KERNELS)
