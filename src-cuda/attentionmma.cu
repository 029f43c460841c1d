// Attention as in attention.cu, with products on tensor cores: BF16 operands, F32 sums. For heads of at most D columns,
// D = 64 or 128, padded to D with zeros.
//
// Each of a block's 4 warps owns 16 queries (in backward also 16 keys), processed against tiles of keys (queries).
// Probabilities stay in registers: the result fragment of the product of queries and keys is an operand of the next
// product.
#include "attention.cuh"
#include "mma.cuh"

constexpr int WARPS = 4;
constexpr int ROWS = 16;
// Queries, or keys, per block.
constexpr int OWN = WARPS * ROWS;

// Rows of a tile, in forward and in backward, where a block keeps twice its own rows in 48 KiB of shared memory.
constexpr int TILE = 32;
template <int D>
constexpr int BACK_TILE = D == 64 ? 32 : 16;

// Row stride in shared memory: 8 elements of padding avoid bank conflicts between a warp's loads.
template <int D>
constexpr int STRIDE = D + 8;

// `rows` rows of `tile` <- those that `row` returns; zeros where it returns null and beyond the d columns.
template <int D, class F>
__device__ inline void load_rows(Bf16 *tile, int rows, int d, F row) {
    constexpr int GROUPS = D / 8;
#pragma unroll 1
    for (int i = threadIdx.x; i < rows * GROUPS; i += WARPS * WARP) {
        int column = i % GROUPS * 8;
        const Bf16 *from = row(i / GROUPS);
        Pack<Bf16> pack;
        if (from && column + 8 <= d && aligned(from + column)) {
            pack = *reinterpret_cast<const Pack<Bf16> *>(from + column);
        } else {
#pragma unroll
            for (int j = 0; j < 8; j++) narrow(pack.v[j], from && column + j < d ? widen(from[column + j]) : 0);
        }
        *reinterpret_cast<Pack<Bf16> *>(tile + i / GROUPS * STRIDE<D> + column) = pack;
    }
}

// Rows [first, first + rows) of a head of q (or of dOut).
template <int D>
__device__ inline void load_queries(Bf16 *tile, int rows, const Bf16 *q, int b, int first, int h, const Problem &a) {
    load_rows<D>(tile, rows, a.d, [&](int r) { return first + r < a.t ? q + query_at(a, b, first + r, h) : nullptr; });
}

// Rows [first, first + rows), before `end`, of a head of the prefix followed by k (or v).
template <int D>
__device__ inline void load_keys(Bf16 *tile, int rows, const Bf16 *k, const Bf16 *prefix, int b, int first, int end,
                                 int kvHead, const Problem &a) {
    load_rows<D>(tile, rows, a.d,
                 [&](int r) { return first + r < end ? key_row(k, prefix, a, b, first + r, kvHead) : nullptr; });
}

__device__ inline int row_in_fragment() { return threadIdx.x % WARP / 4; }
__device__ inline int column_in_fragment() { return threadIdx.x % 4 * 2; }

// c (16, 8 N) <- own (16, D) . tile (8 N, D)^T
template <int D, int N>
__device__ inline void scores(float (&c)[N][4], const Bf16 *own, const Bf16 *tile) {
    const Bf16 *row = own + row_in_fragment() * STRIDE<D> + column_in_fragment();
    const Bf16 *column = tile + row_in_fragment() * STRIDE<D> + column_in_fragment();
#pragma unroll
    for (int n = 0; n < N; n++) {
        for (int i = 0; i < 4; i++) c[n][i] = 0;
    }
#pragma unroll
    for (int k = 0; k < D; k += 16) {
        unsigned fragment[4] = {pair(row + k), pair(row + 8 * STRIDE<D> + k), pair(row + k + 8),
                                pair(row + 8 * STRIDE<D> + k + 8)};
#pragma unroll
        for (int n = 0; n < N; n++) {
            mma(c[n], fragment, pair(column + n * 8 * STRIDE<D> + k), pair(column + n * 8 * STRIDE<D> + k + 8));
        }
    }
}

