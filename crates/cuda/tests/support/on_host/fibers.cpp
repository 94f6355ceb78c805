// What stands around a kernel to run it on the host: fibers take turns as the threads of a block,
// one block after another, each from one barrier to the next, so that a barrier that is missing
// shows. In every second block the last thread comes first.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <csetjmp>
#include <cstring>
#include <ucontext.h>
#include <vector>

#define __device__
#define __global__ __attribute__((used))
#define __constant__ static const
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __shared__ static

struct Position { unsigned x = 0, y = 0, z = 0; };
static Position threadIdx, blockIdx, blockDim = {1, 1, 1}, gridDim = {1, 1, 1};

struct Copy { void* to; const void* from; bool is_there; };
struct Fiber {
    ucontext_t context;
    jmp_buf place;
    std::vector<char> stack;
    bool is_begun = false, is_done = false;
    std::vector<std::vector<Copy>> groups;
    std::vector<Copy> copies;
};
static std::vector<Fiber> fibers;
static jmp_buf scheduler;
static unsigned current;
alignas(128) static unsigned char shared_memory[256 * 1024];

static void give_way() {
    if (_setjmp(fibers[current].place) == 0) {
        _longjmp(scheduler, 1);
    }
}

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

static void (*kernel_of_fiber)();
static unsigned shared_bytes = sizeof shared_memory;
// A fiber runs the kernel for a block, gives way, and runs it for the next.
static void begin() {
    for (;;) {
        kernel_of_fiber();
        fibers[current].is_done = true;
        give_way();
    }
}
static void resume(Fiber& fiber) {
    if (_setjmp(scheduler) == 0) {
        if (fiber.is_begun) {
            _longjmp(fiber.place, 1);
        }
        fiber.is_begun = true;
        fiber.stack.resize(128 * 1024);
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = fiber.stack.size();
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, begin, 0);
        setcontext(&fiber.context);
    }
}
static void run_block(bool is_reverse) {
    memset(shared_memory, 0xff, shared_bytes);
    for (Fiber& fiber : fibers) {
        fiber.is_done = false;
    }
    for (bool is_done = false; !is_done;) {
        is_done = true;
        for (unsigned turn = 0; turn < blockDim.x; ++turn) {
            current = is_reverse ? blockDim.x - 1 - turn : turn;
            if (!fibers[current].is_done) {
                is_done = false;
                threadIdx.x = current;
                resume(fibers[current]);
            }
        }
    }
}
static void run(void (*kernel)()) {
    kernel_of_fiber = kernel;
    if (fibers.size() != blockDim.x) {
        fibers = std::vector<Fiber>(blockDim.x);
    }
    unsigned block = 0;
    for (blockIdx.z = 0; blockIdx.z < gridDim.z; ++blockIdx.z) {
        for (blockIdx.y = 0; blockIdx.y < gridDim.y; ++blockIdx.y) {
            for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x) {
                run_block(block++ % 2 == 1);
            }
        }
    }
}
