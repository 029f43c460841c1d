// A libcuda.so.1 for tests on machines without a GPU: the functions the backend calls, over ordinary memory, with the
// project's own kernels inside. Nobody can take it for a GPU: its device is named "Loran CPU stand-in (not a GPU)", and
// it says so on standard error when it is first used.
//
// Device memory is filled with NaN when allocated, ends where the process may not read or write, and every copy is
// checked against what is live. LORAN_STANDIN_MIB sets how much there is (512), LORAN_STANDIN_ASYNC=1 puts work off until
// somebody waits for its stream.
#include "emu.h"
#include "driver.h"

#include <sys/mman.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#define API extern "C" __attribute__((visibility("default"))) int

namespace {
enum Status {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    LAUNCH_FAILED = 719,
    NOT_SUPPORTED = 801,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
};

using Work = std::function<void()>;
using Address = unsigned long long;

struct Graph {
    std::vector<Work> nodes;
};
struct Stream {
    std::deque<Work> queue;
    std::unique_ptr<Graph> capture;
};
struct Event {
    Stream *stream = nullptr;
    int pending = 0;
    std::chrono::steady_clock::time_point passed{};
};
struct Module {
    std::string ptx;
};
struct Function {
    std::string name;
    emu::Thread (*bind)(void **);
};

const size_t PAGE = 4096;
// What cuMemAlloc promises.
const size_t ALIGNMENT = 256;

struct Memory {
    char *start;
    size_t size;
    char *pages;
    size_t mapped;
};

#ifdef __SANITIZE_ADDRESS__
// The sanitizer watches what lies around memory of its own.
Memory map_memory(size_t bytes) {
    void *p = nullptr;
    return {posix_memalign(&p, ALIGNMENT, bytes) ? nullptr : static_cast<char *>(p), bytes, nullptr, 0};
}
void unmap_memory(const Memory &m) { free(m.start); }
#else
// Up to a page that may not be touched.
Memory map_memory(size_t bytes) {
    size_t size = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT, mapped = (size + PAGE - 1) / PAGE * PAGE + PAGE;
    void *p = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return {};
    char *pages = static_cast<char *>(p);
    mprotect(pages + mapped - PAGE, PAGE, PROT_NONE);
    return {pages + mapped - PAGE - size, bytes, pages, mapped};
}
void unmap_memory(const Memory &m) { munmap(m.pages, m.mapped); }
#endif

std::recursive_mutex lock;
std::map<Address, Memory> live;
std::set<Stream *> streams;
Stream null_stream;
size_t used = 0;
bool initialized = false;
int retained = 0;
int error = SUCCESS;
thread_local void *context = nullptr;

// What a test asks of the device by the environment.
long setting(const char *variable, long otherwise) {
    const char *value = getenv(variable);
    return value ? atol(value) : otherwise;
}

size_t total() {
    static const size_t bytes = size_t(setting("LORAN_STANDIN_MIB", 512)) << 20;
    return bytes;
}

std::map<std::string, emu::Thread (*)(void **)> &kernels() {
    static std::map<std::string, emu::Thread (*)(void **)> all;
    return all;
}

Stream *stream_of(void *handle) { return handle ? static_cast<Stream *>(handle) : &null_stream; }

void drain(Stream *s) {
    std::deque<Work> work;
    work.swap(s->queue);
    for (Work &w : work) w();
}

void drain_all() {
    drain(&null_stream);
    for (Stream *s : streams) drain(s);
}

int take_error() { return error; }

bool check_copy(Address device, size_t bytes, const char *what) {
    return emu::is_device(reinterpret_cast<void *>(device), bytes, what);
}

int copy(void *stream, void *dst, const void *src, size_t bytes) {
    emu::enqueue(stream, [=] { memmove(dst, src, bytes); });
    return SUCCESS;
}

#define LOCKED std::lock_guard<std::recursive_mutex> guard(lock)
#define NEEDS_CONTEXT \
    LOCKED;           \
    if (!context) return INVALID_CONTEXT; \
    if (error) return error
}  // namespace