// c (16, D) += weights (16, 8 N) . tile (8 N, D)
template <int D, int N>
__device__ inline void add_rows(float (&c)[D / 8][4], const float (&weights)[N][4], const Bf16 *tile) {
    const Bf16 *row = tile + threadIdx.x % 16 * STRIDE<D>;
#pragma unroll
    for (int k = 0; k < N; k += 2) {
        unsigned fragment[4] = {pair(weights[k][0], weights[k][1]), pair(weights[k][2], weights[k][3]),
                                pair(weights[k + 1][0], weights[k + 1][1]), pair(weights[k + 1][2], weights[k + 1][3])};
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            unsigned b0, b1;
            load_b(b0, b1, row + k * 8 * STRIDE<D> + n * 8);
            mma(c[n], fragment, b0, b1);
        }
    }
}

// Stores elements 2r and 2r + 1 of each fragment of `sums`, times `scale`, to the row of d columns that starts at `at`.
template <int D>
__device__ inline void store(Bf16 *to, long long at, const float (&sums)[D / 8][4], int r, float scale, int d) {
#pragma unroll
    for (int i = 0; i < D / 8 * 2; i++) {
        int column = i / 2 * 8 + column_in_fragment() + i % 2;
        if (column >= d) break;
        narrow(to[at + column], sums[i / 2][2 * r + i % 2] * scale);
    }
}

// Combines the values of a fragment's row over the four lanes that share it; each of them gets the result.
template <class F>
__device__ inline float quad_reduce(float v, F f) {
    v = f(v, __shfl_xor_sync(ALL, v, 1));
    return f(v, __shfl_xor_sync(ALL, v, 2));
}

// Computes out, and lse (batch, heads, t) for backward; grid (queries / OWN, heads, batch).
template <int D>
__device__ inline void attention(Bf16 *out, float *lse, const Bf16 *q, const Bf16 *k, const Bf16 *v, const Bf16 *prefixK,
                                 const Bf16 *prefixV, const int *mask, const Problem &a) {
    constexpr int N = TILE / 8;
    int b = blockIdx.z, h = blockIdx.y, first = blockIdx.x * OWN, n = a.p + a.s, kvHead = h / (a.heads / a.kvHeads);
    int own = threadIdx.x / WARP * ROWS, row = first + own + row_in_fragment();
    Bf16 *queries = dynamicShared<Bf16>();
    Bf16 *keys = queries + OWN * STRIDE<D>;
    Bf16 *values = keys + TILE * STRIDE<D>;
    load_queries<D>(queries, OWN, q, b, first, h, a);
    float top[2] = {-INFINITY, -INFINITY}, sum[2] = {}, sums[D / 8][4] = {};
    int end = end_of_keys(a, first + OWN), warpEnd = end_of_keys(a, first + own + ROWS);
    for (int start = 0; start < end; start += TILE) {
        __syncthreads();
        load_keys<D>(keys, TILE, k, prefixK, b, start, n, kvHead, a);
        load_keys<D>(values, TILE, v, prefixV, b, start, n, kvHead, a);
        __syncthreads();
        if (first + own >= a.t || start >= warpEnd) continue;
        float weights[N][4];
        scores<D>(weights, queries + own * STRIDE<D>, keys);
#pragma unroll
        for (int r = 0; r < 2; r++) {
            int i = row + 8 * r;
            float larger = top[r];
#pragma unroll
            for (int c = 0; c < N * 2; c++) {
                int j = start + c / 2 * 8 + column_in_fragment() + c % 2;
                float &w = weights[c / 2][2 * r + c % 2];
                w = i < a.t && j < n && visible(a, mask, b, i, j) ? a.scale * w : -INFINITY;
                larger = Max()(w, larger);
            }
            larger = quad_reduce(larger, Max());
            // For a row that has seen no key, all weights are 0.
            float base = larger == -INFINITY ? 0 : larger, keep = expf(top[r] - base);
            top[r] = larger;
            sum[r] *= keep;
#pragma unroll
            for (int c = 0; c < N * 2; c++) {
                float &w = weights[c / 2][2 * r + c % 2];
                w = expf(w - base);
                sum[r] += w;
            }
#pragma unroll
            for (int c = 0; c < D / 8; c++) {
                sums[c][2 * r] *= keep;
                sums[c][2 * r + 1] *= keep;
            }
        }
        add_rows<D>(sums, weights, values);
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int i = row + 8 * r;
        float total = quad_reduce(sum[r], Add());
        if (i >= a.t) continue;
        // A query that sees no key gets zeros.
        store<D>(out, query_at(a, b, i, h), sums, r, total > 0 ? 1 / total : 0, a.d);
        if (threadIdx.x % 4 == 0) lse[((long long)b * a.heads + h) * a.t + i] = total > 0 ? top[r] + logf(total) : 0;
    }
}

