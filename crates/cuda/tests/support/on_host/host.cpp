// What stands around a kernel to run it on the host: fibers take turns as the threads of a block,
// one block after another, each from one barrier to the next, so that a barrier that is missing
// shows. In every second block the last thread comes first. Memory is read from files and written back.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <ucontext.h>
#include <vector>

#define __device__
#define __global__
#define __constant__ static const
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static

struct Position { unsigned x = 0; };
static Position threadIdx, blockIdx, blockDim, gridDim;

struct Copy { void* to; const void* from; bool is_there; };
struct Fiber {
    ucontext_t context;
    std::vector<char> stack;
    bool is_done;
    std::vector<std::vector<Copy>> groups;
    std::vector<Copy> copies;
};
static std::vector<Fiber> fibers;
static ucontext_t scheduler;
static unsigned current;
alignas(128) static unsigned char shared_memory[256 * 1024];

static void give_way() { swapcontext(&fibers[current].context, &scheduler); }

struct Barrier {
    unsigned waiting = 0, generation = 0;
    void wait(unsigned count) {
        const unsigned own = generation;
        if (++waiting == count) {
            waiting = 0;
            ++generation;
            return;
        }
        while (own == generation) {
            give_way();
        }
    }
};
static Barrier of_block, of_warp[32];
static void __syncthreads() { of_block.wait(blockDim.x); }
static void sync_warp() { of_warp[threadIdx.x / 32].wait(32); }

static unsigned __float_as_uint(float x) { unsigned bits; memcpy(&bits, &x, 4); return bits; }
static float __uint_as_float(unsigned bits) { float x; memcpy(&x, &bits, 4); return x; }
static float exchanged[1024];
static float __shfl_xor_sync(unsigned, float x, int distance) {
    exchanged[threadIdx.x] = x;
    sync_warp();
    const float other = exchanged[threadIdx.x ^ distance];
    sync_warp();
    return other;
}

struct Address {
    char* bytes;
    template <class T> operator T*() const { return reinterpret_cast<T*>(bytes); }
};
static std::map<char*, size_t> sizes;
static char* load(const char* path) {
    std::ifstream file(path, std::ios::binary);
    std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    char* memory = (char*)aligned_alloc(256, (bytes.size() + 511) / 256 * 256);
    memcpy(memory, bytes.data(), bytes.size());
    sizes[memory] = bytes.size();
    return memory;
}
static void save(const char* path, char* memory) {
    std::ofstream(path, std::ios::binary).write(memory, sizes[memory]);
}

static void (*kernel_of_fiber)();
static void begin() {
    kernel_of_fiber();
    fibers[current].is_done = true;
    give_way();
}
static void run(void (*kernel)()) {
    kernel_of_fiber = kernel;
    fibers.resize(blockDim.x);
    for (unsigned block = 0; block < gridDim.x; ++block) {
        memset(shared_memory, 0xff, sizeof shared_memory);
        blockIdx.x = block;
        for (Fiber& fiber : fibers) {
            fiber.stack.resize(128 * 1024);
            getcontext(&fiber.context);
            fiber.context.uc_stack.ss_sp = fiber.stack.data();
            fiber.context.uc_stack.ss_size = fiber.stack.size();
            fiber.context.uc_link = nullptr;
            fiber.is_done = false;
            makecontext(&fiber.context, begin, 0);
        }
        for (bool is_done = false; !is_done;) {
            is_done = true;
            for (unsigned turn = 0; turn < blockDim.x; ++turn) {
                current = block % 2 == 0 ? turn : blockDim.x - 1 - turn;
                if (!fibers[current].is_done) {
                    is_done = false;
                    threadIdx.x = current;
                    swapcontext(&scheduler, &fibers[current].context);
                }
            }
        }
    }
}
