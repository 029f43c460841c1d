// Blockwise scaled dot-product attention with an online softmax, so that the scores of all queries and keys never exist
// at once (Dao et al., "FlashAttention", 2022). Supports grouped-query heads, causal and padding masks, and a prefix
// segment of keys and values that every query sees.
//
// A warp processes ROWS queries (in backward also ROWS keys) against tiles of 32 keys (queries). While scores are
// computed each lane has one key; while rows of v are summed it has every 32nd column of the head. No sums use atomics:
// gradients of keys come from the blocks that own the keys.
#include "attention.cuh"

constexpr int WARPS = 4;
constexpr int ROWS = 2;
// Queries, or keys, per block.
constexpr int OWN = WARPS * ROWS;
constexpr int TILE = WARP;
// Columns per lane: heads have at most 128.
constexpr int COLUMNS = 4;

// rows of `tile`, d + 1 floats apart, <- those that `row` returns; zeros where it returns null.
template <class F>
__device__ inline void load(float *tile, int rows, int d, F row) {
#pragma unroll 1
    for (int i = threadIdx.x; i < rows * d; i += WARPS * WARP) {
        auto *from = row(i / d);
        tile[i / d * (d + 1) + i % d] = from ? widen(from[i % d]) : 0;
    }
}

__device__ inline float dot(const float *a, const float *b, int d) {
    float sum = 0;
#pragma unroll 4
    for (int c = 0; c < d; c++) sum += a[c] * b[c];
    return sum;
}

// sums[c] += the weighted sum of the tile's rows, for this lane's columns.
__device__ inline void add_rows(float *sums, const float *weights, const float *tile, int d, int lane) {
    for (int c = 0; c < COLUMNS; c++) {
        int column = c * WARP + lane;
        if (column >= d) break;
#pragma unroll 4
        for (int j = 0; j < TILE; j++) sums[c] += weights[j] * tile[j * (d + 1) + column];
    }
}

template <class T>
__device__ inline void store(T *row, const float *sums, float scale, int d, int lane) {
    for (int c = 0; c < COLUMNS; c++) {
        int column = c * WARP + lane;
        if (column < d) narrow(row[column], sums[c] * scale);
    }
}

// Computes out, and lse (batch, heads, t) for backward; grid (queries / OWN, heads, batch).
template <class T>
__device__ inline void attention(T *out, float *lse, const T *q, const T *k, const T *v, const T *prefixK, const T *prefixV,
                                 const int *mask, const Problem &a) {
    int d = a.d, b = blockIdx.z, h = blockIdx.y, first = blockIdx.x * OWN, n = a.p + a.s;
    int kvHead = h / (a.heads / a.kvHeads);
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    float *keys = dynamicShared<float>();
    float *values = keys + TILE * (d + 1);
    float *queries = values + TILE * (d + 1);
    float *weights = queries + OWN * (d + 1) + warp * TILE;
    load(queries, OWN, d, [&](int r) { return first + r < a.t ? q + query_at(a, b, first + r, h) : nullptr; });
    float top[ROWS], sum[ROWS], sums[ROWS][COLUMNS] = {};
    for (int r = 0; r < ROWS; r++) {
        top[r] = -INFINITY;
        sum[r] = 0;
    }
    int end = end_of_keys(a, first + OWN);
    for (int start = 0; start < end; start += TILE) {
        __syncthreads();
        load(keys, TILE, d, [&](int r) { return start + r < n ? key_row(k, prefixK, a, b, start + r, kvHead) : nullptr; });
        load(values, TILE, d,
             [&](int r) { return start + r < n ? key_row(v, prefixV, a, b, start + r, kvHead) : nullptr; });
        __syncthreads();
        for (int r = 0; r < ROWS; r++) {
            int own = warp * ROWS + r, i = first + own, j = start + lane;
            if (i >= a.t) break;
            bool seen = j < n && visible(a, mask, b, i, j);
            float score = seen ? a.scale * dot(queries + own * (d + 1), keys + lane * (d + 1), d) : -INFINITY;
            float larger = fmaxf(top[r], warp_reduce(score, Max()));
            if (larger == -INFINITY) continue;
            float weight = seen ? expf(score - larger) : 0, keep = expf(top[r] - larger);
            sum[r] = sum[r] * keep + warp_reduce(weight, Add());
            top[r] = larger;
            weights[lane] = weight;
            __syncwarp();
            for (int c = 0; c < COLUMNS; c++) sums[r][c] *= keep;
            add_rows(sums[r], weights, values, d, lane);
            __syncwarp();
        }
    }
    for (int r = 0; r < ROWS; r++) {
        int i = first + warp * ROWS + r;
        if (i >= a.t) break;
        // A query that sees no key gets zeros.
        store(out + query_at(a, b, i, h), sums[r], sum[r] > 0 ? 1 / sum[r] : 0, d, lane);
        if (lane == 0) lse[((long long)b * a.heads + h) * a.t + i] = sum[r] > 0 ? top[r] + logf(sum[r]) : 0;
    }
}