// Computes dq, with P = exp(scores - lse) recomputed and dS = P * (dOut . v - rowDot); grid as in forward.
template <int D>
__device__ inline void attention_backward_queries(Bf16 *dq, const Bf16 *dOut, const float *lse, const float *rowDot,
                                                  const Bf16 *q, const Bf16 *k, const Bf16 *v, const Bf16 *prefixK,
                                                  const Bf16 *prefixV, const int *mask, const Problem &a) {
    constexpr int N = BACK_TILE<D> / 8;
    int b = blockIdx.z, h = blockIdx.y, first = blockIdx.x * OWN, n = a.p + a.s, kvHead = h / (a.heads / a.kvHeads);
    int own = threadIdx.x / WARP * ROWS, row = first + own + row_in_fragment();
    Bf16 *queries = dynamicShared<Bf16>();
    Bf16 *grads = queries + OWN * STRIDE<D>;
    Bf16 *keys = grads + OWN * STRIDE<D>;
    Bf16 *values = keys + BACK_TILE<D> * STRIDE<D>;
    load_queries<D>(queries, OWN, q, b, first, h, a);
    load_queries<D>(grads, OWN, dOut, b, first, h, a);
    float logs[2], dots[2], sums[D / 8][4] = {};
    for (int r = 0; r < 2; r++) {
        long long at = ((long long)b * a.heads + h) * a.t + row + 8 * r;
        logs[r] = row + 8 * r < a.t ? lse[at] : 0;
        dots[r] = row + 8 * r < a.t ? rowDot[at] : 0;
    }
    int end = end_of_keys(a, first + OWN), warpEnd = end_of_keys(a, first + own + ROWS);
    for (int start = 0; start < end; start += BACK_TILE<D>) {
        __syncthreads();
        load_keys<D>(keys, BACK_TILE<D>, k, prefixK, b, start, n, kvHead, a);
        load_keys<D>(values, BACK_TILE<D>, v, prefixV, b, start, n, kvHead, a);
        __syncthreads();
        if (first + own >= a.t || start >= warpEnd) continue;
        float weights[N][4], slopes[N][4];
        scores<D>(weights, queries + own * STRIDE<D>, keys);
        scores<D>(slopes, grads + own * STRIDE<D>, values);
#pragma unroll
        for (int c = 0; c < N * 4; c++) {
            int r = c % 4 / 2, i = row + 8 * r, j = start + c / 4 * 8 + column_in_fragment() + c % 2;
            bool seen = i < a.t && j < n && visible(a, mask, b, i, j);
            float &slope = slopes[c / 4][c % 4];
            slope = seen ? expf(a.scale * weights[c / 4][c % 4] - logs[r]) * (slope - dots[r]) : 0;
        }
        add_rows<D>(sums, slopes, keys);
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        if (row + 8 * r < a.t) store<D>(dq, query_at(a, b, row + 8 * r, h), sums, r, a.scale, a.d);
    }
}

