// Sums, means and maxima of `[outer, reduced, inner]` over the middle axis, in two passes:
// parts of the reduced axis to f32 partial results, then these to the result. Each sum has the
// same order at every run.

// The numbers are those of `ReduceKernel` in Rust: 0 and 1 are sums, 2 is the maximum.
__device__ __forceinline__ float reduce_start(u32 op) {
    return op == 2 ? __uint_as_float(0xff800000u) : 0.0f;
}

__device__ __forceinline__ float reduce_join(u32 op, float a, float b) {
    if (op == 2) {
        return a != a || a > b ? a : b;
    }
    return a + b;
}

__device__ __forceinline__ void part_of(u32 reduced, u32 parts, u32 part, u32& start, u32& end) {
    u32 length = (reduced + parts - 1) / parts;
    start = part * length < reduced ? part * length : reduced;
    end = reduced - start < length ? reduced : start + length;
}

// Inner size 1. A block of 256 threads for each row (x) and part (y).
template <class T>
__device__ __forceinline__ void reduce_rows(u32 op, const T* input, float* partial, u32 reduced) {
    __shared__ float shared[256];
    u32 start, end;
    part_of(reduced, gridDim.y, blockIdx.y, start, end);
    const T* row = input + (u64)blockIdx.x * reduced;
    float value = reduce_start(op);
    for (u64 index = (u64)start + threadIdx.x; index < end; index += 256) {
        value = reduce_join(op, value, widen(row[index]));
    }
    shared[threadIdx.x] = value;
    __syncthreads();
    for (u32 width = 128; width > 0; width /= 2) {
        if (threadIdx.x < width) {
            shared[threadIdx.x] =
                reduce_join(op, shared[threadIdx.x], shared[threadIdx.x + width]);
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        partial[(u64)blockIdx.y * gridDim.x + blockIdx.x] = shared[0];
    }
}

// A thread for each inner position (x), for each part (y) and outer position (z).
template <class T>
__device__ __forceinline__ void reduce_columns(
    u32 op, const T* input, float* partial, u32 reduced, u32 inner
) {
    const u64 column = thread_index();
    if (column >= inner) {
        return;
    }
    u32 start, end;
    part_of(reduced, gridDim.y, blockIdx.y, start, end);
    const T* first = input + (u64)blockIdx.z * reduced * inner + column;
    float value = reduce_start(op);
    for (u32 index = start; index < end; ++index) {
        value = reduce_join(op, value, widen(first[(u64)index * inner]));
    }
    partial[((u64)blockIdx.y * gridDim.z + blockIdx.z) * inner + column] = value;
}

template <class T>
__device__ __forceinline__ void reduce_parts(
    u32 op, const float* partial, T* output, u64 count, u32 parts, float divisor
) {
    for (u64 index = thread_index(); index < count; index += thread_count()) {
        float value = reduce_start(op);
        for (u32 part = 0; part < parts; ++part) {
            value = reduce_join(op, value, partial[part * count + index]);
        }
        output[index] = Round<T>::of(value / divisor);
    }
}

#define REDUCE(T)                                                                           \
    extern "C" __global__ void reduce_rows_##T(                                             \
        u32 op, const T* input, float* partial, u32 reduced                                 \
    ) {                                                                                     \
        reduce_rows<T>(op, input, partial, reduced);                                        \
    }                                                                                       \
    extern "C" __global__ void reduce_columns_##T(                                          \
        u32 op, const T* input, float* partial, u32 reduced, u32 inner                      \
    ) {                                                                                     \
        reduce_columns<T>(op, input, partial, reduced, inner);                              \
    }                                                                                       \
    extern "C" __global__ void reduce_parts_##T(                                            \
        u32 op, const float* partial, T* output, u64 count, u32 parts, float divisor        \
    ) {                                                                                     \
        reduce_parts<T>(op, partial, output, count, parts, divisor);                        \
    }

REDUCE(f32)
REDUCE(f16)
REDUCE(bf16)
REDUCE(f8e4m3)
