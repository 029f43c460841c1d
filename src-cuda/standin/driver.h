// What the stand-in's parts know of each other.
#pragma once
#include <cstddef>
#include <functional>

namespace emu {
// Runs every block of a grid; false if a thread did what a GPU would not let pass.
bool run_grid(const std::function<void()> &thread, dim3 grid, dim3 block, size_t sharedBytes);

// Work for a stream: done now; or recorded, while the stream is captured; or, under LORAN_STANDIN_ASYNC=1, done when
// somebody waits for the stream.
__attribute__((visibility("default"))) void enqueue(void *stream, std::function<void()> work);

// Whether `bytes` bytes from `address` on are live device memory; says on standard error what is not.
__attribute__((visibility("default"))) bool is_device(const void *address, size_t bytes, const char *what);
}  // namespace emu
