// CUDA C++ for an ordinary C++ compiler: put in front of a .cu file by `g++ -include emu.h`, so that the file compiles
// unchanged into a function that runs one thread of a block. block.cpp runs the threads of a block, one after another,
// each on a stack of its own from its first wait on; driver.cpp is the libcuda.so.1 that launches them.
//
// x86-64 only. Not here: inline PTX (give it a twin under #ifdef CUDA_EMU), cooperative groups, arithmetic operators of
// bf16 and half (convert to float first). Fast-math names are exact here and approximate on a GPU.
#pragma once
#define CUDA_EMU 1

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>

#define __global__
#define __device__
#define __host__
// One block runs at a time, so a block's memory is everybody's.
#define __shared__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))

// ---- where a thread is

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};

namespace emu {
struct Position {
    uint3 threadIdx, blockIdx;
    dim3 blockDim, gridDim;
    unsigned char *dynamicShared;
};
extern Position position;
}  // namespace emu

// Read anew after every wait: a reference kept across one would be another thread's.
#define threadIdx (emu::position.threadIdx)
#define blockIdx (emu::position.blockIdx)
#define blockDim (emu::position.blockDim)
#define gridDim (emu::position.gridDim)

template <class T>
T *dynamicShared() {
    return reinterpret_cast<T *>(emu::position.dynamicShared);
}

// ---- waiting for other threads

namespace emu {
// Waits until every thread of the block that has not ended is here; how many of them came with `predicate`.
int barrier(bool predicate);

// What the last lane to arrive does for all: `arguments` has 32 entries, null for lanes outside the mask.
using WarpFunction = void (*)(void *const *arguments);

// Waits for the lanes of `mask`; `argument` stays where it is meanwhile.
void warp(unsigned mask, WarpFunction function, void *argument);

// Ends the launch with an error; `text` goes to standard error.
[[noreturn]] void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

template <class T>
struct Shuffle {
    T value, result;
    int source;
};

template <class T>
T shuffle(unsigned mask, T value, int source) {
    Shuffle<T> mine{value, value, source};
    warp(
        mask,
        [](void *const *all) {
            for (int i = 0; i < 32; i++) {
                auto *s = static_cast<Shuffle<T> *>(all[i]);
                if (!s) continue;
                auto *from = static_cast<Shuffle<T> *>(all[s->source & 31]);
                if (!from) fail("lane %d shuffles from lane %d, which is not there", i, s->source & 31);
                s->result = from->value;
            }
        },
        &mine);
    return mine.result;
}

inline int lane() {
    return (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) & 31;
}

struct Vote {
    bool predicate;
    unsigned ballot;
};
}  // namespace emu

inline void __syncthreads() { emu::barrier(false); }
inline int __syncthreads_or(int p) { return emu::barrier(p != 0) > 0; }
inline int __syncthreads_count(int p) { return emu::barrier(p != 0); }

inline void __syncwarp(unsigned mask = 0xffffffffu) {
    emu::warp(mask, [](void *const *) {}, &mask);
}

template <class T>
T __shfl_sync(unsigned mask, T v, int source, int width = 32) {
    return emu::shuffle(mask, v, (emu::lane() & ~(width - 1)) | (source & (width - 1)));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T v, int with, int width = 32) {
    int source = emu::lane() ^ with;
    return emu::shuffle(mask, v, (source & ~(width - 1)) == (emu::lane() & ~(width - 1)) ? source : emu::lane());
}
template <class T>
T __shfl_down_sync(unsigned mask, T v, int by, int width = 32) {
    return emu::shuffle(mask, v, (emu::lane() & (width - 1)) + by < width ? emu::lane() + by : emu::lane());
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
    emu::Vote mine{predicate != 0, 0};
    emu::warp(
        mask,
        [](void *const *all) {
            unsigned ballot = 0;
            for (int i = 0; i < 32; i++) {
                if (all[i] && static_cast<emu::Vote *>(all[i])->predicate) ballot |= 1u << i;
            }
            for (int i = 0; i < 32; i++) {
                if (all[i]) static_cast<emu::Vote *>(all[i])->ballot = ballot;
            }
        },
        &mine);
    return mine.ballot;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }

