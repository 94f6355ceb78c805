// What stands around a generated kernel to run it on the host: a thread for each of a block, one
// block after another. Memory is read from files and written back.

#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <thread>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(threads)
#define __shared__ static

struct Position { unsigned x = 0; };
static thread_local Position threadIdx, blockIdx;
static Position blockDim, gridDim;
static std::barrier<>* all_threads;
static float exchanged[1024];

static unsigned __float_as_uint(float x) { unsigned bits; memcpy(&bits, &x, 4); return bits; }
static float __uint_as_float(unsigned bits) { float x; memcpy(&x, &bits, 4); return x; }
static void __syncthreads() { all_threads->arrive_and_wait(); }
static float __shfl_xor_sync(unsigned, float x, int distance) {
    exchanged[threadIdx.x] = x;
    all_threads->arrive_and_wait();
    float other = exchanged[threadIdx.x ^ distance];
    all_threads->arrive_and_wait();
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
template <class Kernel> static void run(Kernel kernel) {
    for (unsigned block = 0; block < gridDim.x; ++block) {
        std::barrier<> barrier(blockDim.x);
        all_threads = &barrier;
        std::vector<std::thread> threads;
        for (unsigned number = 0; number < blockDim.x; ++number) {
            threads.emplace_back([&, number] {
                threadIdx.x = number;
                blockIdx.x = block;
                kernel();
            });
        }
        for (std::thread& thread : threads) {
            thread.join();
        }
    }
}