// rowDot (batch, heads, t) <- dOut . out; one warp per row, grid (t, heads, batch).
template <class T>
__device__ inline void attention_row_dot(float *rowDot, const T *dOut, const T *out, const Problem &a) {
    int i = blockIdx.x, h = blockIdx.y, b = blockIdx.z;
    long long at = query_at(a, b, i, h);
    float sum = 0;
    for (int c = threadIdx.x; c < a.d; c += WARP) sum += widen(dOut[at + c]) * widen(out[at + c]);
    sum = warp_reduce(sum, Add());
    if (threadIdx.x == 0) rowDot[((long long)b * a.heads + h) * a.t + i] = sum;
}

// Computes dq, with P = exp(scores - lse) recomputed and dS = P * (dOut . v - rowDot); grid as in forward.
template <class T>
__device__ inline void attention_backward_queries(T *dq, const T *dOut, const float *lse, const float *rowDot, const T *q,
                                                  const T *k, const T *v, const T *prefixK, const T *prefixV,
                                                  const int *mask, const Problem &a) {
    int d = a.d, b = blockIdx.z, h = blockIdx.y, first = blockIdx.x * OWN, n = a.p + a.s;
    int kvHead = h / (a.heads / a.kvHeads);
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    float *keys = dynamicShared<float>();
    float *values = keys + TILE * (d + 1);
    float *queries = values + TILE * (d + 1);
    float *grads = queries + OWN * (d + 1);
    float *weights = grads + OWN * (d + 1) + warp * TILE;
    load(queries, OWN, d, [&](int r) { return first + r < a.t ? q + query_at(a, b, first + r, h) : nullptr; });
    load(grads, OWN, d, [&](int r) { return first + r < a.t ? dOut + query_at(a, b, first + r, h) : nullptr; });
    float sums[ROWS][COLUMNS] = {};
    int end = end_of_keys(a, first + OWN);
    for (int start = 0; start < end; start += TILE) {
        __syncthreads();
        load(keys, TILE, d, [&](int r) { return start + r < n ? key_row(k, prefixK, a, b, start + r, kvHead) : nullptr; });
        load(values, TILE, d,
             [&](int r) { return start + r < n ? key_row(v, prefixV, a, b, start + r, kvHead) : nullptr; });
        __syncthreads();
        for (int r = 0; r < ROWS; r++) {
            int own = warp * ROWS + r, i = first + own, j = start + lane;
            if (i >= a.t) break;
            long long row = ((long long)b * a.heads + h) * a.t + i;
            float dS = 0;
            if (j < n && visible(a, mask, b, i, j)) {
                float weight = expf(a.scale * dot(queries + own * (d + 1), keys + lane * (d + 1), d) - lse[row]);
                dS = weight * (dot(grads + own * (d + 1), values + lane * (d + 1), d) - rowDot[row]);
            }
            weights[lane] = dS;
            __syncwarp();
            add_rows(sums[r], weights, keys, d, lane);
            __syncwarp();
        }
    }
    for (int r = 0; r < ROWS; r++) {
        int i = first + warp * ROWS + r;
        if (i < a.t) store(dq + query_at(a, b, i, h), sums[r], a.scale, d, lane);
    }
}