namespace emu {
Registration::Registration(const char *name, Thread (*bind)(void **)) { kernels()[name] = bind; }

void enqueue(void *stream, std::function<void()> work) {
    static const bool async = [] {
        const char *a = getenv("LORAN_STANDIN_ASYNC");
        return a && *a == '1';
    }();
    LOCKED;
    Stream *s = stream_of(stream);
    if (s->capture) {
        s->capture->nodes.push_back(std::move(work));
    } else if (async) {
        s->queue.push_back(std::move(work));
    } else {
        work();
    }
}

bool is_device(const void *address, size_t bytes, const char *what) {
    LOCKED;
    Address a = reinterpret_cast<Address>(address);
    auto next = live.upper_bound(a);
    if (next != live.begin()) {
        auto &[start, memory] = *std::prev(next);
        if (a - start <= memory.size && bytes <= memory.size - (a - start)) return true;
    }
    fprintf(stderr, "loran stand-in: %s: %zu bytes from %p are not within one live allocation\n", what, bytes, address);
    return false;
}
}  // namespace emu

// ---- the device

API cuInit(unsigned) {
    LOCKED;
    if (!initialized) {
        fprintf(stderr, "loran stand-in: this is no GPU: CUDA calls run on the CPU, for tests\n");
        initialized = true;
    }
    return setting("LORAN_STANDIN_INIT", SUCCESS);
}
API cuDriverGetVersion(int *version) {
    *version = setting("LORAN_STANDIN_DRIVER", 12000);
    return SUCCESS;
}
API cuDeviceGetCount(int *count) {
    *count = 1;
    return initialized ? SUCCESS : NOT_INITIALIZED;
}
API cuDeviceGet(int *device, int ordinal) {
    *device = ordinal;
    return ordinal == 0 ? SUCCESS : INVALID_DEVICE;
}
API cuDeviceGetName(char *name, int size, int) {
    snprintf(name, size, "Loran CPU stand-in (not a GPU)");
    return SUCCESS;
}
API cuDeviceTotalMem_v2(size_t *bytes, int) {
    *bytes = total();
    return SUCCESS;
}
API cuDeviceGetAttribute(int *value, int attribute, int) {
    switch (attribute) {
        case 1: *value = 1024; break;                // threads of a block
        case 8: *value = 48 << 10; break;            // shared memory of a block
        case 10: *value = 32; break;                 // lanes of a warp
        case 16: *value = 4; break;                  // multiprocessors
        case 75: *value = setting("LORAN_STANDIN_CAPABILITY", 8); break;
        case 76: *value = 0; break;
        case 97: *value = 163 << 10; break;          // shared memory of a block that asks for it
        default: *value = 0;
    }
    return SUCCESS;
}
API cuDevicePrimaryCtxRetain(void **c, int) {
    LOCKED;
    static int primary;
    *c = &primary;
    if (!initialized) return NOT_INITIALIZED;
    retained++;
    return SUCCESS;
}
API cuDevicePrimaryCtxRelease_v2(int) {
    LOCKED;
    if (retained == 0) return INVALID_CONTEXT;
    if (--retained == 0) {
        // What was left behind, errors too, goes with the context.
        drain_all();
        for (auto &[address, memory] : live) unmap_memory(memory);
        live.clear();
        used = 0;
        error = SUCCESS;
    }
    return SUCCESS;
}
API cuDevicePrimaryCtxRelease(int device) { return cuDevicePrimaryCtxRelease_v2(device); }
API cuCtxSetCurrent(void *c) {
    context = c;
    return SUCCESS;
}
API cuCtxGetCurrent(void **c) {
    *c = context;
    return SUCCESS;
}
API cuCtxSynchronize() {
    NEEDS_CONTEXT;
    drain_all();
    return take_error();
}
API cuGetErrorName(int status, const char **name) {
    static const std::map<int, const char *> names{
        {SUCCESS, "CUDA_SUCCESS"},
        {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"},
        {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
        {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED"},
        {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"},
        {NOT_FOUND, "CUDA_ERROR_NOT_FOUND"},
        {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED"},
    };
    auto it = names.find(status);
    *name = it == names.end() ? "CUDA_ERROR_UNKNOWN" : it->second;
    return SUCCESS;
}
API cuGetErrorString(int status, const char **text) { return cuGetErrorName(status, text); }

// ---- memory

API cuMemAlloc_v2(Address *address, size_t bytes) {
    NEEDS_CONTEXT;
    if (bytes == 0) return INVALID_VALUE;
    if (bytes > total() - used) return OUT_OF_MEMORY;
    Memory m = map_memory(bytes);
    if (!m.start) return OUT_OF_MEMORY;
    memset(m.start, 0xff, bytes);
    *address = reinterpret_cast<Address>(m.start);
    live[*address] = m;
    used += bytes;
    return SUCCESS;
}
API cuMemFree_v2(Address address) {
    LOCKED;
    if (!context) return INVALID_CONTEXT;
    drain_all();
    auto it = live.find(address);
    if (it == live.end()) return INVALID_VALUE;
    used -= it->second.size;
    unmap_memory(it->second);
    live.erase(it);
    return SUCCESS;
}
API cuMemGetInfo_v2(size_t *free, size_t *all) {
    NEEDS_CONTEXT;
    *free = total() - used;
    *all = total();
    return SUCCESS;
}
API cuMemHostAlloc(void **p, size_t bytes, unsigned) {
    NEEDS_CONTEXT;
    *p = aligned_alloc(PAGE, (bytes + PAGE - 1) / PAGE * PAGE);
    return *p ? SUCCESS : OUT_OF_MEMORY;
}
API cuMemFreeHost(void *p) {
    LOCKED;
    drain_all();
    free(p);
    return SUCCESS;
}
API cuMemHostGetDevicePointer_v2(Address *address, void *p, unsigned) {
    *address = reinterpret_cast<Address>(p);
    return SUCCESS;
}
API cuMemcpyHtoDAsync_v2(Address dst, const void *src, size_t bytes, void *stream) {
    NEEDS_CONTEXT;
    if (!check_copy(dst, bytes, "copy to the device")) return INVALID_VALUE;
    return copy(stream, reinterpret_cast<void *>(dst), src, bytes);
}
API cuMemcpyDtoHAsync_v2(void *dst, Address src, size_t bytes, void *stream) {
    NEEDS_CONTEXT;
    if (!check_copy(src, bytes, "copy from the device")) return INVALID_VALUE;
    return copy(stream, dst, reinterpret_cast<void *>(src), bytes);
}
API cuMemcpyDtoDAsync_v2(Address dst, Address src, size_t bytes, void *stream) {
    NEEDS_CONTEXT;
    if (!check_copy(src, bytes, "copy on the device, from") || !check_copy(dst, bytes, "copy on the device, to")) {
        return INVALID_VALUE;
    }
    return copy(stream, reinterpret_cast<void *>(dst), reinterpret_cast<void *>(src), bytes);
}
API cuMemsetD8Async(Address dst, unsigned char value, size_t bytes, void *stream) {
    NEEDS_CONTEXT;
    if (!check_copy(dst, bytes, "fill")) return INVALID_VALUE;
    emu::enqueue(stream, [=] { memset(reinterpret_cast<void *>(dst), value, bytes); });
    return SUCCESS;
}

// ---- streams and graphs

API cuStreamCreate(void **stream, unsigned) {
    NEEDS_CONTEXT;
    auto *s = new Stream;
    streams.insert(s);
    *stream = s;
    return SUCCESS;
}
API cuStreamDestroy_v2(void *stream) {
    LOCKED;
    auto *s = static_cast<Stream *>(stream);
    if (!streams.count(s)) return INVALID_HANDLE;
    drain(s);
    streams.erase(s);
    delete s;
    return SUCCESS;
}
API cuStreamSynchronize(void *stream) {
    NEEDS_CONTEXT;
    Stream *s = stream_of(stream);
    if (s->capture) return CAPTURE_UNSUPPORTED;
    drain(s);
    return take_error();
}
API cuStreamBeginCapture_v2(void *stream, int) {
    NEEDS_CONTEXT;
    stream_of(stream)->capture = std::make_unique<Graph>();
    return SUCCESS;
}
API cuStreamEndCapture(void *stream, void **graph) {
    NEEDS_CONTEXT;
    Stream *s = stream_of(stream);
    if (!s->capture) return CAPTURE_INVALIDATED;
    *graph = s->capture.release();
    return SUCCESS;
}
API cuGraphInstantiateWithFlags(void **exec, void *graph, unsigned long long) {
    *exec = new Graph(*static_cast<Graph *>(graph));
    return SUCCESS;
}
API cuGraphLaunch(void *exec, void *stream) {
    NEEDS_CONTEXT;
    for (const Work &w : static_cast<Graph *>(exec)->nodes) emu::enqueue(stream, w);
    return SUCCESS;
}
API cuGraphExecDestroy(void *exec) {
    delete static_cast<Graph *>(exec);
    return SUCCESS;
}
API cuGraphDestroy(void *graph) {
    delete static_cast<Graph *>(graph);
    return SUCCESS;
}

// ---- events

API cuEventCreate(void **event, unsigned) {
    NEEDS_CONTEXT;
    *event = new Event;
    return SUCCESS;
}
API cuEventRecord(void *event, void *stream) {
    NEEDS_CONTEXT;
    auto *e = static_cast<Event *>(event);
    e->stream = stream_of(stream);
    e->pending++;
    emu::enqueue(stream, [e] {
        e->pending--;
        e->passed = std::chrono::steady_clock::now();
    });
    return SUCCESS;
}
// Does the work before the event, and none after it.
API cuEventSynchronize(void *event) {
    NEEDS_CONTEXT;
    auto *e = static_cast<Event *>(event);
    if (e->stream && e->stream->capture) return CAPTURE_UNSUPPORTED;
    while (e->pending > 0) {
        Work w = std::move(e->stream->queue.front());
        e->stream->queue.pop_front();
        w();
    }
    return take_error();
}
API cuEventElapsedTime(float *milliseconds, void *from, void *to) {
    *milliseconds = std::chrono::duration<float, std::milli>(static_cast<Event *>(to)->passed -
                                                             static_cast<Event *>(from)->passed)
                        .count();
    return SUCCESS;
}
API cuEventDestroy_v2(void *event) {
    LOCKED;
    drain_all();
    delete static_cast<Event *>(event);
    return SUCCESS;
}

// ---- kernels

API cuModuleLoadData(void **module, const void *image) {
    NEEDS_CONTEXT;
    *module = new Module{static_cast<const char *>(image)};
    return SUCCESS;
}
API cuModuleUnload(void *module) {
    delete static_cast<Module *>(module);
    return SUCCESS;
}
API cuModuleGetFunction(void **function, void *module, const char *name) {
    NEEDS_CONTEXT;
    // The name must be an entry of the shipped text, which is what a driver would look it up in.
    auto *m = static_cast<Module *>(module);
    auto kernel = kernels().find(name);
    if (m->ptx.find(std::string(".entry ") + name + "(") == std::string::npos || kernel == kernels().end()) {
        return NOT_FOUND;
    }
    *function = new Function{name, kernel->second};
    return SUCCESS;
}
API cuFuncSetAttribute(void *, int, int) { return SUCCESS; }
API cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *stream, void **parameters, void **) {
    NEEDS_CONTEXT;
    auto *f = static_cast<Function *>(function);
    if (!gx || !gy || !gz || gy > 65535 || gz > 65535 || !bx || !by || !bz || bx * by * bz > 1024 || bz > 64 ||
        shared > 163 << 10) {
        fprintf(stderr, "loran stand-in: %s: no GPU launches (%u, %u, %u) x (%u, %u, %u) with %u bytes\n",
                f->name.c_str(), gx, gy, gz, bx, by, bz, shared);
        return INVALID_VALUE;
    }
    emu::enqueue(stream, [=, thread = f->bind(parameters)] {
        if (!emu::run_grid(thread, {gx, gy, gz}, {bx, by, bz}, shared)) {
            fprintf(stderr, "loran stand-in: the kernel was %s\n", f->name.c_str());
            error = LAUNCH_FAILED;
        }
    });
    return SUCCESS;
}
