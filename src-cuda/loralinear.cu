// The low-rank part of a LoRA layer with dropout (Hu et al., 2021, equation 3), apart from cuBLAS's products with the
// frozen weight and B. The mask is recomputed wherever it is needed and each kernel reads x once; dropout(x) is never
// in memory.
//
// A block has 256 threads and a tile of 32 rows by 32 columns of x; the rank, at most 64, is kept in registers.
#include "philox.cuh"

constexpr int TILE = 32;
constexpr int GROUPS = TILE / 4;
constexpr int MAX_RANK = 64;
// Threads per column; each handles every 8th of the rank's rows.
constexpr int SLICES = 8;
constexpr int PER_THREAD = MAX_RANK / SLICES;

// tile <- dropout(x) for rows [row, row + 32) and columns [col, col + 32), zeros beyond the matrix: each of the 256
// threads computes four adjacent elements.
template <class T>
__device__ inline void load_dropped(float (*tile)[TILE + 1], const T *x, int row, int col, int n, int in, int step,
                                    const Mask &m) {
    int i = threadIdx.x / GROUPS, group = threadIdx.x % GROUPS;
    bool inside = row + i < n && col + group * 4 < in;
    uint4 w = inside ? words(m, step, row + i, col / 4 + group) : make_uint4(0, 0, 0, 0);
    unsigned word[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
    for (int j = 0; j < 4; j++) {
        int c = col + group * 4 + j;
        bool kept = inside && c < in && word[j] >= m.threshold;
        tile[i][group * 4 + j] = kept ? widen(x[(long long)(row + i) * in + c]) * m.scale : 0;
    }
}

// t (n, r) <- dropout(x (n, in)) . a (r, in)^T; 32 rows per block.
template <class T>
__device__ inline void lora_down(T *t, const T *x, const T *a, const int *step, int n, int in, int r, const Mask &m) {
    __shared__ float xs[TILE][TILE + 1], as[MAX_RANK][TILE + 1];
    int row = blockIdx.x * TILE, lane = threadIdx.x % WARP, slice = threadIdx.x / WARP;
    float sums[PER_THREAD] = {};
    for (int col = 0; col < in; col += TILE) {
        load_dropped(xs, x, row, col, n, in, *step, m);
        for (int j = slice; j < r; j += SLICES) as[j][lane] = col + lane < in ? widen(a[(long long)j * in + col + lane]) : 0;
        __syncthreads();
#pragma unroll
        for (int i = 0; i < PER_THREAD; i++) {
            if (slice + i * SLICES >= r) break;
#pragma unroll 8
            for (int k = 0; k < TILE; k++) sums[i] += xs[lane][k] * as[slice + i * SLICES][k];
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < PER_THREAD; i++) {
        int j = slice + i * SLICES;
        if (row + lane < n && j < r) narrow(t[(long long)(row + lane) * r + j], sums[i]);
    }
}

// partial (parts, r, in) <- dt (n, r)^T . dropout(x) over a part of the rows; each block handles 32 columns (grid.x) of
// a part (grid.y). Their sum is the gradient of a.
template <class T>
__device__ inline void lora_backward_a(float *partial, const T *dt, const T *x, const int *step, int n, int in, int r,
                                       const Mask &m) {
    __shared__ float xs[TILE][TILE + 1], ts[TILE][MAX_RANK + 1];
    int col = blockIdx.x * TILE, lane = threadIdx.x % WARP, slice = threadIdx.x / WARP;
    int length = (n + gridDim.y - 1) / gridDim.y;
    int start = blockIdx.y * length, end = min(n, start + length);
    float sums[PER_THREAD] = {};
    for (int row = start; row < end; row += TILE) {
        load_dropped(xs, x, row, col, end, in, *step, m);
        for (int i = threadIdx.x; i < TILE * r; i += TILE * GROUPS) {
            ts[i / r][i % r] = row + i / r < end ? widen(dt[(long long)row * r + i]) : 0;
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < PER_THREAD; i++) {
            if (slice + i * SLICES >= r) break;
#pragma unroll 8
            for (int k = 0; k < TILE; k++) sums[i] += xs[k][lane] * ts[k][slice + i * SLICES];
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < PER_THREAD; i++) {
        int j = slice + i * SLICES;
        if (col + lane < in && j < r) partial[((long long)blockIdx.y * r + j) * in + col + lane] = sums[i];
    }
}

// dx (n, in) += dropout'(dt (n, r) . a (r, in)); one tile of dx per block, four adjacent elements per thread.
template <class T>
__device__ inline void lora_backward_x(T *dx, const T *dt, const T *a, const int *step, int n, int in, int r,
                                       const Mask &m) {
    __shared__ float as[MAX_RANK][TILE + 1], ts[TILE][MAX_RANK + 1];
    int row = blockIdx.y * TILE, col = blockIdx.x * TILE;
    for (int i = threadIdx.x; i < TILE * r; i += TILE * GROUPS) {
        ts[i / r][i % r] = row + i / r < n ? widen(dt[(long long)row * r + i]) : 0;
        as[i / TILE][i % TILE] = col + i % TILE < in ? widen(a[(long long)(i / TILE) * in + col + i % TILE]) : 0;
    }
    __syncthreads();
    int i = threadIdx.x / GROUPS, group = threadIdx.x % GROUPS;
    if (row + i >= n || col + group * 4 >= in) return;
    float sums[4] = {};
    for (int j = 0; j < r; j++) {
#pragma unroll
        for (int c = 0; c < 4; c++) sums[c] += ts[i][j] * as[j][group * 4 + c];
    }
    uint4 w = words(m, *step, row + i, col / 4 + group);
    unsigned word[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
    for (int c = 0; c < 4; c++) {
        int column = col + group * 4 + c;
        if (column < in && word[c] >= m.threshold) put(dx[(long long)(row + i) * in + column], sums[c] * m.scale, true);
    }
}

#define KERNELS(S, T) \
    extern "C" __global__ void lora_down_##S(T *t, const T *x, const T *a, const int *step, int n, int in, int r, \
                                             Mask m) { \
        lora_down(t, x, a, step, n, in, r, m); \
    } \
    extern "C" __global__ void lora_backward_a_##S(float *partial, const T *dt, const T *x, const int *step, int n, \
                                                   int in, int r, Mask m) { \
        lora_backward_a(partial, dt, x, step, n, in, r, m); \
    } \
    extern "C" __global__ void lora_backward_x_##S(T *dx, const T *dt, const T *a, const int *step, int n, int in, \
                                                   int r, Mask m) { \
        lora_backward_x(dx, dt, a, step, n, in, r, m); \
    }
FLOATING(KERNELS)
