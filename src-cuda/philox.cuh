// Philox4x32-10 (Salmon et al., SC 2011), which generates DropoutMask's bits.
#pragma once
#include "common.cuh"

// Determines which elements of a (rows, cols) matrix are kept; `step` is read on the device.
struct Mask {
    unsigned keyLow, keyHigh, site, threshold;
    float scale;
};

// The four output words for a counter.
__device__ inline uint4 philox(unsigned c0, unsigned c1, unsigned c2, unsigned c3, unsigned k0, unsigned k1) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        unsigned h0 = __umulhi(0xD2511F53u, c0), l0 = 0xD2511F53u * c0;
        unsigned h1 = __umulhi(0xCD9E8D57u, c2), l1 = 0xCD9E8D57u * c2;
        c0 = h1 ^ c1 ^ k0;
        c2 = h0 ^ c3 ^ k1;
        c1 = l1;
        c3 = l0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return make_uint4(c0, c1, c2, c3);
}

// The words of columns 4 * group ... 4 * group + 3 of `row`.
__device__ inline uint4 words(const Mask &m, int step, int row, int group) {
    return philox(step, m.site, row, group, m.keyLow, m.keyHigh);
}
