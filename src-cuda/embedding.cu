// Rows of a table by id, and the table's gradient.
#include "common.cuh"

// y (n, cols) <- rows ids (n) of table (rows, cols), zeros for a negative id: one block per row.
template <class T>
__device__ inline void gather(T *y, const T *table, const int *ids, Complaint *c, long long rows, int cols) {
    int id = ids[blockIdx.x];
    if (id >= rows) {
        if (threadIdx.x == 0) complain(c, ID_TOO_LARGE, id, (int)rows);
        id = -1;
    }
    T *to = y + (long long)blockIdx.x * cols;
    const T *from = table + (long long)max(id, 0) * cols;
    along_row<T>(cols, [&](int j, int left) {
        Few<T> v = {};
        if (id >= 0) v = take(from + j, left);
        give(to + j, v, left);
    });
}

// dTable[ids[i]] += dy[i] for i = 0 ... n - 1, in that order. There is one block per i: the block of the first
// occurrence of an id sums all of them and the others do nothing, so that no two blocks write the same row and the
// result does not depend on their order. Each block scans the ids once, as many at a time as it has threads.
template <class T>
__device__ inline void gather_backward(T *dTable, const T *dy, const int *ids, Complaint *c, int n, int rows, int cols) {
    int first = blockIdx.x, id = ids[first];
    if (id >= rows && threadIdx.x == 0) complain(c, ID_TOO_LARGE, id, rows);
    bool seen = id < 0 || id >= rows;
    for (int i = threadIdx.x; i < first; i += blockDim.x) seen |= ids[i] == id;
    if (__syncthreads_or(seen)) return;
    __shared__ unsigned hits[ROW_THREADS / WARP];
    for (int from = first; from < n; from += blockDim.x) {
        int at = from + threadIdx.x;
        unsigned mine = __ballot_sync(ALL, at < n && ids[at] == id);
        if (threadIdx.x % WARP == 0) hits[threadIdx.x / WARP] = mine;
        if (!__syncthreads_or(mine != 0)) continue;
        for (int j = threadIdx.x; j < cols; j += blockDim.x) {
            float sum = widen(dTable[(long long)id * cols + j]);
            for (unsigned w = 0; w < blockDim.x / WARP; w++) {
                for (unsigned left = hits[w]; left != 0; left &= left - 1) {
                    int i = from + w * WARP + __ffs(left) - 1;
                    sum += widen(dy[(long long)i * cols + j]);
                }
            }
            narrow(dTable[(long long)id * cols + j], sum);
        }
        // The next ids may overwrite these.
        __syncthreads();
    }
}

#define KERNELS(S, T) \
    extern "C" __global__ void gather_##S(T *y, const T *table, const int *ids, Complaint *c, long long rows, int cols) { \
        gather(y, table, ids, c, rows, cols); \
    } \
    extern "C" __global__ void gather_backward_##S(T *dTable, const T *dy, const int *ids, Complaint *c, int n, int rows, \
                                                   int cols) { \
        gather_backward(dTable, dy, ids, c, n, rows, cols); \
    }
FLOATING(KERNELS)
