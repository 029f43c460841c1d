// Data movement: fill, copies of blocks of rows, permutations of dimensions, conversions.
#include "common.cuh"

// y <- value, by element size; the value is given as bits.
template <class B>
__device__ inline void fill(B *y, long long n, B value) {
    for (long long i = flat_thread(); i < n; i += flat_threads()) y[i] = value;
}

// y[i * yStride + j] <- x[i * xStride + j] for i < rows, j < cols.
template <class B>
__device__ inline void copy_rows(B *y, const B *x, int yStride, int xStride, int rows, int cols) {
    long long n = (long long)rows * cols;
    for (long long i = flat_thread(); i < n; i += flat_threads()) {
        long long row = i / cols, col = i % cols;
        y[row * yStride + col] = x[row * xStride + col];
    }
}

// The same, but adding to y.
template <class T>
__device__ inline void add_rows(T *y, const T *x, int yStride, int xStride, int rows, int cols) {
    long long n = (long long)rows * cols;
    for (long long i = flat_thread(); i < n; i += flat_threads()) {
        long long row = i / cols, col = i % cols;
        put(y[row * yStride + col], widen(x[row * xStride + col]), true);
    }
}

constexpr int DIMS = 6;

// The shape of y, and the stride in x of each of its dimensions; unused leading dimensions have size 1.
struct Permutation {
    int shape[DIMS];
    int strides[DIMS];
};

template <class B>
__device__ inline void permute(B *y, const B *x, long long n, const Permutation &p) {
    for (long long i = flat_thread(); i < n; i += flat_threads()) {
        long long rest = i, from = 0;
#pragma unroll
        for (int d = DIMS - 1; d >= 0; d--) {
            if (p.shape[d] == 1) continue;
            from += (rest % p.shape[d]) * p.strides[d];
            rest /= p.shape[d];
        }
        y[i] = x[from];
    }
}

#define MOVES(S, B) \
    extern "C" __global__ void fill_##S(B *y, long long n, B value) { fill(y, n, value); } \
    extern "C" __global__ void copy_rows_##S(B *y, const B *x, int yStride, int xStride, int rows, int cols) { \
        copy_rows(y, x, yStride, xStride, rows, cols); \
    } \
    extern "C" __global__ void permute_##S(B *y, const B *x, long long n, Permutation p) { permute(y, x, n, p); }
MOVES(1, unsigned char)
MOVES(2, unsigned short)
MOVES(4, unsigned int)

#define ADD_ROWS(S, T) \
    extern "C" __global__ void add_rows_##S(T *y, const T *x, int yStride, int xStride, int rows, int cols) { \
        add_rows(y, x, yStride, xStride, rows, cols); \
    }
FLOATING(ADD_ROWS)

// y <- x in another type. Conversions between I32 and a narrow float go through float.
template <class Y, class X>
struct Cast {
    __device__ static void element(Y &y, X x) { narrow(y, widen(x)); }
};
template <class Y>
struct Cast<Y, int> {
    __device__ static void element(Y &y, int x) { narrow(y, (float)x); }
};
template <class X>
struct Cast<int, X> {
    __device__ static void element(int &y, X x) { y = (int)widen(x); }
};

#define CAST(FROM, TO, X, Y) \
    extern "C" __global__ void cast_##FROM##_##TO(Y *y, const X *x, long long n) { \
        for (long long i = flat_thread(); i < n; i += flat_threads()) Cast<Y, X>::element(y[i], x[i]); \
    }
CAST(f32, bf16, float, __nv_bfloat16)
CAST(f32, f16, float, __half)
CAST(f32, i32, float, int)
CAST(bf16, f32, __nv_bfloat16, float)
CAST(bf16, f16, __nv_bfloat16, __half)
CAST(bf16, i32, __nv_bfloat16, int)
CAST(f16, f32, __half, float)
CAST(f16, bf16, __half, __nv_bfloat16)
CAST(f16, i32, __half, int)
CAST(i32, f32, int, float)
CAST(i32, bf16, int, __nv_bfloat16)
CAST(i32, f16, int, __half)
