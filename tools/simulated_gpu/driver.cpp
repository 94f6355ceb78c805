// A CUDA driver without a GPU: the functions of libcuda that Tintype calls, on the host. Kernels are
// what `compiler.cpp` made of them. It is there to find mistakes, so it is as unkind as the
// documentation allows:
//
// - Work of a stream is done when somebody waits for it, as late as may be, and in an order that
//   SIMULATED_ORDER chooses: who forgets to wait for another stream reads memory of before.
// - New memory is full of ones, which are NaN, and what lies beside or was freed cannot be touched.
// - A context must be current in the thread. What may not be captured ends the capture.
// - Copies from memory that is not pinned take it when they are enqueued, others when they are done.
//
// SIMULATED_CAPABILITY is that of the device (90), SIMULATED_MEMORY its bytes (4 GiB),
// SIMULATED_FAIL the number of the allocation that fails.

#include <dlfcn.h>
#include <fcntl.h>
#include <mutex>

#include "streams.h"

static std::recursive_mutex mutex;
using Lock = std::lock_guard<std::recursive_mutex>;
static thread_local bool is_current = false;
static thread_local int captures_of_thread = 0;
// What ends a capture where it is called.
static int not_while_capturing(Stream* stream = nullptr) {
    if (captures_of_thread == 0 && !(stream && stream->graph)) {
        return SUCCESS;
    }
    for (Stream* other : streams) {
        if (other->graph && (!stream || other == stream || other->is_origin)) {
            other->graph->is_invalid = true;
        }
    }
    return CAPTURE_UNSUPPORTED;
}

#define CHECKED                                                                                     \
    Lock lock(mutex);                                                                               \
    if (!is_current) {                                                                              \
        return INVALID_CONTEXT;                                                                     \
    }
#define KNOWN(set, handle)                                                                          \
    if (!set.count(handle)) {                                                                       \
        return INVALID_HANDLE;                                                                      \
    }
#define NOT_CAPTURED(...)                                                                           \
    if (int status = not_while_capturing(__VA_ARGS__)) {                                            \
        return status;                                                                              \
    }

extern "C" {

int cuInit(unsigned) {
    static std::once_flag once;
    std::call_once(once, [] {
        static char stack[1 << 16];
        stack_t other = {stack, 0, sizeof stack};
        sigaltstack(&other, nullptr);
        struct sigaction action = {};
        action.sa_sigaction = on_fault;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        sigaction(SIGSEGV, &action, nullptr);
        sigaction(SIGBUS, &action, nullptr);
    });
    return SUCCESS;
}
int cuDriverGetVersion(int* version) { *version = 13000; return SUCCESS; }
int cuDeviceGetCount(int* count) { *count = 1; return SUCCESS; }
int cuDeviceGet(int* device, int ordinal) {
    *device = 0;
    return ordinal == 0 ? SUCCESS : INVALID_VALUE;
}
int cuDeviceGetName(char* name, int room, int) {
    snprintf(name, room, "simulated GPU");
    return SUCCESS;
}
int cuDeviceTotalMem_v2(size_t* bytes, int) { *bytes = capacity(); return SUCCESS; }
int cuDeviceGetAttribute(int* value, int attribute, int) {
    const long capability = number("SIMULATED_CAPABILITY", 90);
    switch (attribute) {
    case 75: *value = (int)capability / 10; break;
    case 76: *value = (int)capability % 10; break;
    case 16: *value = 4; break;            // multiprocessors
    case 97: *value = capability == 80 ? 166912 : capability == 90 ? 232448 : 101376; break;
    case 38: *value = 50 << 20; break;     // second level of caches
    case 115: *value = 1; break;           // pools of memory
    default: fprintf(stderr, "simulated GPU: attribute %d\n", attribute); return INVALID_VALUE;
    }
    return SUCCESS;
}
int cuDevicePrimaryCtxRetain(void** context, int) { *context = (void*)1; return SUCCESS; }
int cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
int cuCtxSetCurrent(void* context) { is_current = context != nullptr; return SUCCESS; }
int cuCtxGetCurrent(void** context) {
    *context = is_current ? (void*)1 : nullptr;
    return SUCCESS;
}
int cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    *least = 0;
    *greatest = -5;
    return SUCCESS;
}
int cuCtxSynchronize() {
    CHECKED
    NOT_CAPTURED()
    finish_all();
    return SUCCESS;
}
int cuGetErrorName(int status, const char** text) {
    static thread_local char name[32];
    snprintf(name, sizeof name, "CUDA_ERROR_%d", status);
    *text = status ? name : "CUDA_SUCCESS";
    return SUCCESS;
}
int cuGetErrorString(int status, const char** text) {
    *text = status == OUT_OF_MEMORY ? "out of memory" : "see the driver's documentation";
    return SUCCESS;
}