// ---- atomics: one thread runs at a time

template <class T>
T atomicAdd(T *p, T v) {
    T old = *p;
    *p = old + v;
    return old;
}
template <class T>
T atomicMax(T *p, T v) {
    T old = *p;
    if (v > old) *p = v;
    return old;
}
template <class T>
T atomicCAS(T *p, T expected, T v) {
    T old = *p;
    if (old == expected) *p = v;
    return old;
}
inline void __threadfence() {}

// ---- arithmetic

template <class T>
T min(T a, T b) {
    return b < a ? b : a;
}
template <class T>
T max(T a, T b) {
    return a < b ? b : a;
}
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline float __fmul_rn(float a, float b) {
    float product = a * b;
    // Keeps the compiler from fusing it into a sum.
    asm("" : "+x"(product));
    return product;
}
inline float __fdividef(float a, float b) { return a / b; }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<uint64_t>(a) * b >> 32; }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline float __int_as_float(int x) { return __builtin_bit_cast(float, x); }
inline int __float_as_int(float x) { return __builtin_bit_cast(int, x); }
template <class T>
T __ldg(const T *p) {
    return *p;
}

// ---- vectors and narrow floats: storage and conversions only

struct __align__(8) float2 {
    float x, y;
};
struct __align__(16) float4 {
    float x, y, z, w;
};
struct __align__(8) uint2 {
    unsigned x, y;
};
struct __align__(16) uint4 {
    unsigned x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

struct __nv_bfloat16 {
    uint16_t bits;
};
struct __half {
    uint16_t bits;
};

inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 v) { return v.bits; }
inline float __bfloat162float(__nv_bfloat16 v) { return __builtin_bit_cast(float, unsigned(v.bits) << 16); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
    unsigned bits = __builtin_bit_cast(unsigned, x);
    if (x != x) return {0x7fff};
    return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
inline float __half2float(__half v) {
    unsigned sign = unsigned(v.bits & 0x8000) << 16, rest = v.bits & 0x7fff;
    // The exponent of a half, moved to a float's place, is 112 too small; the product puts it right, subnormals too.
    float magnitude = rest >= 0x7c00 ? __builtin_bit_cast(float, 0x7f800000 | rest << 13)
                                     : __builtin_bit_cast(float, rest << 13) * 0x1p112f;
    return __builtin_bit_cast(float, __builtin_bit_cast(unsigned, magnitude) | sign);
}
inline __half __float2half_rn(float x) {
    unsigned bits = __builtin_bit_cast(unsigned, x);
    uint16_t sign = bits >> 16 & 0x8000;
    unsigned rest = bits & 0x7fffffff;
    if (rest > 0x7f800000) return {0x7fff};
    if (rest >= 0x477ff000) return {static_cast<uint16_t>(sign | 0x7c00)};
    if (rest < 0x38800000) {
        // Subnormal: adding 0.5 lets the adder round to the last place that is left.
        float shifted = __builtin_bit_cast(float, rest) + 0.5f;
        return {static_cast<uint16_t>(sign | (__builtin_bit_cast(unsigned, shifted) - 0x3f000000))};
    }
    return {static_cast<uint16_t>(sign | ((rest - 0x38000000 + 0xfff + (rest >> 13 & 1)) >> 13))};
}

// ---- registration, appended to each .cu file by the build

namespace emu {
// One thread of a launch.
using Thread = std::function<void()>;

struct Registration {
    // `bind` copies the arguments out of a launch's parameters.
    Registration(const char *name, Thread (*bind)(void **parameters));
};

template <auto kernel, class Signature = decltype(kernel)>
struct Kernel;

template <auto kernel, class... A>
struct Kernel<kernel, void (*)(A...)> {
    static Thread bind(void **parameters) { return bind(parameters, std::index_sequence_for<A...>()); }

    template <size_t... I>
    static Thread bind(void **parameters, std::index_sequence<I...>) {
        return [arguments = std::tuple<A...>(*static_cast<A *>(parameters[I])...)] { std::apply(kernel, arguments); };
    }
};
}  // namespace emu
