// What generated kernels call. The text stands after the element types of the crate `device`.

typedef float f32;
typedef long long i64;
typedef int i32;

__device__ __forceinline__ float silu(float x) { return x / (1.0f + expf(-x)); }
__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ __forceinline__ float gelu_erf(float x) {
    return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
}
__device__ __forceinline__ float gelu_tanh(float x) {
    return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
}
__device__ __forceinline__ float gelu_quick(float x) { return x / (1.0f + expf(-1.702f * x)); }

// NaN wins.
template <class T> __device__ __forceinline__ T greater(T a, T b) {
    return a != a || a > b ? a : b;
}
template <class T> __device__ __forceinline__ T lesser(T a, T b) {
    return a != a || a < b ? a : b;
}

// Limits, which NaN passes.
__device__ __forceinline__ float limit(float x, float low, float high) {
    return x < low ? low : (x > high ? high : x);
}

// Towards zero, NaN to 0; the conversions of the GPU saturate.
__device__ __forceinline__ i64 whole(float x) { return x != x ? 0 : (i64)x; }
__device__ __forceinline__ i64 between(i64 x, i64 low, i64 high) {
    return x < low ? low : (x > high ? high : x);
}

// Towards zero; 0 where there is no quotient.
__device__ __forceinline__ i64 quotient(i64 a, i64 b) {
    return b == 0 ? 0 : (b == -1 ? (i64)(0ull - (u64)a) : a / b);
}
__device__ __forceinline__ i64 power(i64 base, i64 exponent) {
    u64 result = 1, factor = (u64)base;
    for (u64 rest = exponent < 0 ? 0 : (u64)exponent; rest != 0; rest >>= 1) {
        result *= rest & 1 ? factor : 1;
        factor *= factor;
    }
    return (i64)result;
}

struct Sum {
    static __device__ __forceinline__ float of(float a, float b) { return a + b; }
};
struct Greatest {
    static __device__ __forceinline__ float of(float a, float b) { return greater(a, b); }
};

// One value of all `Threads` of a row, the same in each of them. Up to 32 lie in one warp; more
// are the whole block, in warps that are full.
template <class Op, int Threads> __device__ __forceinline__ float of_row(float x) {
#pragma unroll
    for (int distance = (Threads < 32 ? Threads : 32) / 2; distance > 0; distance /= 2) {
        x = Op::of(x, __shfl_xor_sync(0xffffffffu, x, distance));
    }
    if (Threads > 32) {
        __shared__ float parts[32];
        __syncthreads();
        if (threadIdx.x % 32 == 0) {
            parts[threadIdx.x / 32] = x;
        }
        __syncthreads();
        x = parts[0];
#pragma unroll
        for (int warp = 1; warp < Threads / 32; ++warp) {
            x = Op::of(x, parts[warp]);
        }
    }
    return x;
}

