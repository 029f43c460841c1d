// The functions of UnaryFn and their derivatives, numbered as in UnaryCuda.
#pragma once

#include "common.cuh"

enum Fn { NEG, ABS, EXP, LOG, SQRT, RSQRT, RECIPROCAL, SQUARE, RELU, GELU, GELU_TANH, SILU, TANH, SIGMOID };

constexpr float ROOT_HALF = 0.70710678f;
constexpr float ROOT_TWO_OVER_PI = 0.79788456f;
constexpr float INVERSE_ROOT_TWO_PI = 0.39894228f;
constexpr float CUBIC = 0.044715f;

__device__ inline float sigmoid(float x) { return 1 / (1 + expf(-x)); }

template <int FN>
__device__ inline float apply(float x) {
    if constexpr (FN == NEG) return -x;
    if constexpr (FN == ABS) return fabsf(x);
    if constexpr (FN == EXP) return expf(x);
    if constexpr (FN == LOG) return logf(x);
    if constexpr (FN == SQRT) return sqrtf(x);
    if constexpr (FN == RSQRT) return 1 / sqrtf(x);
    if constexpr (FN == RECIPROCAL) return 1 / x;
    if constexpr (FN == SQUARE) return x * x;
    // NaN stays NaN.
    if constexpr (FN == RELU) return x <= 0 ? 0 : x;
    if constexpr (FN == GELU) return 0.5f * x * erfcf(-x * ROOT_HALF);
    if constexpr (FN == GELU_TANH) return 0.5f * x * (1 + tanhf(ROOT_TWO_OVER_PI * (x + CUBIC * x * x * x)));
    if constexpr (FN == SILU) return x * sigmoid(x);
    if constexpr (FN == TANH) return tanhf(x);
    if constexpr (FN == SIGMOID) return sigmoid(x);
}

template <int FN>
__device__ inline float derivative(float x) {
    if constexpr (FN == NEG) return -1;
    if constexpr (FN == ABS) return x > 0 ? 1 : x < 0 ? -1 : x;
    if constexpr (FN == EXP) return expf(x);
    if constexpr (FN == LOG) return 1 / x;
    if constexpr (FN == SQRT) return 0.5f / sqrtf(x);
    if constexpr (FN == RSQRT) return -0.5f / (x * sqrtf(x));
    if constexpr (FN == RECIPROCAL) return -1 / (x * x);
    if constexpr (FN == SQUARE) return 2 * x;
    if constexpr (FN == RELU) return x > 0 ? 1 : 0;
    if constexpr (FN == GELU) return 0.5f * erfcf(-x * ROOT_HALF) + x * expf(-0.5f * x * x) * INVERSE_ROOT_TWO_PI;
    if constexpr (FN == GELU_TANH) {
        float t = tanhf(ROOT_TWO_OVER_PI * (x + CUBIC * x * x * x));
        return 0.5f * (1 + t) + 0.5f * x * (1 - t * t) * ROOT_TWO_OVER_PI * (1 + 3 * CUBIC * x * x);
    }
    if constexpr (FN == SILU) {
        float s = sigmoid(x);
        return s * (1 + x * (1 - s));
    }
    if constexpr (FN == TANH) return 1 - tanhf(x) * tanhf(x);
    if constexpr (FN == SIGMOID) return sigmoid(x) * (1 - sigmoid(x));
}

// Called rather than inlined, for all storage types: inlining the functions everywhere would give a megabyte of PTX.
template <int FN>
__device__ __attribute__((noinline)) Four apply4(Four x) {
    for (int k = 0; k < 4; k++) x.v[k] = apply<FN>(x.v[k]);
    return x;
}

template <int FN>
__device__ __attribute__((noinline)) Four derivative4(Four x) {
    for (int k = 0; k < 4; k++) x.v[k] = derivative<FN>(x.v[k]);
    return x;
}

#define FUNCTIONS(K) \
    K(NEG) K(ABS) K(EXP) K(LOG) K(SQRT) K(RSQRT) K(RECIPROCAL) K(SQUARE) K(RELU) K(GELU) K(GELU_TANH) K(SILU) K(TANH) \
    K(SIGMOID)

__device__ inline Four apply4(int fn, Four x) {
    switch (fn) {
#define CASE(FN) \
    case FN: return apply4<FN>(x);
        FUNCTIONS(CASE)
#undef CASE
    }
    return x;
}

__device__ inline Four derivative4(int fn, Four x) {
    switch (fn) {
#define CASE(FN) \
    case FN: return derivative4<FN>(x);
        FUNCTIONS(CASE)
#undef CASE
    }
    return x;
}