// Computes dk = scale * dS^T . q and dv = P^T . dOut for keys [from, to) of the prefix followed by the keys; grid (keys
// / OWN, kvHeads, batch), or one block in place of the batch, which sums the gradients of a prefix shared by the batch.
// The query heads that share a key head are summed one after another.
template <class T>
__device__ inline void attention_backward_keys(T *dk, T *dv, T *dPrefixK, T *dPrefixV, const T *dOut, const float *lse,
                                               const float *rowDot, const T *q, const T *k, const T *v,
                                               const T *prefixK, const T *prefixV, const int *mask, int from, int to,
                                               const Problem &a) {
    int d = a.d, kvHead = blockIdx.y, first = from + blockIdx.x * OWN, group = a.heads / a.kvHeads;
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    float *queries = dynamicShared<float>();
    float *grads = queries + TILE * (d + 1);
    float *keys = grads + TILE * (d + 1);
    float *values = keys + OWN * (d + 1);
    float *weights = values + OWN * (d + 1) + warp * 2 * TILE;
    float *slopes = weights + TILE;
    bool all = (int)gridDim.z < a.batch;
    int firstRow = all ? 0 : blockIdx.z, endRow = all ? a.batch : firstRow + 1;
    load(keys, OWN, d, [&](int r) { return first + r < to ? key_row(k, prefixK, a, firstRow, first + r, kvHead) : nullptr; });
    load(values, OWN, d,
         [&](int r) { return first + r < to ? key_row(v, prefixV, a, firstRow, first + r, kvHead) : nullptr; });
    float dKeys[ROWS][COLUMNS] = {}, dValues[ROWS][COLUMNS] = {};
    for (int b = firstRow; b < endRow; b++) {
        for (int h = kvHead * group; h < (kvHead + 1) * group; h++) {
            for (int start = 0; start < a.t; start += TILE) {
                // No query of this tile sees the block's first key.
                if (end_of_keys(a, start + TILE) <= first) continue;
                __syncthreads();
                load(queries, TILE, d,
                     [&](int r) { return start + r < a.t ? q + query_at(a, b, start + r, h) : nullptr; });
                load(grads, TILE, d,
                     [&](int r) { return start + r < a.t ? dOut + query_at(a, b, start + r, h) : nullptr; });
                __syncthreads();
                for (int r = 0; r < ROWS; r++) {
                    int own = warp * ROWS + r, j = first + own, i = start + lane;
                    if (j >= to) break;
                    float weight = 0, dS = 0;
                    if (i < a.t && visible(a, mask, b, i, j)) {
                        long long row = ((long long)b * a.heads + h) * a.t + i;
                        weight = expf(a.scale * dot(queries + lane * (d + 1), keys + own * (d + 1), d) - lse[row]);
                        dS = weight * (dot(grads + lane * (d + 1), values + own * (d + 1), d) - rowDot[row]);
                    }
                    weights[lane] = weight;
                    slopes[lane] = dS;
                    __syncwarp();
                    add_rows(dValues[r], weights, grads, d, lane);
                    add_rows(dKeys[r], slopes, queries, d, lane);
                    __syncwarp();
                }
            }
        }
    }
    for (int r = 0; r < ROWS; r++) {
        int j = first + warp * ROWS + r;
        if (j >= to) break;
        store(key_row(dk, dPrefixK, a, firstRow, j, kvHead), dKeys[r], a.scale, d, lane);
        store(key_row(dv, dPrefixV, a, firstRow, j, kvHead), dValues[r], 1, d, lane);
    }
}

#define KERNELS(S, T) \
    extern "C" __global__ void attention_##S(T *out, float *lse, const T *q, const T *k, const T *v, const T *prefixK, \
                                             const T *prefixV, const int *mask, Problem a) { \
        attention(out, lse, q, k, v, prefixK, prefixV, mask, a); \
    } \
    extern "C" __global__ void attention_row_dot_##S(float *rowDot, const T *dOut, const T *out, Problem a) { \
        attention_row_dot(rowDot, dOut, out, a); \
    } \
    extern "C" __global__ void attention_backward_queries_##S( \
        T *dq, const T *dOut, const float *lse, const float *rowDot, const T *q, const T *k, const T *v, const T *prefixK, \
        const T *prefixV, const int *mask, Problem a) { \
        attention_backward_queries(dq, dOut, lse, rowDot, q, k, v, prefixK, prefixV, mask, a); \
    } \
    extern "C" __global__ void attention_backward_keys_##S( \
        T *dk, T *dv, T *dPrefixK, T *dPrefixV, const T *dOut, const float *lse, const float *rowDot, const T *q, const T *k, \
        const T *v, const T *prefixK, const T *prefixV, const int *mask, int from, int to, Problem a) { \
        attention_backward_keys(dk, dv, dPrefixK, dPrefixV, dOut, lse, rowDot, q, k, v, prefixK, prefixV, mask, from, to, \
                                a); \
    }
FLOATING(KERNELS)