int cuMemGetInfo_v2(size_t* free, size_t* total) {
    CHECKED
    *free = capacity() - used;
    *total = capacity();
    return SUCCESS;
}
int cuMemAlloc_v2(uintptr_t* address, size_t bytes) {
    CHECKED
    NOT_CAPTURED()
    *address = bytes ? (uintptr_t)take(bytes, false) : 0;
    return bytes == 0 ? INVALID_VALUE : *address ? SUCCESS : OUT_OF_MEMORY;
}
int cuMemFree_v2(uintptr_t address) {
    CHECKED
    NOT_CAPTURED()
    finish_all();
    give_back(address);
    return SUCCESS;
}
int cuMemAllocAsync(uintptr_t* address, size_t bytes, Stream* stream) {
    CHECKED
    KNOWN(streams, stream)
    if (stream->graph) {
        return not_while_capturing(stream);
    }
    if (bytes == 0) {
        return INVALID_VALUE;
    }
    void* taken = take(bytes, false);
    if (!taken) {
        return OUT_OF_MEMORY;
    }
    *address = (uintptr_t)taken;
    // Who writes there before, in another stream, loses what was written.
    return enqueue(stream, "an allocation", [=] { memset(taken, 0xff, bytes); });
}
int cuMemFreeAsync(uintptr_t address, Stream* stream) {
    CHECKED
    KNOWN(streams, stream)
    if (stream->graph) {
        return not_while_capturing(stream);
    }
    return enqueue(stream, "a free", [=] { give_back(address); });
}
int cuMemHostAlloc(void** memory, size_t bytes, unsigned) {
    CHECKED
    NOT_CAPTURED()
    *memory = take(bytes, true);
    return *memory ? SUCCESS : OUT_OF_MEMORY;
}
int cuMemFreeHost(void* memory) {
    CHECKED
    NOT_CAPTURED()
    give_back((uintptr_t)memory);
    return SUCCESS;
}
int cuDeviceGetDefaultMemPool(void** pool, int) { *pool = (void*)2; return SUCCESS; }
int cuMemPoolGetAttribute(void*, int attribute, void* value) {
    Lock lock(mutex);
    // Nothing is kept, so what is reserved is used.
    memset(value, 0, 8);
    if (attribute == 5 || attribute == 7) {
        memcpy(value, &used, 8);
    }
    return SUCCESS;
}
int cuMemPoolSetAttribute(void*, int, void*) { return SUCCESS; }
int cuMemPoolTrimTo(void*, size_t) { return SUCCESS; }

