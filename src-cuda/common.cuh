// What every kernel of this folder shares.
//
// One .cu file holds one operation: its forward kernels, and under them its backward kernels; the Java file that launches
// them has the same stem. Each file is compiled twice, from the same text: by nvcc to PTX, which ships inside the kernels
// jar and runs on the GPU; and by the C++ compiler to a library in which blocks and threads are loops (standin/), so that
// every build can test the kernels on a machine without a GPU.
//
// Conventions: rows before columns, all matrices row-major and contiguous; outputs first, then inputs, then sizes, then
// scalars, a struct last; storage may be float, bf16 or half, arithmetic and sums are float; whatever changes from step to
// step arrives in one-element buffers, so that a step can be recorded once and replayed. The order of every sum depends on
// the shape alone: no floating-point atomics, so the same arguments give the same bits.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

// Lanes of a warp: the width of every shuffle reduction.
constexpr int WARP = 32;
constexpr unsigned ALL = 0xffffffffu;

// Threads of a block for kernels that give a block one row (norms, softmax, cross-entropy), at most.
constexpr int ROW_THREADS = 256;

// Threads of a block for elementwise kernels, which walk the elements in grid-sized strides.
constexpr int FLAT_THREADS = 256;

// Instantiates K(suffix, type) for each floating storage type.
#define FLOATING(K) K(f32, float) K(bf16, __nv_bfloat16) K(f16, __half)

__device__ inline float widen(float v) { return v; }
__device__ inline float widen(__nv_bfloat16 v) { return __bfloat162float(v); }
__device__ inline float widen(__half v) { return __half2float(v); }

// y <- v, rounded to nearest even.
__device__ inline void narrow(float &y, float v) { y = v; }
__device__ inline void narrow(__nv_bfloat16 &y, float v) { y = __float2bfloat16_rn(v); }
__device__ inline void narrow(__half &y, float v) { y = __float2half_rn(v); }

// y <- v, or y <- y + v.
template <class T>
__device__ inline void put(T &y, float v, bool accumulate) {
    narrow(y, accumulate ? widen(y) + v : v);
}

// 16 bytes: the widest access of one thread.
template <class T>
struct __align__(16) Pack {
    static constexpr int SIZE = 16 / sizeof(T);
    T v[SIZE];
};

template <class T>
__device__ inline bool aligned(const T *p) {
    return (reinterpret_cast<unsigned long long>(p) & 15) == 0;
}

// As many neighbours as 16 bytes hold, widened: what a thread has of a row at a time.
template <class T>
struct Few {
    float v[Pack<T>::SIZE];
};

// The neighbours from p on, of which there are `left`; zeros where there are fewer.
template <class T>
__device__ inline Few<T> take(const T *p, int left) {
    Few<T> f;
    if (left >= Pack<T>::SIZE && aligned(p)) {
        Pack<T> pack = *reinterpret_cast<const Pack<T> *>(p);
        for (int k = 0; k < Pack<T>::SIZE; k++) f.v[k] = widen(pack.v[k]);
    } else {
        for (int k = 0; k < Pack<T>::SIZE; k++) f.v[k] = k < left ? widen(p[k]) : 0;
    }
    return f;
}

// The reverse (or +=).
template <class T>
__device__ inline void give(T *p, Few<T> f, int left, bool accumulate = false) {
    if (left >= Pack<T>::SIZE && aligned(p)) {
        Pack<T> pack;
        if (accumulate) pack = *reinterpret_cast<const Pack<T> *>(p);
        for (int k = 0; k < Pack<T>::SIZE; k++) put(pack.v[k], f.v[k], accumulate);
        *reinterpret_cast<Pack<T> *>(p) = pack;
    } else {
        for (int k = 0; k < Pack<T>::SIZE; k++) {
            if (k < left) put(p[k], f.v[k], accumulate);
        }
    }
}

// f(j, left) for every P-th column j of a row that this thread has: f takes and gives the P columns from there on, `left`
// of which exist.
template <class T, class F>
__device__ inline void along_row(int cols, F f) {
    constexpr int P = Pack<T>::SIZE;
#pragma unroll 1
    for (int j = threadIdx.x * P; j < cols; j += blockDim.x * P) f(j, cols - j);
}

