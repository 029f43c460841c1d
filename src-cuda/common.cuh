// Shared by all kernels in this folder.
//
// Each .cu file holds one operation: its forward kernels, followed by its backward kernels. The Java file that launches
// them has the same name. Each file is compiled twice, from the same source: by nvcc to PTX, which ships inside the
// kernels jar and runs on the GPU; and by the C++ compiler to a library in which blocks and threads are loops
// (standin/), so that every build can test the kernels on a machine without a GPU.
//
// Conventions: rows before columns, all matrices row-major and contiguous; outputs first, then inputs, sizes, scalars,
// and a struct last. Storage may be float, bf16 or half; arithmetic and sums are float. Values that change between
// steps are passed in one-element buffers, so that a step can be recorded once and replayed. The order of every sum
// depends only on the shape, without floating-point atomics, so that the same arguments give the same bits.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

// Lanes of a warp: the width of every shuffle reduction.
constexpr int WARP = 32;
constexpr unsigned ALL = 0xffffffffu;

// Maximum number of threads per block for kernels that use one block per row (norms, softmax, cross-entropy).
constexpr int ROW_THREADS = 256;

// Threads per block for elementwise kernels, which use grid-stride loops.
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

// 16 bytes: the widest memory access of a thread.
template <class T>
struct __align__(16) Pack {
    static constexpr int SIZE = 16 / sizeof(T);
    T v[SIZE];
};

template <class T>
__device__ inline bool aligned(const T *p) {
    return (reinterpret_cast<unsigned long long>(p) & 15) == 0;
}

// As many adjacent elements as 16 bytes hold, widened: the unit in which a thread processes a row.
template <class T>
struct Few {
    float v[Pack<T>::SIZE];
};

// The adjacent elements from p on, of which `left` exist; the others are zero.
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

// The reverse: stores them (or +=).
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

// f(j, left) for every P-th column j of a row that belongs to this thread: f processes the P columns from j on, `left`
// of which exist.
template <class T, class F>
__device__ inline void along_row(int cols, F f) {
    constexpr int P = Pack<T>::SIZE;
#pragma unroll 1
    for (int j = threadIdx.x * P; j < cols; j += blockDim.x * P) f(j, cols - j);
}

__device__ inline long long flat_thread() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ inline long long flat_threads() { return (long long)gridDim.x * blockDim.x; }

// Four adjacent elements: the unit of map4's functions.
struct Four {
    float v[4];
};

// y[i] <- f(a[i], b[i]) (or +=) for i < n, where f takes Fours; y may be a or b.
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

// The same, where f takes single elements.
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

// Combines the lanes' values; every lane gets the result.
template <class F>
__device__ inline float warp_reduce(float v, F f) {
#pragma unroll
    for (int with = WARP / 2; with > 0; with /= 2) v = f(v, __shfl_xor_sync(ALL, v, with));
    return v;
}

// Combines the threads' values; every thread gets the result. A block must have a whole number of warps.
template <class F>
__device__ inline float block_reduce(float v, F f) {
    __shared__ float partial[WARP];
    v = warp_reduce(v, f);
    if (blockDim.x == WARP) return v;
    if (threadIdx.x % WARP == 0) partial[threadIdx.x / WARP] = v;
    __syncthreads();
    v = warp_reduce(threadIdx.x % WARP < blockDim.x / WARP ? partial[threadIdx.x % WARP] : F::NEUTRAL, f);
    // The next call may overwrite `partial`.
    __syncthreads();
    return v;
}

#ifndef CUDA_EMU
// The dynamic shared memory of the launch.
template <class T>
__device__ inline T *dynamicShared() {
    extern __shared__ __align__(16) unsigned char dynamic_shared[];
    return reinterpret_cast<T *>(dynamic_shared);
}
#endif

// Where a kernel reports invalid arguments: host memory that is visible to the device, all zero unless there was an
// error. The first report is kept.
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