int cuMemcpyHtoDAsync_v2(uintptr_t to, const void* from, size_t bytes, Stream* stream) {
    CHECKED
    KNOWN(streams, stream)
    if (is_pinned(from)) {
        return enqueue(stream, "a copy to the device", [=] {
            expect_device(to, bytes, "a copy writes");
            memcpy((void*)to, from, bytes);
        });
    }
    auto taken = std::make_shared<std::vector<char>>((const char*)from, (const char*)from + bytes);
    return enqueue(stream, "a copy to the device", [=] {
        expect_device(to, bytes, "a copy writes");
        memcpy((void*)to, taken->data(), bytes);
    });
}
int cuMemcpyDtoHAsync_v2(void* to, uintptr_t from, size_t bytes, Stream* stream) {
    CHECKED
    KNOWN(streams, stream)
    auto act = [=] {
        expect_device(from, bytes, "a copy reads");
        memcpy(to, (const void*)from, bytes);
    };
    if (is_pinned(to)) {
        return enqueue(stream, "a copy from the device", act);
    }
    NOT_CAPTURED(stream)
    finish(stream, nullptr);
    act();
    return SUCCESS;
}
int cuMemcpyDtoDAsync_v2(uintptr_t to, uintptr_t from, size_t bytes, Stream* stream) {
    CHECKED
    KNOWN(streams, stream)
    return enqueue(stream, "a copy within the device", [=] {
        expect_device(from, bytes, "a copy reads");
        expect_device(to, bytes, "a copy writes");
        memmove((void*)to, (const void*)from, bytes);
    });
}
int cuMemsetD8Async(uintptr_t to, unsigned char value, size_t bytes, Stream* stream) {
    CHECKED
    KNOWN(streams, stream)
    return enqueue(stream, "a memset", [=] {
        expect_device(to, bytes, "a memset writes");
        memset((void*)to, value, bytes);
    });
}

int cuStreamCreateWithPriority(Stream** stream, unsigned, int) {
    CHECKED
    *stream = new Stream;
    streams.insert(*stream);
    return SUCCESS;
}
int cuStreamCreate(Stream** stream, unsigned flags) {
    return cuStreamCreateWithPriority(stream, flags, 0);
}
int cuStreamDestroy_v2(Stream* stream) {
    CHECKED
    KNOWN(streams, stream)
    if (stream->graph) {
        fail("a stream is destroyed that is being captured");
    }
    // The driver lets its work go on; no event of it may wait for a stream that is not there.
    finish(stream, nullptr);
    streams.erase(stream);
    delete stream;
    return SUCCESS;
}
int cuStreamSynchronize(Stream* stream) {
    CHECKED
    KNOWN(streams, stream)
    NOT_CAPTURED(stream)
    finish(stream, nullptr);
    return SUCCESS;
}
int cuEventCreate(Event** event, unsigned flags) {
    CHECKED
    *event = new Event{(flags & 2) == 0, nullptr};
    events.insert(*event);
    return SUCCESS;
}
int cuEventDestroy_v2(Event* event) {
    CHECKED
    KNOWN(events, event)
    events.erase(event);
    delete event;
    return SUCCESS;
}
int cuEventRecord(Event* event, Stream* stream) {
    CHECKED
    KNOWN(events, event)
    KNOWN(streams, stream)
    auto mark = std::make_shared<Mark>();
    mark->stream = stream;
    event->mark = mark;
    if (stream->graph) {
        mark->graph = stream->graph;
        mark->frontier = stream->frontier;
        return SUCCESS;
    }
    return enqueue(stream, "an event", [=] {
        mark->time = std::chrono::steady_clock::now();
        mark->is_done = true;
    });
}
int cuStreamWaitEvent(Stream* stream, Event* event, unsigned) {
    CHECKED
    KNOWN(streams, stream)
    KNOWN(events, event)
    const auto& mark = event->mark;
    if (!mark) {
        return SUCCESS;
    }
    if (mark->graph) {
        if (stream->graph && stream->graph != mark->graph) {
            return CAPTURE_ISOLATION;
        }
        stream->graph = mark->graph;
        stream->frontier.insert(mark->frontier.begin(), mark->frontier.end());
        return SUCCESS;
    }
    if (stream->graph) {
        stream->graph->is_invalid = true;
        return CAPTURE_ISOLATION;
    }
    if (!mark->is_done) {
        stream->pending.push_back({{"a wait", nullptr}, mark});
    }
    return SUCCESS;
}
int cuEventQuery(Event* event) {
    CHECKED
    KNOWN(events, event)
    NOT_CAPTURED()
    if (event->mark && event->mark->graph) {
        return CAPTURE_UNSUPPORTED;
    }
    // It may be done the next time.
    const bool is_done = !event->mark || event->mark->is_done;
    if (!is_done && chance() % 4 == 0) {
        finish(event->mark->stream, event->mark);
    }
    return is_done ? SUCCESS : NOT_READY;
}
int cuEventSynchronize(Event* event) {
    CHECKED
    KNOWN(events, event)
    NOT_CAPTURED()
    if (event->mark && event->mark->graph) {
        return CAPTURE_UNSUPPORTED;
    }
    if (event->mark && !event->mark->is_done) {
        finish(event->mark->stream, event->mark);
    }
    return SUCCESS;
}
int cuEventElapsedTime(float* milliseconds, Event* from, Event* to) {
    CHECKED
    KNOWN(events, from)
    KNOWN(events, to)
    if (!from->is_timed || !to->is_timed || !from->mark || !to->mark) {
        return INVALID_HANDLE;
    }
    if (!from->mark->is_done || !to->mark->is_done) {
        return NOT_READY;
    }
    const std::chrono::duration<float, std::milli> time = to->mark->time - from->mark->time;
    *milliseconds = time.count();
    return SUCCESS;
}