__device__ inline long long flat_thread() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ inline long long flat_threads() { return (long long)gridDim.x * blockDim.x; }

// Four neighbours: what a function of map sees at a time.
struct Four {
    float v[4];
};

// y[i] <- f(a[i], b[i]) (or +=) for i < n, by functions of Fours; y may be a or b.
template <class T, class F>
__device__ inline void map4(T *y, const T *a, const T *b, long long n, bool accumulate, F f) {
    constexpr int P = Pack<T>::SIZE;
    long long packs = aligned(y) && aligned(a) && aligned(b) ? n / P : 0;
    for (long long i = flat_thread(); i < packs; i += flat_threads()) {
        Pack<T> pa = reinterpret_cast<const Pack<T> *>(a)[i];
        Pack<T> pb = reinterpret_cast<const Pack<T> *>(b)[i];
        Pack<T> py;
        if (accumulate) py = reinterpret_cast<const Pack<T> *>(y)[i];
#pragma unroll
        for (int j = 0; j < P; j += 4) {
            Four fa, fb;
            for (int k = 0; k < 4; k++) fa.v[k] = widen(pa.v[j + k]);
            for (int k = 0; k < 4; k++) fb.v[k] = widen(pb.v[j + k]);
            Four fy = f(fa, fb);
            for (int k = 0; k < 4; k++) put(py.v[j + k], fy.v[k], accumulate);
        }
        reinterpret_cast<Pack<T> *>(y)[i] = py;
    }
#pragma unroll 1
    for (long long i = packs * P + flat_thread(); i < n; i += flat_threads()) {
        float va = widen(a[i]), vb = widen(b[i]);
        put(y[i], f(Four{va, va, va, va}, Four{vb, vb, vb, vb}).v[0], accumulate);
    }
}

// The same, by functions of single elements.
template <class T, class F>
__device__ inline void map(T *y, const T *a, const T *b, long long n, bool accumulate, F f) {
    map4(y, a, b, n, accumulate, [f](Four x, Four z) {
        Four r;
        for (int k = 0; k < 4; k++) r.v[k] = f(x.v[k], z.v[k]);
        return r;
    });
}

struct Add {
    static constexpr float NEUTRAL = 0;
    __device__ float operator()(float a, float b) const { return a + b; }
};
struct Max {
    static constexpr float NEUTRAL = -INFINITY;
    __device__ float operator()(float a, float b) const { return a != a || a > b ? a : b; }
};

// The lanes' values combined, in every lane.
template <class F>
__device__ inline float warp_reduce(float v, F f) {
#pragma unroll
    for (int with = WARP / 2; with > 0; with /= 2) v = f(v, __shfl_xor_sync(ALL, v, with));
    return v;
}

// The threads' values combined, in every thread; a block has a whole number of warps.
template <class F>
__device__ inline float block_reduce(float v, F f) {
    __shared__ float partial[WARP];
    v = warp_reduce(v, f);
    if (blockDim.x == WARP) return v;
    if (threadIdx.x % WARP == 0) partial[threadIdx.x / WARP] = v;
    __syncthreads();
    v = warp_reduce(threadIdx.x % WARP < blockDim.x / WARP ? partial[threadIdx.x % WARP] : F::NEUTRAL, f);
    // The next call may write `partial`.
    __syncthreads();
    return v;
}

#ifndef CUDA_EMU
// The shared memory a launch asks for.
template <class T>
__device__ inline T *dynamicShared() {
    extern __shared__ __align__(16) unsigned char dynamic_shared[];
    return reinterpret_cast<T *>(dynamic_shared);
}
#endif

// Where a kernel says what was wrong with its arguments: host memory that the device sees, all zero while all is well.
// The first complaint stays.
struct Complaint {
    int code, value, limit;
};
enum { ID_TOO_LARGE = 1, LABEL_OUT_OF_RANGE = 2 };

__device__ inline void complain(Complaint *c, int code, int value, int limit) {
    if (atomicCAS(&c->code, 0, code) == 0) {
        c->value = value;
        c->limit = limit;
    }
}
