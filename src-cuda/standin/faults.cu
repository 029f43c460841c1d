// Kernels with errors, for the test that the stand-in detects them. They never run on a GPU.
#include "common.cuh"

// Half of each warp reaches the barrier, the other half a warp operation of all lanes.
extern "C" __global__ void fault_divergence(float *y) {
    if (threadIdx.x % 2 == 0) {
        __syncthreads();
    } else {
        y[threadIdx.x] = __shfl_xor_sync(ALL, 1.0f, 1);
    }
}

// In a block of 33 threads the second warp has one lane.
extern "C" __global__ void fault_missing_lanes(float *y) { y[threadIdx.x] = warp_reduce(1.0f, Add()); }

// Reads the neighbor's value without synchronization.
extern "C" __global__ void fault_missing_barrier(float *y) {
    float *shared = dynamicShared<float>();
    shared[threadIdx.x] = threadIdx.x;
    y[threadIdx.x] = shared[(threadIdx.x + 1) % blockDim.x] + shared[(threadIdx.x + blockDim.x - 1) % blockDim.x];
}

