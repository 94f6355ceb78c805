// Operations element by element. All compute in f32 and round once.

// Buffers are aligned, so the packs are; what is left over at the end goes one by one.
template <class In, class Out>
__device__ __forceinline__ void cast(const In* input, Out* output, u64 count) {
    const u64 packs = count / 8;
    const Pack<In, 8>* input_packs = reinterpret_cast<const Pack<In, 8>*>(input);
    Pack<Out, 8>* output_packs = reinterpret_cast<Pack<Out, 8>*>(output);
    for (u64 index = thread_index(); index < packs; index += thread_count()) {
        Pack<In, 8> in = input_packs[index];
        Pack<Out, 8> out;
#pragma unroll
        for (int lane = 0; lane < 8; ++lane) {
            out.values[lane] = Round<Out>::of(widen(in.values[lane]));
        }
        output_packs[index] = out;
    }
    for (u64 index = packs * 8 + thread_index(); index < count; index += thread_count()) {
        output[index] = Round<Out>::of(widen(input[index]));
    }
}

// The numbers are those of `UnaryKernel` in Rust.
__device__ __forceinline__ float unary_value(u32 op, float x, float low, float high) {
    switch (op) {
        case 0: return -x;
        case 1: return fabsf(x);
        case 2: return sqrtf(x);
        case 3: return 1.0f / sqrtf(x);
        case 4: return 1.0f / x;
        // Limits, which NaN passes.
        default: return x < low ? low : (x > high ? high : x);
    }
}

template <class T>
__device__ __forceinline__ void unary(
    u32 op, float low, float high, const T* input, T* output, u64 count
) {
    for (u64 index = thread_index(); index < count; index += thread_count()) {
        output[index] = Round<T>::of(unary_value(op, widen(input[index]), low, high));
    }
}

// The numbers are those of `BinaryKernel` in Rust. NaN wins in `max` and `min`.
__device__ __forceinline__ float binary_value(u32 op, float a, float b) {
    switch (op) {
        case 0: return a + b;
        case 1: return a - b;
        case 2: return a * b;
        case 3: return a / b;
        case 4: return a != a || a > b ? a : b;
        default: return a != a || a < b ? a : b;
    }
}

// Operands of the result's shape (step 1) or of one element (step 0).
template <class T>
__device__ __forceinline__ void binary(
    u32 op, const T* a, const T* b, T* output, u64 count, u64 a_step, u64 b_step
) {
    for (u64 index = thread_index(); index < count; index += thread_count()) {
        float left = widen(a[index * a_step]), right = widen(b[index * b_step]);
        output[index] = Round<T>::of(binary_value(op, left, right));
    }
}

// `Strides` of Rust: up to six axes, the outermost first.
struct Strides {
    u64 first[6];
    u64 second[6];
    u32 sizes[6];
    u32 rank;
    u32 padding;
};

// Operands that are repeated along some axes: a stride there is 0. The result is row-major
// and has less than 2^32 elements.
template <class T>
__device__ __forceinline__ void binary_repeated(
    u32 op, const T* a, const T* b, T* output, u64 count, const Strides& strides
) {
    for (u64 index = thread_index(); index < count; index += thread_count()) {
        u32 rest = (u32)index;
        u64 a_index = 0, b_index = 0;
        for (int axis = (int)strides.rank - 1; axis >= 0; --axis) {
            u32 position = rest % strides.sizes[axis];
            rest /= strides.sizes[axis];
            a_index += position * strides.first[axis];
            b_index += position * strides.second[axis];
        }
        output[index] = Round<T>::of(binary_value(op, widen(a[a_index]), widen(b[b_index])));
    }
}

#define CAST(In, Out)                                                                       \
    extern "C" __global__ void cast_##In##_##Out(const In* input, Out* output, u64 count) { \
        cast<In, Out>(input, output, count);                                                \
    }
#define CASTS(In) CAST(In, f32) CAST(In, f16) CAST(In, bf16) CAST(In, f8e4m3)

#define ELEMENTWISE(T)                                                                      \
    extern "C" __global__ void unary_##T(                                                   \
        u32 op, float low, float high, const T* input, T* output, u64 count                 \
    ) {                                                                                     \
        unary<T>(op, low, high, input, output, count);                                      \
    }                                                                                       \
    extern "C" __global__ void binary_##T(                                                  \
        u32 op, const T* a, const T* b, T* output, u64 count, u64 a_step, u64 b_step        \
    ) {                                                                                     \
        binary<T>(op, a, b, output, count, a_step, b_step);                                 \
    }                                                                                       \
    extern "C" __global__ void binary_repeated_##T(                                         \
        u32 op, const T* a, const T* b, T* output, u64 count, const __grid_constant__ Strides strides         \
    ) {                                                                                     \
        binary_repeated<T>(op, a, b, output, count, strides);                               \
    }

typedef float f32;
CASTS(f32)
CASTS(f16)
CASTS(bf16)
CASTS(f8e4m3)
ELEMENTWISE(f32)
ELEMENTWISE(f16)
ELEMENTWISE(bf16)
ELEMENTWISE(f8e4m3)
