// The tensor-core product of small BF16 matrices by a whole warp, and the loading of its operands.
//
// A fragment is a warp's share of a matrix. With g = lane / 4 and t = lane % 4, a lane holds of
//   A (16, 16)  rows g and g + 8, columns 2t, 2t + 1, 2t + 8, 2t + 9
//   B (16, 8)   column g, rows 2t, 2t + 1, 2t + 8, 2t + 9
//   C (16, 8)   rows g (elements 0, 1) and g + 8 (2, 3), columns 2t and 2t + 1
// with two adjacent elements per word, the first in its lower half.
#pragma once

#include "common.cuh"

using Bf16 = __nv_bfloat16;

// Two adjacent elements, rounded.
__device__ inline unsigned pair(float first, float second) {
    Bf16 low, high;
    narrow(low, first);
    narrow(high, second);
    return __bfloat16_as_ushort(low) | (unsigned)__bfloat16_as_ushort(high) << 16;
}

// Two adjacent elements in memory, the first at an even index.
__device__ inline unsigned pair(const Bf16 *p) { return *reinterpret_cast<const unsigned *>(p); }

#ifndef CUDA_EMU
// c += a . b, accumulated in F32.
__device__ inline void mma(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The fragment of a row-major B in shared memory: lane i < 16 points to its row i, which is 16-byte aligned.
__device__ inline void load_b(unsigned &b0, unsigned &b1, const Bf16 *row) {
    unsigned at = (unsigned)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(b0), "=r"(b1)
                 : "r"(at)
                 : "memory");
}
#else
struct MmaLane {
    float *c;
    unsigned a[4], b[2];
};

inline float half_of(unsigned word, int which) {
    return __int_as_float(static_cast<int>(which ? word & 0xffff0000u : word << 16));
}

inline void multiply_fragments(void *const *lanes) {
    float a[16][16], b[16][8];
    for (int lane = 0; lane < 32; lane++) {
        auto *l = static_cast<MmaLane *>(lanes[lane]);
        int g = lane / 4, t = lane % 4;
        for (int which = 0; which < 2; which++) {
            for (int i = 0; i < 4; i++) a[g + i % 2 * 8][2 * t + i / 2 * 8 + which] = half_of(l->a[i], which);
            for (int i = 0; i < 2; i++) b[2 * t + i * 8 + which][g] = half_of(l->b[i], which);
        }
    }
    for (int lane = 0; lane < 32; lane++) {
        auto *l = static_cast<MmaLane *>(lanes[lane]);
        for (int i = 0; i < 4; i++) {
            int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
            for (int k = 0; k < 16; k++) l->c[i] += a[row][k] * b[k][column];
        }
    }
}

inline void mma(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    MmaLane mine{c, {a[0], a[1], a[2], a[3]}, {b0, b1}};
    emu::warp(ALL, multiply_fragments, &mine);
}

struct LoadLane {
    const Bf16 *row;
    unsigned b[2];
};

inline void load_fragments(void *const *lanes) {
    for (int lane = 0; lane < 32; lane++) {
        for (int i = 0; i < 2; i++) {
            unsigned word[2];
            for (int which = 0; which < 2; which++) {
                auto *from = static_cast<LoadLane *>(lanes[lane % 4 * 2 + i * 8 + which]);
                word[which] = from->row[lane / 4].bits;
            }
            static_cast<LoadLane *>(lanes[lane])->b[i] = word[0] | word[1] << 16;
        }
    }
}

inline void load_b(unsigned &b0, unsigned &b1, const Bf16 *row) {
    if (emu::lane() < 16 && reinterpret_cast<uintptr_t>(row) % 16) emu::fail("ldmatrix: a row is not 16-byte aligned");
    LoadLane mine{row, {}};
    emu::warp(ALL, load_fragments, &mine);
    b0 = mine.b[0];
    b1 = mine.b[1];
}
#endif
