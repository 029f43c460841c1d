// What every kernel of this folder shares.
//
// One .cu file holds one operation: its forward kernels, and under them its backward kernels. Each file is compiled twice,
// from the same text: by nvcc to PTX, which ships inside the kernels jar and runs on the GPU; and by the C++ compiler to a
// library in which blocks and threads are loops, so that every build can test the kernels on a machine without a GPU.
//
// Conventions: rows before columns, all matrices row-major and contiguous; outputs first, then inputs, then sizes, then
// scalars; a gradient of a parameter is accumulated (+=), every other output is overwritten (=); storage may be float or
// bf16, sums are always float; whatever changes from step to step arrives in one-element buffers, so that a step can be
// recorded once and replayed.
#pragma once

// Lanes of a warp: the width of every shuffle reduction.
constexpr int WARP = 32;

// Threads of a block for kernels that give a block one row (norms, softmax, cross-entropy).
constexpr int ROW_THREADS = 256;

// Threads of a block for elementwise kernels, which walk the elements in grid-sized strides.
constexpr int FLAT_THREADS = 256;