int cuStreamBeginCapture_v2(Stream* stream, int) {
    CHECKED
    KNOWN(streams, stream)
    if (stream->graph) {
        return CAPTURE_UNSUPPORTED;
    }
    stream->graph = std::make_shared<Graph>();
    stream->frontier.clear();
    stream->is_origin = true;
    ++captures_of_thread;
    return SUCCESS;
}
int cuStreamEndCapture(Stream* stream, Graph** graph) {
    CHECKED
    KNOWN(streams, stream)
    *graph = nullptr;
    if (!stream->graph || !stream->is_origin) {
        return CAPTURE_UNSUPPORTED;
    }
    --captures_of_thread;
    const std::shared_ptr<Graph> captured = stream->graph;
    std::set<size_t> reached = stream->frontier;
    for (size_t at = captured->nodes.size(); at-- > 0;) {
        if (reached.count(at)) {
            reached.insert(captured->nodes[at].after.begin(), captured->nodes[at].after.end());
        }
    }
    const bool is_joined = reached.size() == captured->nodes.size();
    for (Stream* other : streams) {
        if (other->graph == captured) {
            other->graph = nullptr;
            other->frontier.clear();
            other->is_origin = false;
        }
    }
    if (captured->is_invalid || !is_joined) {
        return captured->is_invalid ? CAPTURE_INVALIDATED : CAPTURE_UNJOINED;
    }
    *graph = new Graph(*captured);
    return SUCCESS;
}
int cuGraphInstantiateWithFlags(Graph** made, Graph* graph, uint64_t) {
    CHECKED
    *made = new Graph(*graph);
    return SUCCESS;
}
int cuGraphUpload(Graph*, Stream*) { CHECKED return SUCCESS; }
int cuGraphLaunch(Graph* graph, Stream* stream) {
    CHECKED
    KNOWN(streams, stream)
    NOT_CAPTURED(stream)
    return enqueue(stream, "a graph", [=] {
        std::set<size_t> left;
        for (size_t at = 0; at < graph->nodes.size(); ++at) {
            left.insert(at);
        }
        while (!left.empty()) {
            std::vector<size_t> ready;
            for (size_t at : left) {
                const auto& after = graph->nodes[at].after;
                bool is_ready = true;
                for (size_t earlier : after) {
                    is_ready &= !left.count(earlier);
                }
                if (is_ready) {
                    ready.push_back(at);
                }
            }
            // The last may come first.
            const size_t chosen = is_lazy() ? ready.back() : ready[chance() % ready.size()];
            doing = graph->nodes[chosen].operation.name + " in a graph";
            graph->nodes[chosen].operation.act();
            left.erase(chosen);
        }
    });
}
int cuGraphExecDestroy(Graph* graph) {
    CHECKED
    finish_all();
    delete graph;
    return SUCCESS;
}
int cuGraphDestroy(Graph* graph) { CHECKED delete graph; return SUCCESS; }

// For other libraries, see `products.cpp`.

