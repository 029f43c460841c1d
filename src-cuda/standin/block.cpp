// The threads of a block. They run one after another on one stack until one has to wait; from then on that stack is its
// own, and the rest run on another. So a kernel without barriers costs a call a thread.
//
// LORAN_STANDIN_ORDER=reverse starts the threads of a block from the last, and the blocks of a grid too: what depends on
// the order without a barrier then gives another result.
#include "emu.h"
#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim
#include "driver.h"

#include <sys/mman.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// Saves the registers a call must keep, changes stacks, and goes on where the other stack stopped. By a jump, not a
// return, so that a processor's shadow stack has nothing to complain about.
asm(R"(
.text
.type emu_switch, @function
emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    popq %rcx
    jmp *%rcx
)");
extern "C" __attribute__((visibility("hidden"))) void emu_switch(void **saved, void *next);

namespace emu {
Position position;

namespace {
constexpr size_t STACK = 256 << 10;
constexpr size_t PAGE = 4096;

struct Fiber {
    char *memory;
    void *sp = nullptr;

    Fiber() {
        memory = static_cast<char *>(
            mmap(nullptr, STACK + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        if (memory == MAP_FAILED) abort();
        mprotect(memory, PAGE, PROT_NONE);
    }

    // The next switch here calls `entry`, which never returns.
    void reset(void (*entry)(), size_t index) {
#ifdef __SANITIZE_ADDRESS__
        ASAN_UNPOISON_MEMORY_REGION(memory + PAGE, STACK);
#endif
        // Stacks that all start at the same place of a page would fight for the same lines of the cache.
        auto **top = reinterpret_cast<void **>(memory + PAGE + STACK - 64 * (1 + index % 32));
        *--top = nullptr;
        *--top = reinterpret_cast<void *>(entry);
        sp = top - 6;
    }
};

enum class State : uint8_t { NEW, RUNNING, BARRIER, WARP, DONE };

struct Lane {
    State state = State::NEW;
    Fiber *fiber = nullptr;
    unsigned mask = 0;
    WarpFunction function = nullptr;
    void *argument = nullptr;
};

const bool REVERSE = [] {
    const char *order = getenv("LORAN_STANDIN_ORDER");
    return order && std::string(order) == "reverse";
}();

struct Block {
    const Thread *thread = nullptr;
    std::vector<Lane> lanes;
    std::vector<std::unique_ptr<Fiber>> fibers;
    std::vector<Fiber *> idle;
    std::deque<int> ready;
    int size = 0, started = 0, current = 0, alive = 0, arrived = 0, predicates = 0, released = 0;
    void *scheduler = nullptr;
    const char *failure = nullptr;
};
Block block;

int index_of(int thread) { return REVERSE ? block.size - 1 - thread : thread; }

void enter(int lane) {
    block.current = lane;
    dim3 d = position.blockDim;
    position.threadIdx = {lane % d.x, lane / d.x % d.y, lane / (d.x * d.y)};
}

void switch_stack(void **saved, void *next, [[maybe_unused]] const void *stack) {
#ifdef __SANITIZE_ADDRESS__
    void *fake;
    __sanitizer_start_switch_fiber(&fake, stack, stack ? STACK : 0);
    emu_switch(saved, next);
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#else
    emu_switch(saved, next);
#endif
}

void to_scheduler(Fiber *fiber) { switch_stack(&fiber->sp, block.scheduler, nullptr); }

// All that wait at the barrier go on.
void release_barrier() {
    block.released = block.predicates;
    block.arrived = block.predicates = 0;
    for (int i = 0; i < block.size; i++) {
        if (block.lanes[i].state == State::BARRIER) {
            block.lanes[i].state = State::RUNNING;
            block.ready.push_back(i);
        }
    }
}

// The fiber that runs now; a fiber's first words are found from here, for a lane may change fibers only at its start.
Fiber *running = nullptr;

void run_threads() {
    Fiber *self = running;
    while (block.started < block.size) {
        int lane = index_of(block.started++);
        Lane &l = block.lanes[lane];
        l.state = State::RUNNING;
        l.fiber = self;
        enter(lane);
        (*block.thread)();
        l.state = State::DONE;
        block.alive--;
        if (block.arrived > 0 && block.arrived == block.alive) release_barrier();
    }
    block.idle.push_back(self);
    to_scheduler(self);
    __builtin_unreachable();
}

void resume(Fiber *fiber) {
    running = fiber;
    switch_stack(&block.scheduler, fiber->sp, fiber->memory + PAGE);
}

void wait() {
    int lane = block.current;
    to_scheduler(block.lanes[lane].fiber);
    enter(lane);
}

void deadlock() {
    int barrier = 0, warp = 0;
    for (int i = 0; i < block.size; i++) {
        barrier += block.lanes[i].state == State::BARRIER;
        warp += block.lanes[i].state == State::WARP;
    }
    fprintf(stderr, "loran stand-in: %d threads wait at __syncthreads, %d at a warp operation, none can go on\n",
            barrier, warp);
    block.failure = "deadlock";
}

void run_block() {
    block.lanes.assign(block.size, Lane());
    block.ready.clear();
    block.started = block.arrived = block.predicates = 0;
    block.alive = block.size;
    while (block.alive > 0 && !block.failure) {
        if (block.started < block.size) {
            if (block.idle.empty()) {
                block.fibers.push_back(std::make_unique<Fiber>());
                block.idle.push_back(block.fibers.back().get());
            }
            Fiber *fiber = block.idle.back();
            block.idle.pop_back();
            fiber->reset([] {
#ifdef __SANITIZE_ADDRESS__
                __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
                run_threads();
            }, block.fibers.size());
            resume(fiber);
        } else if (!block.ready.empty()) {
            int lane = block.ready.front();
            block.ready.pop_front();
            resume(block.lanes[lane].fiber);
        } else {
            deadlock();
        }
    }
    if (block.failure) {
        // Stacks that were left in the middle of a thread are simply used again.
        block.idle.clear();
        for (auto &f : block.fibers) block.idle.push_back(f.get());
    }
}
}  // namespace

int barrier(bool predicate) {
    block.predicates += predicate;
    if (++block.arrived == block.alive) {
        release_barrier();
        return block.released;
    }
    block.lanes[block.current].state = State::BARRIER;
    wait();
    return block.released;
}

void warp(unsigned mask, WarpFunction function, void *argument) {
    int me = block.current, first = me & ~31;
    if (!(mask >> (me & 31) & 1)) fail("lane %d is not in the mask %08x of its own warp operation", me & 31, mask);
    Lane &mine = block.lanes[me];
    mine.mask = mask;
    mine.function = function;
    mine.argument = argument;
    mine.state = State::WARP;
    void *arguments[32] = {};
    bool complete = true;
    for (int i = 0; i < 32; i++) {
        if (!(mask >> i & 1)) continue;
        if (first + i >= block.size) fail("the mask %08x names lanes beyond the block's %d threads", mask, block.size);
        const Lane &other = block.lanes[first + i];
        if (other.state == State::DONE) fail("the mask %08x names lane %d, which has ended", mask, i);
        if (other.state != State::WARP) {
            complete = false;
        } else if (other.mask != mask || other.function != function) {
            fail("lanes %d and %d meet in different warp operations or masks", me & 31, i);
        }
        arguments[i] = other.argument;
    }
    if (!complete) {
        wait();
        return;
    }
    function(arguments);
    for (int i = 0; i < 32; i++) {
        if (!(mask >> i & 1)) continue;
        Lane &other = block.lanes[first + i];
        other.state = State::RUNNING;
        if (first + i != me) block.ready.push_back(first + i);
    }
}

void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("loran stand-in: block ", stderr);
    fprintf(stderr, "(%u, %u, %u), thread %d: ", position.blockIdx.x, position.blockIdx.y, position.blockIdx.z,
            block.current);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    block.failure = "failed";
    to_scheduler(block.lanes[block.current].fiber);
    __builtin_unreachable();
}

bool run_grid(const Thread &thread, dim3 grid, dim3 size, size_t sharedBytes) {
    static std::vector<unsigned char> shared;
    // Room to start at a multiple of 128 bytes.
    shared.resize(sharedBytes + 128);
    position.dynamicShared = reinterpret_cast<unsigned char *>(
        (reinterpret_cast<uintptr_t>(shared.data()) + 127) & ~uintptr_t(127));
    position.gridDim = grid;
    position.blockDim = size;
    block.thread = &thread;
    block.size = size.x * size.y * size.z;
    block.failure = nullptr;
    uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
    for (uint64_t i = 0; i < blocks && !block.failure; i++) {
        uint64_t b = REVERSE ? blocks - 1 - i : i;
        position.blockIdx = {unsigned(b % grid.x), unsigned(b / grid.x % grid.y), unsigned(b / grid.x / grid.y)};
        memset(position.dynamicShared, 0xff, sharedBytes);
        run_block();
    }
    return !block.failure;
}
}  // namespace emu