// Computes dk = scale * dS^T . q and dv = P^T . dOut for keys [from, to) of the prefix followed by the keys; grid (keys
// / OWN, kvHeads, batch), or one block in place of the batch, which sums the gradients of a prefix shared by the batch.
// The query heads that share a key head are summed one after another.
template <int D>
__device__ inline void attention_backward_keys(Bf16 *dk, Bf16 *dv, Bf16 *dPrefixK, Bf16 *dPrefixV, const Bf16 *dOut,
                                               const float *lse, const float *rowDot, const Bf16 *q, const Bf16 *k,
                                               const Bf16 *v, const Bf16 *prefixK, const Bf16 *prefixV, const int *mask,
                                               int from, int to, const Problem &a) {
    constexpr int N = BACK_TILE<D> / 8;
    int kvHead = blockIdx.y, first = from + blockIdx.x * OWN, group = a.heads / a.kvHeads;
    int own = threadIdx.x / WARP * ROWS, row = first + own + row_in_fragment();
    Bf16 *keys = dynamicShared<Bf16>();
    Bf16 *values = keys + OWN * STRIDE<D>;
    Bf16 *queries = values + OWN * STRIDE<D>;
    Bf16 *grads = queries + BACK_TILE<D> * STRIDE<D>;
    bool all = (int)gridDim.z < a.batch;
    int firstRow = all ? 0 : blockIdx.z, endRow = all ? a.batch : firstRow + 1;
    load_keys<D>(keys, OWN, k, prefixK, firstRow, first, to, kvHead, a);
    load_keys<D>(values, OWN, v, prefixV, firstRow, first, to, kvHead, a);
    float dKeys[D / 8][4] = {}, dValues[D / 8][4] = {};
    for (int b = firstRow; b < endRow; b++) {
        for (int h = kvHead * group; h < (kvHead + 1) * group; h++) {
            for (int start = 0; start < a.t; start += BACK_TILE<D>) {
                // No query of this tile sees the block's first key.
                if (end_of_keys(a, start + BACK_TILE<D>) <= first) continue;
                __syncthreads();
                load_queries<D>(queries, BACK_TILE<D>, q, b, start, h, a);
                load_queries<D>(grads, BACK_TILE<D>, dOut, b, start, h, a);
                __syncthreads();
                if (first + own >= to || end_of_keys(a, start + BACK_TILE<D>) <= first + own) continue;
                float weights[N][4], slopes[N][4];
                scores<D>(weights, keys + own * STRIDE<D>, queries);
                scores<D>(slopes, values + own * STRIDE<D>, grads);
#pragma unroll
                for (int c = 0; c < N * 4; c++) {
                    int j = row + c % 4 / 2 * 8, i = start + c / 4 * 8 + column_in_fragment() + c % 2;
                    long long at = ((long long)b * a.heads + h) * a.t + i;
                    bool seen = j < to && i < a.t && visible(a, mask, b, i, j);
                    float &weight = weights[c / 4][c % 4], &slope = slopes[c / 4][c % 4];
                    weight = seen ? expf(a.scale * weight - lse[at]) : 0;
                    slope = seen ? weight * (slope - rowDot[at]) : 0;
                }
                add_rows<D>(dValues, weights, grads);
                add_rows<D>(dKeys, slopes, queries);
            }
        }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int j = row + 8 * r;
        if (j >= to) continue;
        store<D>(j < a.p ? dPrefixK : dk, key_at(a, firstRow, j, kvHead), dKeys, r, a.scale, a.d);
        store<D>(j < a.p ? dPrefixV : dv, key_at(a, firstRow, j, kvHead), dValues, r, 1, a.d);
    }
}

#define KERNELS(D) \
    extern "C" __global__ void __launch_bounds__(WARPS * WARP) \
    attention_mma_##D(Bf16 *out, float *lse, const Bf16 *q, const Bf16 *k, const Bf16 *v, const Bf16 *prefixK, \
                      const Bf16 *prefixV, const int *mask, Problem a) { \
        attention<D>(out, lse, q, k, v, prefixK, prefixV, mask, a); \
    } \
    extern "C" __global__ void __launch_bounds__(WARPS * WARP) attention_mma_backward_queries_##D( \
        Bf16 *dq, const Bf16 *dOut, const float *lse, const float *rowDot, const Bf16 *q, const Bf16 *k, const Bf16 *v, \
        const Bf16 *prefixK, const Bf16 *prefixV, const int *mask, Problem a) { \
        attention_backward_queries<D>(dq, dOut, lse, rowDot, q, k, v, prefixK, prefixV, mask, a); \
    } \
    extern "C" __global__ void __launch_bounds__(WARPS * WARP) attention_mma_backward_keys_##D( \
        Bf16 *dk, Bf16 *dv, Bf16 *dPrefixK, Bf16 *dPrefixV, const Bf16 *dOut, const float *lse, const float *rowDot, \
        const Bf16 *q, const Bf16 *k, const Bf16 *v, const Bf16 *prefixK, const Bf16 *prefixV, const int *mask, \
        int from, int to, Problem a) { \
        attention_backward_keys<D>(dk, dv, dPrefixK, dPrefixV, dOut, lse, rowDot, q, k, v, prefixK, prefixV, mask, \
                                   from, to, a); \
    }
KERNELS(64)
KERNELS(128)