int simulated_enqueue(Stream* stream, const char* name, void (*act)(void*), void* context) {
    CHECKED
    KNOWN(streams, stream)
    return enqueue(stream, name, [=] { act(context); });
}
void simulated_expect(uintptr_t address, size_t bytes, const char* what) {
    expect_device(address, bytes, what);
}

// Modules are shared libraries, see `compiler.cpp`.

using Invoke = void (*)(void**);
using Run = bool (*)(Invoke, void**, const unsigned*, const unsigned*, unsigned);
struct Module { void* library; };
struct Function {
    std::string name;
    Invoke invoke;
    Run run;
    const unsigned* sizes;
    int shared_bytes;
};

int cuModuleLoadData(Module** module, const void* image) {
    CHECKED
    NOT_CAPTURED()
    const char* bytes = (const char*)image;
    uint64_t sections;
    uint16_t size, count;
    memcpy(&sections, bytes + 40, 8);
    memcpy(&size, bytes + 58, 2);
    memcpy(&count, bytes + 60, 2);
    const int file = memfd_create("kernels", 0);
    const size_t length = sections + (size_t)size * count;
    if (write(file, image, length) != (ssize_t)length) {
        return INVALID_IMAGE;
    }
    const std::string path = "/proc/self/fd/" + std::to_string(file);
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    // Kept open: the loader knows libraries by their path, which must be of this one alone.
    if (!library) {
        fprintf(stderr, "simulated GPU: %s\n", dlerror());
        return INVALID_IMAGE;
    }
    *module = new Module{library};
    return SUCCESS;
}
int cuModuleGetFunction(Function** function, Module* module, const char* name) {
    CHECKED
    const std::string own = name;
    void* invoke = dlsym(module->library, ("simulated_" + own).c_str());
    void* sizes = dlsym(module->library, ("simulated_sizes_" + own).c_str());
    void* run = dlsym(module->library, "simulated_run");
    if (!invoke || !sizes || !run) {
        return NOT_FOUND;
    }
    *function = new Function{own, (Invoke)invoke, (Run)run, (const unsigned*)sizes, 48 << 10};
    return SUCCESS;
}
int cuModuleUnload(Module* module) {
    CHECKED
    finish_all();
    delete module;
    return SUCCESS;
}
int cuFuncGetAttribute(int* value, int attribute, Function*) {
    CHECKED
    *value = attribute == 4 ? 32 : 0;
    return SUCCESS;
}
int cuFuncSetAttribute(Function* function, int attribute, int value) {
    CHECKED
    int most = 0;
    cuDeviceGetAttribute(&most, 97, 0);
    if (attribute != 8 || value > most) {
        return INVALID_VALUE;
    }
    function->shared_bytes = value;
    return SUCCESS;
}
int cuLaunchKernel(Function* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
    unsigned by, unsigned bz, unsigned shared_bytes, Stream* stream, void** parameters, void**) {
    CHECKED
    KNOWN(streams, stream)
    const bool is_line = by == 1 && bz == 1 && bx >= 1 && bx <= 1024;
    const bool fits = gx >= 1 && gy >= 1 && gz >= 1 && gy <= 65535 && gz <= 65535;
    if (!is_line || !fits || (int)shared_bytes > function->shared_bytes) {
        return INVALID_VALUE;
    }
    // Values are copied now.
    std::vector<std::vector<char>> values;
    for (unsigned at = 0; at < function->sizes[0]; ++at) {
        const char* value = (const char*)parameters[at];
        values.emplace_back(value, value + function->sizes[1 + at]);
    }
    return enqueue(stream, function->name, [=]() mutable {
        std::vector<void*> pointers;
        for (auto& value : values) {
            pointers.push_back(value.data());
        }
        const unsigned grid[3] = {gx, gy, gz}, block[3] = {bx, by, bz};
        if (!function->run(function->invoke, pointers.data(), grid, block, shared_bytes)) {
            fail("more than its %u bytes of shared memory were written", shared_bytes);
        }
    });
}

} // extern "C"
